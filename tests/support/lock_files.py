"""The lock files of the filelock engine, and processes stopped while they have none of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import helpers
from children import ChildProcess


def folder(path: str | Path) -> Path:
    """The folder with the locks of the store at `path`."""
    file = Path(path)
    (found,) = file.parent.glob(f"{file.name}.*.locks")
    return found


def is_locked(path: str | Path) -> bool:
    """Whether somebody, this process too, is in the middle of a change to the store at `path`."""
    try:
        fd = os.open(folder(path) / "change.lock", os.O_RDWR)
    except (FileNotFoundError, ValueError):  # it is gone, or the engine is the native one
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def stopped(child: ChildProcess, path: str | Path) -> Iterator[None]:
    """A process that uses the store at `path`, stopped, but not in the middle of a change to it:
    one that waits looks again and again, and has the lock while it looks."""
    helpers.stop(child.pid)
    while is_locked(path):
        os.kill(child.pid, signal.SIGCONT)
        helpers.stop(child.pid)
    try:
        yield
    finally:
        os.kill(child.pid, signal.SIGCONT)
