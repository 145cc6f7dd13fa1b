"""flock() in the place of `filelock.FileLock`, where a test looks at what the file says.

FileLock takes the same lock of the kernel, and does much that such a test has no need of: a turn
takes a third of the time without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from unittest import mock

from filelock import Timeout

from refstore.engines.filelock import liveness, transaction


class QuickLock:
    """As much of a FileLock as the engine uses."""

    def __init__(self, path: str, mode: int) -> None:
        self.lock_file = path
        self._mode = mode
        self._fd = -1

    @property
    def is_locked(self) -> bool:
        return self._fd >= 0

    def acquire(self, timeout: float = 0, poll_interval: float = 0.0005) -> None:
        until = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() >= until:
                raise Timeout(self.lock_file)
            time.sleep(poll_interval)

    def _try(self) -> bool:
        fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        if os.fstat(fd).st_nlink == 0:  # removed by who had it
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self, force: bool = False) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def new_lock(path: str, mode: int = 0o600) -> QuickLock:
    return QuickLock(path, mode)


def use() -> None:
    """In this process, from here on."""
    for module in (liveness, transaction):
        mock.patch.object(module, "new_lock", new_lock).start()


@contextlib.contextmanager
def used() -> Iterator[None]:
    """By stores that are opened meanwhile."""
    with (
        mock.patch.object(liveness, "new_lock", new_lock),
        mock.patch.object(transaction, "new_lock", new_lock),
    ):
        yield
