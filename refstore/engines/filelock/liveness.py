"""Locks that go with their process: how others see whether it lives.

A process is alive as long as the lock on `<row>.lock` in the store's folder of locks is held. Where
there is flock(), a mapping of that file holds it. So it goes when the process's memory goes, and
neither before, when a program closes all descriptors or the interpreter tears itself down, nor
later, by an explicit unlock in a forked child. Elsewhere a FileLock holds it.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from filelock import FileLock, Timeout

from refstore.engines.filelock.file_locks import (
    HAS_FLOCK,
    ChangeLock,
    Descriptor,
    new_lock,
    require_kernel_lock,
)
from refstore.engines.filelock.mapping import UNTRACKED


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


class LivenessLock(Descriptor):
    """A lock file that is held until it is given back or its process is gone."""

    __slots__ = ("_lock", "_memory")

    def __init__(self, lock: ChangeLock | FileLock | None = None) -> None:
        super().__init__()
        self._lock = lock
        self._memory: mmap.mmap | None = None

    def probe(self, path: str) -> bool:
        """Whether nobody has the lock on the file; this one may for a moment, with others who ask.
        FileNotFoundError."""
        self.open(path, os.O_RDONLY, 0)
        return self._has_locked(is_shared=True)

    def _has_locked(self, *, is_shared: bool) -> bool:
        if self.lock(is_shared=is_shared):
            return True
        self.let_go()
        return False

    def take(self, path: str, mode: int) -> bool:
        """Whether the lock on the file, which is made if need be, is ours from here on."""
        fd = self.open(path, os.O_RDWR | os.O_CREAT, mode)
        if not self._has_locked(is_shared=False):
            return False
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

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
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
    if not HAS_FLOCK:
        lock = new_lock(path, mode)
        try:
            lock.acquire()
        except Timeout:
            return None
        require_kernel_lock(lock)
        return LivenessLock(lock)
    held = LivenessLock()
    return held if held.take(path, mode) else None


def is_held(path: str) -> bool:
    """Whether somebody has the lock on a file; one that is not there is nobody's."""
    if not os.path.exists(path):
        return False
    if not HAS_FLOCK:
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
    """Whether a lock that we hold can be seen by the others."""
    lock = new_lock(path, mode)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release(force=True)
    return False
