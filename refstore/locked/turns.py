"""One change at a time: the lock of the store, around everything that is read or written under it.

A turn is: the mutex of this process's attachment, then the file lock that all processes share, then
what the last holder left in the journal is ended, then the operation. The lock is filelock's and
goes with its holder, however that dies. A holder that is only stopped keeps it: whoever waits for
it in vain for as long as `PATIENCE` says so, with its pid. While others take turns, it waits on.

Things that finalizers want done, such as giving back a pin, are chores. A finalizer can run between
any two bytecodes, in the midst of a turn of its own thread too, so it may not take one then: chores
wait in a queue. Whoever ends a turn looks at the queue after it let go of the mutex, and whoever
queues one looks for a free mutex after it queued it; so one of the two does it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeVar

from filelock import Timeout

from refstore import messages
from refstore.errors import StoreBusyError
from refstore.locked.journal import Change, replay
from refstore.locked.layout import COUNT, HOLDER, TURNS
from refstore.locked.mapping import Mapping
from refstore.locked.processes import Report, new_lock

PATIENCE: Final = 5.0  # seconds without any turn of anybody
CHORE_PATIENCE: Final = 0.2  # for what a finalizer wants done; after that it waits for a turn
ROUNDS: Final = 12  # times PATIENCE, while others take turns
POLL: Final = 0.0005

T = TypeVar("T")
Operation = Callable[..., T]  # of a Change and more

_busy: dict[int, FrameType] = {}  # by thread: its outermost turn on any store
_pending: deque[Turns] = deque()  # with chores that came up in such a thread


def _is_running_here(turn: FrameType | None) -> bool:
    """Whether this thread is in that call. One that was interrupted as it ended is over."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not turn:
        frame = frame.f_back
    return frame is not None


def _is_busy() -> bool:
    """Whether this thread is in a turn on any store."""
    turn = _busy.get(threading.get_ident())
    return turn is not None and _is_running_here(turn)


class Turns:
    """This process's way to one store's change lock."""

    def __init__(self, file: Mapping, folder: str, mode: int) -> None:
        self.file = file
        self.folder = folder  # of the lock files
        self.mode = mode  # of lock files
        self.pid = os.getpid()
        self.report = Report()
        self.has_gone = False  # at exit, with the locks: a chore would make them anew
        self._chores: deque[tuple[Operation[Any], tuple[Any, ...]]] = deque()
        self.new_locks()

    def new_locks(self) -> None:
        """At first, and in a forked child."""
        self.mutex = threading.RLock()
        self.lock = new_lock(os.path.join(self.folder, "change.lock"), self.mode)
        self._inside: FrameType | None = None  # the `take_turn` that has the lock

    # --- turns

    def take_turn(
        self, what: str, operation: Operation[T], *args: Any, patience: float = PATIENCE
    ) -> T:
        """`operation(change, *args)` while nobody else changes the store.

        `what` waits, as in "a put of 5 bytes". Errors: StoreBusyError, OSError, and what the
        operation raises.
        """
        outermost, had_lock = not _is_busy(), False
        try:
            with self.mutex:
                if self._inside is not None:
                    self._look_inside()
                self._inside = sys._getframe()
                if outermost:
                    _busy[threading.get_ident()] = self._inside
                try:
                    self._acquire(what, patience)
                    had_lock = True
                    return operation(self._begin(), *args)
                except IndexError:
                    raise self.file.damaged() from None
                finally:
                    try:
                        self._release()
                    except BaseException:  # interrupted: each step can be done twice
                        self._release()
                        raise
        finally:
            if outermost:
                _busy.pop(threading.get_ident(), None)
                if had_lock and (self._chores or _pending):  # else they would wait in vain, too
                    self._look_at_chores()

    def _begin(self) -> Change:
        words = self.file.words
        if words[HOLDER] not in (0, self.pid):
            self.report.locks += 1  # left by one that died in its turn
        words[HOLDER] = self.pid
        words[TURNS] = words[TURNS] + 1 & 0xFFFFFFFF
        self.file.look_at_trims()
        if words[COUNT]:
            replay(self.file)
        return Change(self.file)

    def _acquire(self, what: str, patience: float) -> None:
        words = self.file.words
        for _ in range(ROUNDS):
            turns = words[TURNS]
            if self._acquire_within(patience):
                return
            if words[TURNS] == turns:
                break
        raise messages.busy(self.file.path, self._holder(), what)

    def _acquire_within(self, patience: float) -> bool:
        try:
            self.lock.acquire(timeout=patience, poll_interval=POLL)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise OSError(
                error.errno,
                "the store's lock takes a descriptor, of which there are none left (ulimit -n)",
                self.file.path,
            ) from None
        return True

    def _holder(self) -> int:
        """The pid of who has the lock; as the kernel knows it where it tells."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            inode = os.stat(self.lock.lock_file).st_ino
            with open("/proc/locks", encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                        return int(fields[4])
        return self.file.words[HOLDER]

    def _release(self) -> None:
        if self.lock.is_locked:
            self.file.words[HOLDER] = 0
            self.lock.release(force=True)
        self._inside = None

    def _look_inside(self) -> None:
        # The mutex is ours, and yet there is a turn. Either it is this thread's, further up, and a
        # signal handler or a finalizer came amid it; or it was interrupted as it ended.
        if _is_running_here(self._inside):
            raise StoreBusyError(
                f"this thread is in the middle of a change to store {self.file.path!r}: "
                "what a signal handler or a finalizer does amid it must wait",
                pid=self.pid,
            )
        self._release()

    # --- chores

    def is_alive(self) -> bool:
        """Not in a child that may not take turns."""
        return self.pid == os.getpid()

    def do_later(self, operation: Operation[Any], *args: Any) -> None:
        """At once if that can be, else after a turn that goes on, or with the next one. Raises
        nothing."""
        self._chores.append((operation, args))
        if _is_busy():
            _pending.append(self)
            return
        self._do_chores()

    def _look_at_chores(self) -> None:
        self._do_chores()
        while _pending:
            with contextlib.suppress(IndexError):
                _pending.popleft()._do_chores()

    def _do_chores(self) -> None:
        while self._chores and self.is_alive() and not self.has_gone:
            if not self.mutex.acquire(blocking=False):
                return  # who has it looks at the queue after it
            try:
                if self._inside is not None and _is_running_here(self._inside):
                    return
                self.take_turn("", self._all_chores, patience=CHORE_PATIENCE)
            except Exception:
                return  # with the next turn, if there is one
            finally:
                self.mutex.release()

    def _all_chores(self, c: Change) -> None:
        while self._chores:
            operation, args = self._chores[0]
            try:
                operation(c, *args)
            except Exception:
                c.forget()  # a damaged store: there is nobody to tell
            with contextlib.suppress(IndexError):
                self._chores.popleft()
