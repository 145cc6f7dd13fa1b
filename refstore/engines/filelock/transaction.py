"""One change at a time: the lock of the store, around everything that is read or written under it.

A turn is: the mutex of this process's attachment, then the file lock that all processes share, then
what the last holder left in the journal is ended, then the operation. The lock is filelock's and
goes with its holder, however that dies. A holder that is only stopped keeps it: whoever waits for
it in vain for as long as `BUSY_TIMEOUT` says so, with its pid. While others take turns, it waits
on.

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

from refstore import _limits, _messages
from refstore._errors import RefstoreError, StoreBusyError
from refstore.engines.filelock.journal import Change, Moment, replay
from refstore.engines.filelock.layout import COUNT, HOLDER, TURNS
from refstore.engines.filelock.life import Life, here, is_from_here
from refstore.engines.filelock.liveness import make_folder, new_lock
from refstore.engines.filelock.mapping import Mapping
from refstore.engines.filelock.recovery import Report

BUSY_TIMEOUT: Final = 5.0  # seconds without any turn of anybody
CHORE_PATIENCE: Final = 0.2  # for what a finalizer wants done; after that it waits for a turn
TRIES: Final = 3  # of a chore in which something raises
ROUNDS: Final = 12  # times BUSY_TIMEOUT, while others take turns
POLL: Final = 0.0005
MEETINGS: Final = 100  # with who removes a folder of locks, one after another

T = TypeVar("T")
Operation = Callable[..., T]  # of a Change and more

# By thread: its outermost turn on any store. The frame itself, left by an interrupt, would keep the
# store open.
_busy: dict[int, int] = {}
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
    frame: FrameType | None = sys._getframe() if turn is not None else None
    while frame is not None and (id(frame) != turn or frame.f_code is not _TURN):
        frame = frame.f_back
    return frame is not None


class Chore:
    """Something to do exactly once, though signal handlers may raise anywhere amid it."""

    __slots__ = ("args", "change", "operation", "since", "tries")

    def __init__(self, operation: Operation[Any], args: tuple[Any, ...]) -> None:
        self.operation = operation
        self.args = args
        self.change: Change | None = None  # of the last try
        self.since: Moment | None = None  # before which there is nothing to do
        self.tries = 0

    def is_done(self) -> bool:
        """Also if it was interrupted after its point of no return: a pin that is given back twice
        is somebody else's. And if it cannot be done."""
        if self.tries >= TRIES or (self.change is not None and self.change.commits):
            return True
        return self.since is not None and not self.since.has_come()


