"""Locks that go with their process: how others see whether it lives.

A process is alive as long as the lock on `<row>.lock` in the store's folder of locks is held. It is
the lock that `filelock.FileLock` takes, and any FileLock sees it; but where there is flock() the
engine takes it itself, by a mapping of that file. So it goes when the process's memory goes, and
neither before, when a program closes all descriptors or the interpreter tears itself down, nor
later, by an explicit unlock in a forked child. Elsewhere a FileLock holds it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import mmap
import os
import sys
import weakref
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from refstore.engines.filelock.life import finalize
from refstore.engines.filelock.mapping import UNTRACKED

try:
    _fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None


def new_lock(path: str, mode: int = 0o600) -> FileLock:
    """A lock of this process, whichever of its threads takes it."""
    return FileLock(path, thread_local=False, timeout=0, mode=mode)


def close_all_of(path: str) -> None:
    """Closes every descriptor that this process has of a lock file, which a FileLock that was
    interrupted does not know any more. Where no system tells of them, they stay."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(int(name)), found):
                    os.close(int(name))


def lock_mode(mode: int) -> int:
    return mode & 0o777 | 0o600


def make_folder(folder: str, mode: int) -> bool:
    """The folder of locks of a store whose file has this mode; whether it was not there yet."""
    mode = lock_mode(mode)
    mode |= mode >> 2 & 0o111  # to look into what may be read
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.chmod(folder, mode)
    return True


def require_kernel_lock(lock: FileLock) -> None:
    """Checks a lock just acquired: filelock falls back to a mere file where there are no locks."""
    if isinstance(lock, SoftFileLock):
        lock.release(force=True)
        raise OSError(
            errno.EOPNOTSUPP,
            "the file system has no locks that the system drops when a process dies: put the "
            "store elsewhere",
            lock.lock_file,
        )


_locks: weakref.WeakSet[LivenessLock] = weakref.WeakSet()  # of this process


class LivenessLock:
    """A lock file that is held until it is given back or its process is gone."""

    __slots__ = ("__weakref__", "_fds", "_lock", "_memory", "is_inherited")

    def __init__(self, lock: FileLock | None = None) -> None:
        self._fds: list[int] = []  # the descriptor, until it is mapped
        self._lock = lock
        self._memory: mmap.mmap | None = None
        self.is_inherited = False  # its process is gone or our parent's, and keeps things for us
        _locks.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_fds"):  # else it was interrupted as it was made
            finalize(self.let_go, sys.is_finalizing)

    def probe(self, path: str) -> bool:
        """Whether nobody has the lock on the file; this one may for a moment, with others who ask.
        FileNotFoundError."""
        return self._take(path, os.O_RDONLY, 0, _fcntl.LOCK_SH)

    def _take(self, path: str, access: int, mode: int, kind: int) -> bool:
        access |= os.O_CLOEXEC | os.O_NOFOLLOW
        # In one step: a child that is forked at any moment finds it here, and closes it.
        self._fds.extend(map(os.open, (path,), (access,), (mode,)))
        if _flock(self._fds[0], kind):
            return True
        self.let_go()
        return False

    def take(self, path: str, mode: int) -> bool:
        """Whether the lock on the file, which is made if need be, is ours from here on."""
        if not self._take(path, os.O_RDWR | os.O_CREAT, mode, _fcntl.LOCK_EX):
            return False
        (fd,) = self._fds
        if not os.fstat(fd).st_size:
            os.ftruncate(fd, 1)  # so that it can be mapped
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, mode)  # whatever the umask is
        return True

    def keep_by_mapping(self) -> None:
        """Lets a mapping of the file hold the lock, and closes the descriptor."""
        if self._fds:
            (fd,) = self._fds
            self._memory = mmap.mmap(fd, 1, access=mmap.ACCESS_READ, **UNTRACKED)
            self.let_go()

    def let_go(self) -> None:
        """Closes the descriptor; the lock stays with whoever else has the same description."""
        if self._fds:
            with contextlib.suppress(OSError):  # the program closed it
                next(map(os.close, map(self._fds.pop, (0,))))  # once, whoever interrupts

    def leave_to_parent(self) -> None:
        """Closes, in a forked child, what it inherited: the lock is its parent's."""
        self.let_go()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def give_back(self) -> None:
        self.leave_to_parent()
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None


def take(path: str, mode: int = 0o600) -> LivenessLock | None:
    """The lock on a file, which is made if need be; None if somebody has it."""
    if _fcntl is None:
        lock = new_lock(path, mode)
        try:
            lock.acquire()
        except Timeout:
            return None
        require_kernel_lock(lock)
        return LivenessLock(lock)
    held = LivenessLock()
    return held if held.take(path, mode) else None


def leave_all_to_parent(own: list[LivenessLock]) -> None:
    """Closes, in a forked child, all inherited locks but `own` and those that last as long as the
    child."""
    for held in list(_locks):
        if held not in own and not held.is_inherited:
            held.leave_to_parent()


def _flock(fd: int, kind: int) -> bool:
    try:
        _fcntl.flock(fd, kind | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            return False
        raise
    return True


def is_held(path: str) -> bool:
    """Whether somebody has the lock on a file; one that is not there is nobody's."""
    if not os.path.exists(path):
        return False
    if _fcntl is None:
        held = take(path)
        is_free = held is not None
    else:
        held = LivenessLock()
        try:
            is_free = held.probe(path)
        except FileNotFoundError:
            return False
    if held is not None:
        held.give_back()
    return not is_free


def shows(path: str, mode: int) -> bool:
    """Whether a lock that we hold can be seen by the others, through filelock."""
    lock = new_lock(path, mode)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release(force=True)
    return False
