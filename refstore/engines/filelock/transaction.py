"""The store's lock, taken around everything that is read or written in the file.

An operation runs under the mutex of this process's attachment, then the file lock that all
processes share; what the last holder left in the journal is finished first. The file lock is
filelock's and goes with its holder, however that dies. A holder that is only stopped keeps it:
after `BUSY_TIMEOUT` a waiter gives up with a StoreBusyError that names its pid. While other
processes take and release the lock, it waits on.

Work requested by finalizers, such as giving back a pin, is deferred. A finalizer can run between
any two bytecodes, also while its own thread holds the lock, and must not take it then: the work
waits in a queue. Whoever releases the lock looks at the queue after it released the mutex, and
whoever queues something looks for a free mutex afterwards; so one of the two does it.
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
from refstore.engines.filelock.file_locks import HAS_FLOCK, new_lock
from refstore.engines.filelock.journal import Change, Moment, replay
from refstore.engines.filelock.layout import COUNT, HOLDER, LOCK_COUNT
from refstore.engines.filelock.life import Life, here, is_from_here
from refstore.engines.filelock.liveness import make_folder
from refstore.engines.filelock.mapping import Mapping
from refstore.engines.filelock.recovery import Report

BUSY_TIMEOUT: Final = 5.0  # seconds in which nobody takes or releases the lock
DEFERRED_TIMEOUT: Final = 0.2  # seconds; then the work waits for the next operation
TRIES: Final = 3  # of deferred work that raises
MAX_TIMEOUTS: Final = 12  # that a waiter waits, while others take the lock
POLL: Final = 0.0005
FOLDER_RETRIES: Final = 100  # when others remove the folder of locks, one after another

T = TypeVar("T")
Operation = Callable[..., T]  # of a Change and more

# By thread: the mark of its outermost operation on any store. An interrupt may leave it: so it is
# not the operation's frame, which would keep the store open, nor that one's id, which is the next
# one's when the frame has gone.
_busy: dict[int, object] = {}
_pending: deque[StoreLock] = deque()  # with work deferred in such a thread


def _is_running_here(running: FrameType | None) -> bool:
    """Whether this thread is in that call. One that was interrupted as it ended is over."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not running:
        frame = frame.f_back
    return frame is not None


def _is_busy() -> bool:
    """Whether this thread is in an operation on any store."""
    running = _busy.get(threading.get_ident())
    frame: FrameType | None = sys._getframe() if running is not None else None
    while frame is not None and not (
        frame.f_code is _RUN_LOCKED and frame.f_locals.get("mark") is running
    ):
        frame = frame.f_back
    return frame is not None


class Deferred:
    """Work to do exactly once, though signal handlers may raise anywhere in it."""

    __slots__ = ("args", "change", "operation", "since", "tries")

    def __init__(self, operation: Operation[Any], args: tuple[Any, ...]) -> None:
        self.operation = operation
        self.args = args
        self.change: Change | None = None  # of the last try
        self.since: Moment | None = None  # before which there is nothing to do
        self.tries = 0

    def is_done(self) -> bool:
        """Whether it is over: done, or impossible. An interrupt past the point of no return counts
        as done: a second unpin would drop somebody else's pin."""
        if self.tries >= TRIES or (self.change is not None and self.change.commits):
            return True
        return self.since is not None and not self.since.has_come()


