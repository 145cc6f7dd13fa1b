"""Resources left for a store: address space, room on a file system, descriptors.

The kernel refuses with an errno. These functions find which limit was reached, and name it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from typing import Any, NamedTuple

__all__ = [
    "UNLIMITED",
    "cannot_map",
    "committed",
    "free_address_space",
    "free_on",
    "no_descriptor",
    "no_private_view",
    "no_room_for_tables",
    "of_address_space",
    "of_descriptors",
    "of_file_size",
    "of_full_disk",
    "resident",
    "spare_memory",
    "why_no_memory",
]

try:
    _resource: Any = importlib.import_module("resource")  # later there may be no descriptor for it
except ImportError:
    _resource = None

MAPPINGS = 2  # of a store's file in each process: one to write, one to read
UNLIMITED = 1 << 62
SPARE = 1 << 20  # bytes that a put may take beside its block: whole chunks, a label, pins
_SHARED_MEMORY = "/dev/shm"
_OWN_SIZE = "/proc/self/statm"
_DESCRIPTORS = "/proc/self/fd"


def _limit(name: str) -> int | None:
    """The soft limit RLIMIT_<name> of this process; None if there is none."""
    try:
        limit, _ = _resource.getrlimit(getattr(_resource, f"RLIMIT_{name}"))
    except (AttributeError, OSError, ValueError):  # a system without such limits
        return None
    return None if limit == _resource.RLIM_INFINITY else int(limit)


# --- address space


def _address_space() -> int:
    """Bytes of address space that this process has."""
    with contextlib.suppress(OSError, ValueError), open(_OWN_SIZE, encoding="ascii") as text:
        return int(text.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_address_space() -> int | None:
    """Bytes of address space that this process may still take; None if there is no limit."""
    limit = _limit("AS")
    return None if limit is None else max(limit - _address_space(), 0)


def of_address_space() -> str:
    """Why nothing more could be mapped, and what to do."""
    limit = _limit("AS")
    if limit is None:
        return (
            "the system gives this process no more, though it has no limit of its own (ulimit -v): "
            "check vm.max_map_count and vm.overcommit_memory"
        )
    return (
        f"this process may have {limit} bytes of address space (ulimit -v, RLIMIT_AS) and has "
        f"{_address_space()} already: raise that limit"
    )


def cannot_map(path: str, nbytes: int, error: int) -> OSError:
    """The store's file could not be mapped, for want of address space; `error` is the errno."""
    why = os.strerror(error)
    if error == errno.ENOMEM:
        why = f"{of_address_space()}, or make the store with a smaller capacity or max_objects"
    return OSError(
        error,
        f"cannot map the store's file, which takes {nbytes} bytes of address space: {why}",
        path,
    )


def no_private_view(nbytes: int) -> MemoryError:
    """A copy-on-write view of so many bytes could not be mapped."""
    return MemoryError(f"cannot map {nbytes} bytes copy-on-write: {of_address_space()}")


# --- room on the file system


class FileSystem(NamedTuple):
    """Bytes of the file system that holds a store's file."""

    size: int
    free: int  # for this user


