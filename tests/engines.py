"""Both engines, the tests that run on both, and the few things that only the native one can do.

A test runs once on each engine. The fixture `engine` says which by `REFSTORE_BACKEND`, which every
store that is made by `backend="auto"` follows: the test's own, its children's, the command's. A
test runs on one engine if it is marked

    storeless            it opens no store
    native("why")        it looks into the native engine: at bytes of its file, at its locks
    filelock("why")      the same for the other one

or if it stands in NATIVE_ALONE: what API.md promises, and only the native engine can do.
"""

from __future__ import annotations

import importlib.util
import os

ENGINES = ("native", "filelock")
VARIABLE = "REFSTORE_BACKEND"

NATIVE_ALONE = {
    "test_a_fork_by_a_c_library_is_a_fork": "a fork behind Python's back runs no hook of Python's",
}

OF_BOTH = ("unit", "multiprocess")  # folders of tests that speak the public API
OF_FILELOCK = ("locked",)

HAS_CORE = importlib.util.find_spec("refstore._core") is not None


def is_debug() -> bool:
    """Whether the core is a build that looks for faults in itself, and has its hands full."""
    if not HAS_CORE:
        return False
    from refstore import _core

    return bool(_core.DEBUG)


def available() -> tuple[str, ...]:
    """The engines that tests run on here."""
    if not HAS_CORE:
        return ("filelock",)
    # What a debug build of the core adds says nothing of an engine in Python.
    return ("native",) if is_debug() else ENGINES


def of_folder(name: str) -> tuple[str, ...]:
    """The engines that tests in that folder are for, if they do not say it themselves."""
    if name in OF_BOTH:
        return ENGINES
    return ("filelock",) if name in OF_FILELOCK else ("native",)


def current() -> str:
    """The engine of the test that is running."""
    return os.environ[VARIABLE]


def rounds(count: int, part: int = 5) -> int:
    """How often a long test does something: on the slower engine so many times less."""
    return count if current() == "native" else max(1, count // part)
