"""One process's life. Python may run in any call: handlers of signals, finalizers, `__reduce__`.

What runs there may fork, and then two processes go on in the middle of one call. It is the parent's
to end. The child finds that its life is another one, and may not write, publish, give back or free
anything for that call: it gets a `RefstoreError`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from refstore import _messages
from refstore._errors import RefstoreError


class Life:
    """One process, from the fork that began it to its end."""

    __slots__ = ("forks", "pid")

    def __init__(self) -> None:
        self.forks = 0
        self.pid = os.getpid()

    def is_ours(self) -> bool:
        """Whether this is that process: not a child, not even one forked behind Python's back."""
        return self is _here and self.pid == os.getpid()

    def require_ours(self, path: str) -> None:
        """RefstoreError in a child that was forked during a call on the store at `path`."""
        if not self.is_ours():
            raise RefstoreError(_messages.forked_amid(path))


_here = Life()


def here() -> Life:
    """The life that we are in."""
    if _here.pid != os.getpid():  # a fork behind Python's back
        _begin()
    return _here


def is_from_here(error: BaseException) -> bool:
    """Whether this package or filelock raised it, and not a signal handler that came meanwhile."""
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "")
    return str(name).partition(".")[0] in ("refstore", "filelock")


# --- what signal handlers raise

# That came up in finalizers, where Python drops them, or after a point of no return.
_interrupts: list[BaseException] = []


def raise_interrupt() -> None:
    """Ctrl-C, or what else a signal handler raised where it could not come out. Handlers run in the
    main thread, and so does this."""
    if _interrupts and threading.current_thread() is threading.main_thread():
        raise _interrupts.pop()


def postpone(error: BaseException) -> bool:
    """Let it come out of the next call, if a signal handler raised it; whether one did."""
    if isinstance(error, Exception) and is_from_here(error):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    _interrupts.append(error)
    return True


def finalize(work: Callable[[], None], is_finalizing: Callable[[], bool]) -> None:
    """Runs a finalizer's work, which is idempotent: again, if a signal handler raised amid it,
    since no later call does it. Python would print what is raised there and go on."""
    try:
        work()
    except BaseException as error:
        if is_finalizing():
            return  # modules may be gone, and the row goes with the process
        if not postpone(error):
            raise
        work()


# --- forks


def _count_fork() -> None:
    _here.forks += 1


def _begin() -> None:
    global _here
    _here = Life()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_child=_begin)