class Turns:
    """This process's way to one store's change lock."""

    def __init__(self, file: Mapping, folder: str, mode: int) -> None:
        self.file = file
        self.folder = folder  # of the lock files
        self.mode = mode  # of lock files
        self.pid = os.getpid()
        self.report = Report()
        self.has_gone = False  # at exit, with the locks: a chore would make them anew
        self._chores: deque[Chore] = deque()
        self._vain: int | None = None  # TURNS when a chore last waited in vain
        self.new_locks()

    def new_locks(self) -> None:
        """At first, and in a forked child."""
        self.mutex = threading.RLock()
        self.lock = new_lock(os.path.join(self.folder, "change.lock"), self.mode)
        self._inside: FrameType | None = None  # the `take_turn` that has the lock
        self.is_forking = False  # a thread has the mutex till after it forked

    # --- turns

    def take_turn(
        self,
        what: str,
        operation: Operation[T],
        *args: Any,
        patience: float = BUSY_TIMEOUT,
        life: Life | None = None,
    ) -> T:
        """`operation(change, *args)` while nobody else changes the store.

        `what` waits, as in "a put of 5 bytes", in a call that began in `life`. Errors:
        StoreBusyError, OSError, RefstoreError in a child that is forked amid the call, and what the
        operation raises.
        """
        life = life or here()
        try:
            return self._take_turn(life, patience, what, operation, *args)
        except Exception as error:
            if is_from_here(error):
                life.demand(self.file.path)
                if isinstance(error, IndexError | OverflowError):
                    raise self.file.damaged("a number in it leads out of it") from None
            raise

    def _take_turn(
        self, life: Life, patience: float, what: str, operation: Operation[T], *args: Any
    ) -> T:
        outermost, had_turn = not _is_busy(), False
        try:
            with self.mutex:
                if self._inside is not None:
                    self._look_inside()
                self._inside = sys._getframe()
                if outermost:
                    _busy[threading.get_ident()] = id(self._inside)
                try:
                    life.demand(self.file.path)
                    self._acquire(what, patience)
                    change = self._begin()
                    had_turn = True
                    if self._chores:  # what was released before this counts as released
                        self._all_chores(change)
                    return self._operate(life, change, operation, *args)
                finally:
                    try:
                        self._release()
                    except BaseException:  # interrupted: each step can be done twice
                        self._release()
                        self._renew_lock()
                        raise
        finally:
            if outermost:
                _busy.pop(threading.get_ident(), None)
                if self._chores or _pending:
                    self._look_at_chores(has_hope=had_turn)

    def _operate(self, life: Life, change: Change, operation: Operation[T], *args: Any) -> T:
        try:
            result = operation(change, *args)
            life.demand(self.file.path)
            return result
        except BaseException:
            if life.is_ours():
                change.settle()
            raise

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
        raise _messages.busy(self.file.path, self._holder(), what)

    def _acquire_within(self, patience: float) -> bool:
        try:
            # filelock would make it, and all that leads to it, with any mode
            if not os.path.isdir(self.folder):
                make_folder(self.folder, self.mode)
            self._acquire_lock(patience)
        except Timeout:
            return False
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, "the store's folder was removed while it was in use", self.file.path
            ) from None
        except BaseException as error:
            self._renew_lock()
            if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise OSError(
                error.errno,
                f"the store's lock takes a file descriptor: {_limits.of_descriptors(error.errno)}",
                self.file.path,
            ) from None
        return True

    def _acquire_lock(self, patience: float) -> None:
        for _ in range(MEETINGS):
            with contextlib.suppress(FileExistsError):
                self.lock.acquire(timeout=patience, poll_interval=POLL)
                return
            make_folder(self.folder, self.mode)  # filelock saw it, and then somebody removed it
        self.lock.acquire(timeout=patience, poll_interval=POLL)

    def _renew_lock(self) -> None:
        # A signal handler that raises amid filelock can leave a lock of this thread's within the
        # FileLock, at which other threads would wait in vain.
        with contextlib.suppress(Exception):
            self.lock.release(force=True)
        self.lock = new_lock(self.lock.lock_file, self.mode)

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
        only what a signal handler does."""
        self.do_once(Chore(operation, args))

    def do_once(self, chore: Chore) -> None:
        """Likewise, and not again if it was done or asked for before."""
        self._chores.append(chore)
        if _is_busy():
            _pending.append(self)
            return
        self._do_chores()

    def _look_at_chores(self, *, has_hope: bool = True) -> None:
        """Ours and those that came up meanwhile. `has_hope`: ours would not wait in vain, too."""
        if has_hope:
            self._do_chores()
        while _pending:
            with contextlib.suppress(IndexError):
                other = _pending.popleft()
                if other is not self or has_hope:
                    other._do_chores()

    def give_up_chores(self) -> None:
        """At our end: what could not be done waits for nobody, and would keep us."""
        if self not in _pending:
            self._chores.clear()

    def _may_do_chores(self) -> bool:
        if not self._chores or self.has_gone or not self.is_alive():
            return False
        return self._inside is None and not self.is_forking

    def _do_chores(self) -> None:
        # Who is inside, or forks, looks at the queue after it. The mutex is taken by `with` alone:
        # a signal handler that raises between acquire() and its `try` would leave it taken.
        while self._may_do_chores():
            is_stuck = self._vain == self.file.words[TURNS]  # as it was the last time
            try:
                patience = 0.0 if is_stuck else CHORE_PATIENCE
                self.take_turn("", self._all_chores, patience=patience)
            except StoreBusyError:
                self._vain = self.file.words[TURNS]
                return
            except Exception as error:
                if not is_from_here(error) or not isinstance(error, RefstoreError | OSError):
                    raise  # a signal handler's
                if not os.path.exists(os.path.dirname(self.folder)):
                    self._chores.clear()  # nobody can use the store any more
                return  # with the next turn, if there is one

    def _all_chores(self, _: Change) -> None:
        while self._chores:
            chore = self._chores[0]
            if not chore.is_done():
                self._do(chore)
            with contextlib.suppress(IndexError):
                self._chores.popleft()

    def _do(self, chore: Chore) -> None:
        chore.change = Change(self.file)
        life = here()
        try:
            chore.operation(chore.change, *chore.args)
        except BaseException as error:
            if not life.is_ours():
                raise
            if isinstance(error, RefstoreError):
                chore.tries = TRIES
            chore.change.settle()  # it may have been raised by a signal handler amid the commit
            if isinstance(error, Exception):
                if not chore.change.commits:
                    chore.tries += 1
                if chore.tries >= TRIES:  # a damaged store: there is nobody to tell
                    return
            raise


_TURN: Final = Turns._take_turn.__code__