class StoreLock:
    """The lock of one store, as this process takes it."""

    def __init__(self, file: Mapping, folder: str, mode: int) -> None:
        self.file = file
        self.folder = folder  # of the lock files
        self.mode = mode  # of lock files
        self.pid = os.getpid()
        self.report = Report()
        self.has_gone = False  # at exit, with the locks: deferred work would make them again
        self._deferred: deque[Deferred] = deque()
        self._blocked_at: int | None = None  # LOCK_COUNT when the lock was last found taken
        self.new_locks()

    def new_locks(self) -> None:
        """Makes the locks: at first, and again in a forked child."""
        self.mutex = threading.RLock()
        self.lock = new_lock(os.path.join(self.folder, "change.lock"), self.mode)
        self._inside: FrameType | None = None  # the `_run_locked` that has the lock
        self.is_forking = False  # a thread has the mutex till after it forked

    # --- operations

    def run_locked(
        self,
        what: str,
        operation: Operation[T],
        *args: Any,
        timeout: float = BUSY_TIMEOUT,
        life: Life | None = None,
    ) -> T:
        """`operation(change, *args)` while nobody else changes the store.

        `what` waits, as in "a put of 5 bytes", in a call that began in `life`. Errors:
        StoreBusyError, OSError, RefstoreError in a child that is forked in the call, and what the
        operation raises.
        """
        life = life or here()
        try:
            return self._run_locked(life, timeout, what, operation, *args)
        except Exception as error:
            if is_from_here(error):
                life.require_ours(self.file.path)
                if isinstance(error, IndexError | OverflowError):
                    raise self.file.leads_out() from None
            raise

    def _run_locked(
        self, life: Life, timeout: float, what: str, operation: Operation[T], *args: Any
    ) -> T:
        is_outermost, had_lock, mark = not _is_busy(), False, object()
        try:
            with self.mutex:
                if self._inside is not None:
                    self._look_inside()
                self._inside = sys._getframe()
                if is_outermost:
                    _busy[threading.get_ident()] = mark
                try:
                    life.require_ours(self.file.path)
                    self._acquire(what, timeout)
                    change = self._begin()
                    had_lock = True
                    if self._deferred:  # what was released before this counts as released
                        self._run_deferred(change)
                    return self._operate(life, change, operation, *args)
                finally:
                    try:
                        self._release()
                    except BaseException:  # interrupted: each step can be done twice
                        self._release()
                        self._renew_lock()
                        raise
        finally:
            if is_outermost:
                _busy.pop(threading.get_ident(), None)
                if self._deferred or _pending:
                    self._flush_deferred(with_own=had_lock)

    def _operate(self, life: Life, change: Change, operation: Operation[T], *args: Any) -> T:
        try:
            result = operation(change, *args)
            life.require_ours(self.file.path)
            return result
        except BaseException:
            if life.is_ours():
                change.finish()
            raise

    def _begin(self) -> Change:
        words = self.file.words
        if words[HOLDER] not in (0, self.pid):
            self.report.locks += 1  # left by one that died with the lock
        words[HOLDER] = self.pid
        words[LOCK_COUNT] = words[LOCK_COUNT] + 1 & 0xFFFFFFFF
        self.file.look_at_trims()
        if words[COUNT]:
            replay(self.file)
        return Change(self.file)

    def _acquire(self, what: str, timeout: float) -> None:
        words = self.file.words
        for _ in range(MAX_TIMEOUTS):
            count = words[LOCK_COUNT]
            if self._acquire_within(timeout):
                return
            if words[LOCK_COUNT] == count:
                break
        raise _messages.busy(self.file.path, self._holder(), what)

    def _acquire_within(self, timeout: float) -> bool:
        try:
            # a FileLock would make it, and all that leads to it, with any mode
            if not HAS_FLOCK and not os.path.isdir(self.folder):
                make_folder(self.folder, self.mode)
            self._acquire_lock(timeout)
        except Timeout:
            return False
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT,
                "the store's directory of locks was removed while it was in use",
                self.file.path,
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

    def _acquire_lock(self, timeout: float) -> None:
        for _ in range(FOLDER_RETRIES):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                self.lock.acquire(timeout=timeout, poll_interval=POLL)
                return
            make_folder(self.folder, self.mode)  # it was there, and then somebody removed it
        self.lock.acquire(timeout=timeout, poll_interval=POLL)

    def _renew_lock(self) -> None:
        # A signal handler that raises inside filelock can leave a lock of this thread's within a
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
        # twice, where it was interrupted: by then the lock may be another's
        if self.lock.is_locked and self.file.words[HOLDER] == self.pid:
            self.file.words[HOLDER] = 0
        self.lock.release(force=True)
        self._inside = None

    def _look_inside(self) -> None:
        # The mutex is ours, and yet an operation is marked as running. Either it is this thread's,
        # further up, and a signal handler or a finalizer runs in it; or it was interrupted as it
        # ended.
        if _is_running_here(self._inside):
            raise StoreBusyError(
                f"this thread is in the middle of a change to store {self.file.path!r}: "
                "what a signal handler or a finalizer does amid it must wait",
                pid=self.pid,
            )
        self._release()

    def show_progress(self) -> None:
        """Lets those who wait for the lock see that its holder, which has much to do, goes on."""
        self.file.words[LOCK_COUNT] = self.file.words[LOCK_COUNT] + 1 & 0xFFFFFFFF

    # --- deferred work

    def is_alive(self) -> bool:
        """Whether this process may take the lock: a child that inherited this may not."""
        return self.pid == os.getpid()

    def defer(self, operation: Operation[Any], *args: Any) -> None:
        """Runs it at once if possible, else after the operation in progress or with the next
        one. Raises only what a signal handler does."""
        self.defer_once(Deferred(operation, args))

    def defer_once(self, *deferred: Deferred) -> None:
        """Defers like `defer`, but not again what was done or requested before."""
        self._deferred.extend(deferred)
        if _is_busy():
            _pending.append(self)
            return
        self._try_deferred()

    def _flush_deferred(self, *, with_own: bool = True) -> None:
        """Runs what was deferred meanwhile on other stores, and on this one if `with_own`."""
        if with_own:
            self._try_deferred()
        while _pending:
            with contextlib.suppress(IndexError):
                other = _pending.popleft()
                if other is not self or with_own:
                    other._try_deferred()

    def drop_deferred(self) -> None:
        """Drops what could not be done: the queue would keep this object alive."""
        if self not in _pending:
            self._deferred.clear()

    def _may_run_deferred(self) -> bool:
        if not self._deferred or self.has_gone or not self.is_alive():
            return False
        return self._inside is None and not self.is_forking

    def _try_deferred(self) -> None:
        # Whoever holds the lock or forks looks at the queue afterwards. Take the mutex by `with`
        # only: a signal handler that raises between acquire() and its `try` would leave it taken.
        while self._may_run_deferred():
            is_stuck = self._blocked_at == self.file.words[LOCK_COUNT]  # as it was the last time
            try:
                timeout = 0.0 if is_stuck else DEFERRED_TIMEOUT
                self.run_locked("", self._run_deferred, timeout=timeout)
            except StoreBusyError:
                self._blocked_at = self.file.words[LOCK_COUNT]
                return
            except Exception as error:
                if not is_from_here(error) or not isinstance(error, RefstoreError | OSError):
                    raise  # a signal handler's
                if not os.path.exists(os.path.dirname(self.folder)):
                    self._deferred.clear()  # nobody can use the store any more
                return  # with the next operation, if there is one

    def _run_deferred(self, _: Change) -> None:
        while self._deferred:
            deferred = self._deferred[0]
            if not deferred.is_done():
                self._do(deferred)
            with contextlib.suppress(IndexError):
                self._deferred.popleft()

    def _do(self, deferred: Deferred) -> None:
        deferred.change = Change(self.file)
        life = here()
        try:
            deferred.operation(deferred.change, *deferred.args)
        except BaseException as error:
            if not life.is_ours():
                raise
            if isinstance(error, RefstoreError):
                deferred.tries = TRIES
            deferred.change.finish()  # it may have been raised by a signal handler in the commit
            if isinstance(error, Exception):
                if not deferred.change.commits:
                    deferred.tries += 1
                if deferred.tries >= TRIES:  # a damaged store: there is nobody to tell
                    return
            raise


_RUN_LOCKED: Final = StoreLock._run_locked.__code__
