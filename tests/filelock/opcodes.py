"""Every bytecode of the filelock engine is a failpoint: a step can end, stop or interrupt it there.

What is not reached is the inside of a single call into C, such as a copy of a payload; the soak of
`stress/crash.py --backend filelock` kills there too.
"""

from __future__ import annotations

import contextlib
import dis
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import filelock

import refstore

PACKAGE = f"{Path(str(refstore.__file__)).parent}/"
OURS = (PACKAGE, f"{Path(str(filelock.__file__)).parent}/")

Step = Callable[[int], object]  # is told how many have been reached; what it raises comes up there


@contextlib.contextmanager
def each(step: Step, *, lines: bool = False) -> Iterator[None]:
    """Call `step` before each bytecode of refstore and of filelock that this thread runs.

    `lines`: before each line of refstore, but where a `with` ends: Python runs no signal handler
    between the last call of its body and that of `__exit__`, which would be left out.
    """
    if sys.version_info >= (3, 12):
        with _by_monitoring(step, lines):
            yield
    else:
        with _by_tracing(step, lines):
            yield


def stop() -> None:
    """Nothing is followed any more, in this process and in children that it forks."""
    if sys.version_info < (3, 12):
        sys.settrace(None)
    elif sys.monitoring.get_tool(_TOOL) is not None:
        sys.monitoring.set_events(_TOOL, 0)
        while _followed:
            sys.monitoring.set_local_events(_TOOL, _followed.pop(), 0)
        sys.monitoring.free_tool_id(_TOOL)


def _is_followed(code: CodeType, lines: bool) -> bool:
    return code.co_filename.startswith(PACKAGE if lines else OURS)


def _ends_a_with(frame: FrameType) -> bool:
    name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    if name not in ("PUSH_EXC_INFO", "WITH_EXCEPT_START", "LOAD_CONST", "POP_BLOCK"):
        return False
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ")


@contextlib.contextmanager
def _by_tracing(step: Step, lines: bool) -> Iterator[None]:
    reached = 0
    wanted = "line" if lines else "opcode"

    def on_event(frame: FrameType, event: str, _: object) -> Any:
        nonlocal reached
        if event == wanted and not (lines and _ends_a_with(frame)):
            reached += 1
            step(reached)
        return on_event

    def on_call(frame: FrameType, event: str, _: object) -> Any:
        if not _is_followed(frame.f_code, lines):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = lines, not lines
        return on_event

    sys.settrace(on_call)
    try:
        yield
    finally:
        stop()


if sys.version_info >= (3, 12):
    _TOOL = 4  # nobody's
    _followed: set[CodeType] = set()

    @contextlib.contextmanager
    def _by_monitoring(step: Step, lines: bool) -> Iterator[None]:
        # a trace function sees only some of the bytecodes there
        monitoring, events = sys.monitoring, sys.monitoring.events
        wanted = events.LINE if lines else events.INSTRUCTION
        thread, reached = threading.get_ident(), 0

        def on_start(code: CodeType, _: int) -> Any:
            if _is_followed(code, lines):
                _followed.add(code)
                monitoring.set_local_events(_TOOL, code, wanted)
            return monitoring.DISABLE

        def on_event(code: CodeType, _: int) -> Any:
            nonlocal reached
            if threading.get_ident() == thread and not (lines and _ends_a_with(sys._getframe(1))):
                reached += 1
                step(reached)

        monitoring.use_tool_id(_TOOL, "refstore's tests")
        monitoring.register_callback(_TOOL, events.PY_START, on_start)
        monitoring.register_callback(_TOOL, wanted, on_event)
        monitoring.restart_events()
        monitoring.set_events(_TOOL, events.PY_START)
        try:
            yield
        finally:
            stop()
