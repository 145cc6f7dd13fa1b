"""Exceptions of signal handlers, which Python raises in the midst of anything."""

from __future__ import annotations

import functools
import signal
from types import CodeType
from typing import Any

__all__ = ["is_from_handler"]

DEEPEST = 16  # of wrappers within wrappers


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised it, and not what was called.

    Of a handler without Python code nobody can tell: then it is taken for its own.
    """
    codes = _codes()
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
        if trace.tb_frame.f_code in codes:
            return True
    return None in codes


def _codes() -> set[CodeType | None]:
    """Code of all handlers in Python; None stands for one of C."""
    found = set()
    for signo in signal.valid_signals():
        handler = signal.getsignal(signo)
        if callable(handler) and handler is not signal.default_int_handler:
            found.add(_code(handler))
    return found


def _code(called: Any) -> CodeType | None:
    """The code that a call of it runs, whatever it is wrapped in."""
    for _ in range(DEEPEST):
        code = getattr(called, "__code__", None)  # of a method, its function's
        if isinstance(code, CodeType):
            return code
        inner = (
            called.func
            if isinstance(called, functools.partial)
            else getattr(called, "__wrapped__", None) or getattr(called, "__func__", None)
        )
        called = type(called).__call__ if inner is None else inner
    return None
