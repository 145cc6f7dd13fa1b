"""One process's life. Python may run in any call: handlers of signals, finalizers, `__reduce__`.

What runs there may fork, and then two processes go on in the middle of one call. It is the parent's
to end. The child finds that its life is another one, and may not write, publish, give back or free
anything for that call: it gets a `RefstoreError`.
"""

from __future__ import annotations

import os

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


def _count_fork() -> None:
    _here.forks += 1


def _begin() -> None:
    global _here
    _here = Life()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_child=_begin)
