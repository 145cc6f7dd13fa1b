"""Figures of the machine that bear on stores: shared memory, limits, kernel, Python."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import shutil
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from refstore import _paths

__all__ = [
    "IN_MEMORY",
    "FileSystemUse",
    "free_threading",
    "has_futex_waitv",
    "huge_pages",
    "in_container",
    "memory_limit",
    "use_of",
]

IN_MEMORY = ("tmpfs", "ramfs")
_MOUNTS = "/proc/self/mounts"
_FUTEX_WAITV = 449  # the same number on every architecture
_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_SCANNED = 100_000  # files at most
_MARKS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")


class FileSystemUse(NamedTuple):
    """Bytes of a file system; if it is in memory, also of what lies in it."""

    root: str
    kind: str
    size: int
    free: int
    by_user: dict[int, int]
    largest: tuple[int, str] | None  # bytes, path


def use_of(folder: str) -> FileSystemUse:
    """Find the file system of a folder, and add up what lies in it as far as this user may look."""
    root = folder
    while not os.path.ismount(root):
        root = os.path.dirname(root)
    disk, kind = shutil.disk_usage(root), _kind_of(root)
    by_user: dict[int, int] = defaultdict(int)
    largest: tuple[int, str] | None = None
    for uid, nbytes, path in islice(_files(root), _SCANNED) if kind in IN_MEMORY else ():
        by_user[uid] += nbytes
        largest = max(largest or (0, ""), (nbytes, path))
    return FileSystemUse(root, kind, disk.total, disk.free, dict(by_user), largest)


def _kind_of(root: str) -> str:
    kind = "unknown"
    with contextlib.suppress(OSError), open(_MOUNTS, encoding="utf-8") as lines:
        for line in lines:
            _, where, found, *_ = line.split(" ")
            if where == root:
                kind = found  # the last one lies over the others
    return kind


def _files(root: str) -> Iterator[tuple[int, int, str]]:
    """User, bytes and path of each file."""
    for where, _, names in os.walk(root):
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                yield found.st_uid, found.st_blocks * 512, path


def memory_limit() -> int | None:
    """The lowest limit of the control groups that this process is in; None if there is none."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lowest = min(_paths.memory_limits(), default=machine)
    return lowest if lowest < machine else None


def in_container() -> bool:
    return any(map(os.path.exists, _MARKS)) or os.getpid() == 1


def has_futex_waitv() -> bool | None:
    """Whether the kernel has this call, by one that asks for nothing; None if it is not Linux."""
    if platform.system() != "Linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_FUTEX_WAITV, None, 0, 0, None, 0)
    return ctypes.get_errno() != errno.ENOSYS


def huge_pages() -> str | None:
    """The kernel's word on shared memory: "never", "advise", ...; None if it says nothing."""
    with contextlib.suppress(OSError), open(_HUGE_PAGES, encoding="ascii") as text:
        return text.read().partition("[")[2].partition("]")[0] or None
    return None


def free_threading() -> bool:
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
