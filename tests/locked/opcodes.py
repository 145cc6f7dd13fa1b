"""Every bytecode of the filelock engine is a failpoint: a trace function can end or stop it there.

What is not reached is the inside of a single call into C, such as a copy of a payload; the soak of
`stress/crash.py --backend filelock` kills there too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import filelock

import refstore

OURS = tuple(f"{Path(str(module.__file__)).parent}/" for module in (refstore, filelock))

Step = Callable[[int], object]  # is told how many bytecodes have been reached


@contextlib.contextmanager
def each(step: Step) -> Iterator[None]:
    """Call `step` before each bytecode of refstore and of filelock that this thread runs."""
    reached = 0

    def on_opcode(frame: FrameType, event: str, _: object) -> Any:
        nonlocal reached
        if event == "opcode":
            reached += 1
            step(reached)
        return on_opcode

    def on_call(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return on_opcode

    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(None)


def lock_folder(path: str | Path) -> Path:
    """The folder with the locks of the store at `path`."""
    file = Path(path)
    (folder,) = file.parent.glob(f"{file.name}.*.locks")
    return folder


def is_locked(path: str | Path) -> bool:
    """Whether somebody, this process too, is in the middle of a change to the store at `path`."""
    try:
        fd = os.open(lock_folder(path) / "change.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
