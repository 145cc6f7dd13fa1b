"""Both engines, the tests that run on both, and the few things that only the native one can do.

A test runs once on each engine. The fixture `engine` says which by `REFSTORE_BACKEND`, which every
store that is made by `backend="auto"` follows: the test's own, its children's, the command's. A
test runs on one engine if it is marked

    native("why")        it looks into the native engine: at bytes of its file, at its locks
    filelock("why")      the same for the other one

or if it stands in NATIVE_ALONE: what docs/api.md promises, and only the native engine can do; or in
a folder that is of one engine alone. It runs once, on no engine of the fixture's, if it stands in
tests/unit, whose tests open no store, or is marked

    once("why")          it opens no store, or says itself which engine each store is of
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ENGINES = ("native", "filelock")
VARIABLE = "REFSTORE_BACKEND"

NATIVE_ALONE = {
    "test_a_fork_by_a_c_library_is_a_fork": "a fork behind Python's back runs no hook of Python's",
}

# Without the core, before Python 3.12, buffers are exported by a class that cannot tell who looks:
# see refstore/engines/filelock/buffer_protocol.py.
WRITERS = "a Writer's block is pinned until the Writer is collected, since somebody may look"
FORWARDED = {
    "test_a_block_being_written_is_used_but_no_object": WRITERS,
    "test_a_child_without_a_row_is_refused_everything": WRITERS,
    "test_a_sealed_writer_without_views_pins_nothing": WRITERS,
    "test_a_writer_holds_a_slot": WRITERS,
    "test_abort_gives_the_room_back": WRITERS,
    "test_room_by_bytes_is_written_and_sealed": WRITERS,
    "test_a_longer_view_stays_valid_until_the_seal": "a truncated Writer exports nothing",
    "test_a_longer_view_that_outlives_the_seal_reads_no_other_object": WRITERS,
    "test_it_leaves_no_view_behind": WRITERS,
    "test_the_rest_comes_back_at_once": WRITERS,
    "test_what_was_aborted_and_is_viewed_never_was_an_object": WRITERS,
    "test_what_is_being_written_has_no_ref_yet": WRITERS,
    "test_what_a_file_does_not_use_comes_back": WRITERS,
    "test_what_is_closed_keeps_nothing_mapped": WRITERS,
    "test_an_aborted_writer_refuses_use": "the sentence is Python's own",
    "test_a_view_for_which_no_shape_is_asked_has_one_dimension": "numpy says 0",
    "test_axes_of_stride_0_are_stored_once": "bytes(buf) has them, other requests get none",
    "test_plain_bytes_are_in_storage_order": "bytes(buf) has them, other requests get none",
}

# Folders of tests by the engines that these are for; a folder in one of them goes with it.
OF_FOLDERS: dict[str, tuple[str, ...]] = {
    "unit": (),
    "api": ENGINES,
    "processes": ENGINES,
    "integrations": ENGINES,
    "project": ENGINES,
    "typing": ENGINES,
    "native": ("native",),
    "filelock": ("filelock",),
    "fuzz": ("native",),
}

# Folders whose tests a debug build cannot change, since they pass no failpoint of it: Python by
# itself, the other engine, texts, models, and what is started among the sources, where the release
# build is. What runs on that one says all there is to say.
SAME_ON_DEBUG = ("unit", "project", "filelock", "native/model", "native/mutants")

HAS_CORE = importlib.util.find_spec("refstore._core") is not None


def exports_by_itself() -> bool:
    """Whether buffers are exported by a class that is asked for each view."""
    return HAS_CORE or sys.version_info >= (3, 12)


def missing_here(test: str) -> str | None:
    """Why a test that is for this engine cannot be here."""
    if exports_by_itself():
        return None
    return FORWARDED.get(test)


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


def is_said_by_release(folder: Path) -> bool:
    """Whether this is a debug build, on which tests in that folder have nothing new to say."""
    return is_debug() and any(folder.is_relative_to(TESTS / name) for name in SAME_ON_DEBUG)


def of_folder(folder: Path) -> tuple[str, ...]:
    """The engines that tests in that folder are for, if they do not say it themselves."""
    return OF_FOLDERS[folder.relative_to(TESTS).parts[0]]


def current() -> str:
    """The engine of the test that is running."""
    return os.environ[VARIABLE]


def rounds(count: int, part: int = 5) -> int:
    """How often a long test does something: on the slower engine so many times less."""
    return count if current() == "native" else max(1, count // part)
