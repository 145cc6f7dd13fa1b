"""Exceptions of signal handlers, which Python raises in the midst of anything."""

from __future__ import annotations

import signal
from types import CodeType

__all__ = ["is_from_handler"]


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised it, and not what was called."""
    trace = error.__traceback__
    codes = None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
        codes = _codes() if codes is None else codes
        if trace.tb_frame.f_code in codes:
            return True
    return False


def _codes() -> set[CodeType]:
    """Those of all handlers in Python."""
    found = set()
    for signo in signal.valid_signals():
        handler = signal.getsignal(signo)
        for called in (handler, type(handler).__call__ if callable(handler) else None):
            code = getattr(called, "__code__", None)  # of a method, its function's
            if isinstance(code, CodeType):
                found.add(code)
    return found
