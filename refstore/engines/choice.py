"""Choosing the engine of a store: the one asked for, the one its file belongs to, or the best.

An engine is a module: `refstore._core`, compiled, or `refstore.engines.filelock.engine`, in Python
over file locks.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from types import FrameType
from typing import cast

from refstore._errors import RefstoreError, RefstoreWarning
from refstore._header import BACKENDS, owner_of
from refstore.engines.interface import Module

_MODULES: dict[str, str] = {
    "native": "refstore._core",
    "filelock": "refstore.engines.filelock.engine",
}


def check_backend(backend: str) -> str:
    """`backend`, or what the environment says in place of "auto"; ValueError if it is none."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is {backend!r}: it is 'auto', 'native' or 'filelock'")
    chosen = os.environ.get("REFSTORE_BACKEND") or "auto"
    if chosen not in ("auto", *BACKENDS):
        raise ValueError(f"REFSTORE_BACKEND is {chosen!r}: it is 'auto', 'native' or 'filelock'")
    return chosen if backend == "auto" else backend


def choose(backend: str, path: str) -> Module:
    """The engine for the store at `path`: the one asked for, its owner, or the best there is."""
    backend = check_backend(backend)
    if backend == "auto":
        backend = owner_of(path) or _best_for(path)
    return load(backend)


def default() -> Module:
    """The default engine, for subclasses whose path is not known yet."""
    backend = check_backend("auto")
    return load(_best() if backend == "auto" else backend)


def load(backend: str) -> Module:
    """The module of an engine. RefstoreError if it is not there."""
    try:
        return _imported(backend)
    except ImportError as error:
        raise RefstoreError(
            f"the {backend} engine is needed and is not there ({error}): {_how_to_get(error)}"
        ) from error


def why_no_core() -> str | None:
    """Why the native engine is not there, and what to do; None if it is."""
    try:
        _imported("native")
    except ImportError as error:
        return f"the compiled core is not there ({error}): {_how_to_get(error)}"
    return None


def _how_to_get(error: ImportError) -> str:
    """Advice about a module of an engine that could not be imported."""
    if error.name not in (None, _MODULES["native"]):
        return "install what it names"
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.exists(os.path.join(package, "_core.pyx")):
        python = ".".join(map(str, sys.version_info[:2]))
        return (
            f"this is refstore's source tree, where the core is not built for Python {python}: run "
            f"`pip install .` in {os.path.dirname(package)}, or start Python in another directory"
        )
    if not sys.platform.startswith("linux"):
        return "it is for Linux"
    if not isinstance(error, ModuleNotFoundError):  # it is there, and does not load
        return "install refstore again with this Python and this numpy"
    return "install the wheel for this platform, or a C compiler and refstore again"


def _best() -> str:
    why = why_no_core()
    if why is not None:
        _warn(why)
        return "filelock"
    return "native"


def _best_for(path: str) -> str:
    best, folder = _best(), os.path.dirname(path)
    if best == "native" and not os.path.lexists(path):
        obstacle = _imported("native").unsupported_reason(folder)
        if obstacle is not None:
            _warn(f"{folder} cannot hold a store of the native engine: {obstacle}")
            return "filelock"
    return best


@functools.cache  # once for each reason
def _warn(why: str) -> None:
    warnings.warn(
        f"{why}; refstore works through file locks there, which is slower "
        "(pass backend='filelock' to silence this)",
        RefstoreWarning,
        stacklevel=_caller(),
    )


def _caller() -> int:
    """The distance to the first frame that is not of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__package__")).partition(".")[0] == "refstore"


def _imported(backend: str) -> Module:
    return cast(Module, importlib.import_module(_MODULES[backend]))
