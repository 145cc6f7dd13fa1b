"""Children that were forked when the store had no place for them: how both engines say that.

What such a child inherited is kept for it, in its parent's place, which is there until both are
gone. Nobody can tell when the child ends.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Final

from refstore._errors import RefstoreWarning

__all__ = [
    "BUSY",
    "NO_DESCRIPTOR",
    "NO_GIL",
    "NO_MEMORY",
    "has_ended",
    "holder",
    "keeper",
    "no_row",
    "warn",
    "warning",
]

NO_DESCRIPTOR: Final = (
    "no descriptor was left to open it once more: raise `ulimit -n`, and leave the store's open"
)
NO_MEMORY: Final = "the file system had no memory left for the child's pins: free some"
BUSY: Final = "it was in the middle of a change for too long"
NO_GIL: Final = "a thread without a Python thread state forked: fork from a Python thread"


def no_row(rows: int) -> str:
    """Why there was no place: of so many."""
    return (
        f"all {rows} places in its process table are taken: let processes that no longer need it "
        "close it"
    )


def warn(path: str, why: str) -> None:
    """Tell the parent, at the line that forked."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_between(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(warning(path, why), RefstoreWarning, stacklevel=level)


def _is_between(module: str) -> bool:
    """Whether a frame of that module is not a program's: a hook of the fork, or multiprocessing."""
    package = module.partition(".")[0]
    return package == __package__ or package in sys.stdlib_module_names


def warning(path: str, why: str) -> str:
    """Builds the warning to the parent. `why`: one of the above, with what to do."""
    return (
        f"a child was forked that has no place in store {path!r} ({why}). It can read the views "
        "that it inherited, and use the store only by opening it anew; all that this process held "
        "at the fork is kept until this process has ended or has closed the store, and all such "
        "children have ended. Release before you fork what no child needs, or start children by "
        "spawn or forkserver"
    )


def has_ended(pid: int) -> bool:
    """Whether there is no such process; False if nobody can tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except FileNotFoundError:
        return pid != 0 and os.path.exists("/proc/self/stat")
    except OSError:
        return False


def holder(command: str, kept: bool, ended: bool) -> str:
    """Describes a process that holds an object: its command, and for whom it holds it."""
    if ended:
        return f"{command} (has ended; kept for children)"
    return f"{command} (kept for children)" if kept else command


def keeper(command: str, ended: bool) -> str:
    """The same of all that a process holds, within a sentence."""
    if not ended:
        return command
    return (
        f"{command}; it has ended, and a child of it that has no place in the store keeps this "
        "until it ends, too"
    )