def _file_system(where: int | str) -> FileSystem | None:
    """Reads the figures of a file system, by descriptor or path; None if they are not known, or
    have no limit."""
    try:
        found = os.statvfs(where)
    except (OSError, AttributeError):
        return None
    if not found.f_blocks:  # as of a tmpfs that may be as large as it likes
        return None
    return FileSystem(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def resident(fd: int) -> int:
    """Bytes of memory, or of disk, that the file behind `fd` takes; 0 if that is not known."""
    try:
        return os.fstat(fd).st_blocks * 512
    except (OSError, AttributeError):  # a system that does not say
        return 0


def free_on(fd: int) -> int:
    """Bytes that are free, for this user, on the file system of the file behind `fd`; UNLIMITED
    where it has no limit or does not say."""
    has = _file_system(fd)
    return UNLIMITED if has is None else has.free


def spare_memory(fd: int) -> int:
    """Bytes that new blocks of the store behind `fd` can surely have from its file system.

    None without a descriptor: memory is allocated through it.
    """
    if fd < 0:
        return 0
    has = _file_system(fd)
    return UNLIMITED if has is None else max(has.free - SPARE, 0)


def committed(fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a file between two offsets that are known to have memory."""
    found: list[tuple[int, int]] = []
    seek_data, seek_hole = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)
    if seek_data is None or seek_hole is None:
        return found
    with contextlib.suppress(OSError):  # ENXIO: there is none from here on
        while start < end:
            first = os.lseek(fd, start, seek_data)
            start = os.lseek(fd, first, seek_hole)
            if first < end:
                found.append((first, min(start, end)))
    return found


def why_no_memory(path: str, fd: int, needed: int) -> tuple[str, str]:
    """Why the system could not provide `needed` bytes to the store behind `fd`; what to do.

    `fd` is -1 if this process has no descriptor of it.
    """
    if fd < 0:
        return f"allocating memory for it takes a file descriptor, and {_no_descriptor(path)}", ""
    has = _file_system(fd)
    if has is None:
        return "the file system has no memory left", _make_room(path)
    figures = f"{has.free} of its {has.size} bytes are free"
    if has.free > SPARE + needed:
        return (
            f"the system provides no memory for it, though {figures} on the file system: a quota "
            "or the memory limit of a control group is reached"
        ), "Raise that, or delete objects of this store"
    return f"the file system has too little memory left for it: {figures}", _make_room(path)


def _make_room(path: str) -> str:
    text = f"Free memory in {os.path.dirname(path)!r}, or delete objects of this store"
    return f"{text}{_or_enlarge(path)}"


def _or_enlarge(path: str) -> str:
    try:
        is_there = os.stat(os.path.dirname(path)).st_dev == os.stat(_SHARED_MEMORY).st_dev
    except OSError:
        is_there = False
    if not is_there:
        return ""
    return (
        f", or enlarge {_SHARED_MEMORY} (mount -o remount,size=...; of a container: its "
        "--shm-size, by default 64 MiB)"
    )


def of_full_disk(path: str) -> str:
    """Why no file can be made or grow beside `path`, and what to do."""
    folder = os.path.dirname(path)
    has = _file_system(folder)
    figures = "" if has is None else f": {has.free} of its {has.size} bytes are free"
    return f"its file system has no room left{figures}. Free some in {folder!r}{_or_enlarge(path)}"


def no_room_for_tables(
    path: str, fd: int, nbytes: int, capacity: int, max_objects: int, error: int
) -> OSError:
    """A new store's tables, of `nbytes`, do not fit; `error` is the errno of that."""
    has = _file_system(fd)
    why = os.strerror(error)
    if error == errno.EFBIG:
        why = of_file_size()
    elif has is not None:
        why += f"; the file system has {has.size} bytes, of which {has.free} are free"
    return OSError(
        error,
        f"no room for the {nbytes} bytes of tables of a store with capacity {capacity} and "
        f"max_objects {max_objects} ({why}): free some, or ask for less{_or_enlarge(path)}",
        path,
    )


def of_file_size() -> str:
    """Why a file may not be as large as was asked for."""
    limit = _limit("FSIZE")
    if limit is None:
        return "the file system does not support files that large: ask for less capacity"
    return (
        f"a file of this process may have {limit} bytes (ulimit -f, RLIMIT_FSIZE), and the store's "
        "would be larger: raise that limit, or ask for less capacity or max_objects"
    )


# --- descriptors


def of_descriptors(error: int) -> str:
    """Why there is no descriptor, and what to do; `error` is EMFILE or ENFILE."""
    if error == errno.ENFILE:
        return "the system has no file descriptor left: raise fs.file-max"
    return (
        f"this process uses all of the {_limit('NOFILE')} file descriptors that it may have: "
        "close some, or raise that limit (ulimit -n)"
    )


def no_descriptor(path: str, what: str) -> OSError:
    """`what` takes a descriptor of the store's file, as in "attaching", and there is none."""
    error = _why_not_open()
    return OSError(
        error or errno.EBADF, f"{what} takes a file descriptor, and {_no_descriptor(path)}", path
    )


def _why_not_open() -> int:
    """The errno of a descriptor that this process cannot have; 0 if it can."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
    except OSError as error:
        return error.errno or 0
    return 0


def _no_descriptor(path: str) -> str:
    error = _why_not_open()
    if error in (errno.EMFILE, errno.ENFILE):
        return of_descriptors(error)
    if not os.path.isdir(_DESCRIPTORS):
        return "the file is reopened through /proc, which is not mounted: mount it"
    return (
        "this process closed the store's descriptor, and the file of that store is no longer at "
        f"{path!r}: do not close descriptors you did not open, or unlink the store last"
    )
