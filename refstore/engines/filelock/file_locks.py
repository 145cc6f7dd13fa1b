"""Locks on files, which the kernel drops when their holder dies: the change lock, and rows' locks.

It is the lock that `filelock.FileLock` takes, and any FileLock sees it. Where there is flock() the
engine takes it itself: a signal handler that raises inside filelock may leave a lock in there for
ever, at which other threads would wait. Elsewhere a FileLock holds it.

Opening a file and remembering its descriptor is one call into C, and so is forgetting and closing
it: no handler comes between, and a child that a handler forks finds all that it inherited.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from filelock import FileLock, SoftFileLock, Timeout

from refstore.engines.filelock.life import finalize

_fcntl: Any
try:
    _fcntl = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None

HAS_FLOCK: Final = _fcntl is not None

_descriptors: weakref.WeakSet[Descriptor] = weakref.WeakSet()  # of this process


def _unless_closed(call: Callable[..., object], *args: object) -> None:
    """Does what needs a descriptor, if the program has not closed it."""
    try:
        call(*args)
    except OSError as error:  # a signal handler may raise one, too
        if error.errno != errno.EBADF:
            raise


class Descriptor:
    """A lock file that is open, or not."""

    __slots__ = ("__weakref__", "_fds", "is_inherited")

    def __init__(self) -> None:
        self._fds: list[int] = []
        self.is_inherited = False  # its process is gone or our parent's, and keeps things for us
        _descriptors.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_fds"):  # else it was interrupted as it was made
            finalize(self.let_go, sys.is_finalizing)

    def open(self, path: str, access: int, mode: int) -> int:
        access |= os.O_CLOEXEC | os.O_NOFOLLOW
        self._fds.extend(map(os.open, (path,), (access,), (mode,)))
        return self._fds[-1]

    def let_go(self) -> None:
        """Closes the descriptor; the lock stays with whoever else has the same description."""
        while self._fds:
            # once, whoever interrupts
            _unless_closed(next, map(os.close, map(self._fds.pop, (0,))))

    def leave_to_parent(self) -> None:
        """Closes, in a forked child, what it inherited: the lock is its parent's."""
        self.let_go()

    def lock(self, *, is_shared: bool = False) -> bool:
        """Whether nobody else had the lock; OSError where the file system has none."""
        kind = _fcntl.LOCK_SH if is_shared else _fcntl.LOCK_EX
        try:
            _fcntl.flock(self._fds[-1], kind | _fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                return False
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                raise _no_locks() from None
            raise
        return True


def leave_all_to_parent(own: Sequence[Descriptor]) -> None:
    """Closes, in a forked child, all inherited locks but `own` and those that last as long as the
    child."""
    for held in list(_descriptors):
        if held not in own and not held.is_inherited:
            held.leave_to_parent()


class ChangeLock(Descriptor):
    """A lock that is taken and given back again and again; as much of a FileLock as is used."""

    __slots__ = ("_holder", "lock_file", "mode")

    def __init__(self, path: str, mode: int | None) -> None:
        super().__init__()
        self.lock_file = path
        self.mode = mode  # of the file, whatever the umask is; None: as it is
        self._holder = 0  # the pid of who took it; a child inherits what its parent holds

    @property
    def is_locked(self) -> bool:
        return self._holder == os.getpid()

    def acquire(self, timeout: float = 0.0, poll_interval: float = 0.0) -> None:
        """Errors: filelock.Timeout, FileNotFoundError: the folder is gone."""
        until = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() >= until:
                raise Timeout(self.lock_file)
            time.sleep(poll_interval)

    def _try(self) -> bool:
        try:
            fd = self.open(self.lock_file, os.O_RDWR | os.O_CREAT, self.mode or 0o600)
            if self.lock():
                found = os.fstat(fd)
                if self.mode not in (None, stat.S_IMODE(found.st_mode)):
                    with contextlib.suppress(PermissionError):
                        os.fchmod(fd, self.mode)  # also where who made it died before that
                if found.st_nlink:  # else removed by who had it
                    self._holder = os.getpid()
        finally:
            if not self.is_locked:
                self.let_go()
        return self.is_locked

    def release(self, force: bool = False) -> None:
        """Twice does no harm, wherever a signal handler interrupts it."""
        if self.is_locked and self._fds:
            # a child that is forked by a C library has the same description, and keeps it
            _unless_closed(_fcntl.flock, self._fds[-1], _fcntl.LOCK_UN)
        self._holder = 0
        self.let_go()


def new_lock(path: str, mode: int | None = None) -> ChangeLock | FileLock:
    """A lock of this process, whichever of its threads takes it."""
    if HAS_FLOCK:
        return ChangeLock(path, mode)
    return FileLock(path, thread_local=False, timeout=0, mode=mode or 0o600)


def require_kernel_lock(lock: ChangeLock | FileLock) -> None:
    """Checks a lock just acquired: filelock falls back to a mere file where there are no locks."""
    if isinstance(lock, SoftFileLock):
        lock.release(force=True)
        raise _no_locks(lock.lock_file)


def _no_locks(path: str | None = None) -> OSError:
    return OSError(
        errno.EOPNOTSUPP,
        "the file system has no locks that the system drops when a process dies: put the store "
        "elsewhere",
        path,
    )
