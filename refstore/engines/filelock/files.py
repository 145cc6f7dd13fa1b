"""Files of stores and folders of their locks: created atomically, removed when nobody uses them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import time
from typing import Any, Final

from filelock import Timeout

from refstore import _limits, _messages
from refstore._errors import RefstoreError
from refstore._paths import open_file, open_store
from refstore.engines.filelock import file_locks, liveness
from refstore.engines.filelock.layout import (
    FLAG_TEMPORARY,
    HEADER,
    LOW_64,
    MAX_ROWS,
    ROW_WORDS,
    SLOTS_USED,
    Header,
    first_words,
    lay_out,
    locks_of,
    new_header,
    read_header,
)
from refstore.engines.filelock.life import Life, here
from refstore.engines.filelock.mapping import allocate

_MAKING: Final = ".making"  # ends the name of a file that is not whole yet
_ABANDONED_AFTER: Final = 3600.0  # seconds
_LOCKS: Final = re.compile(r"(.+)\.([0-9a-f]{8})\.locks", re.DOTALL)
_LOCK: Final = re.compile(r"(\d+|change|creator)\.lock")
TRIES: Final = 100
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_ANEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC | getattr(os, "O_BINARY", 0)


# --- making a file


def make(
    path: str, capacity: int, max_objects: int, mode: int, temporary: bool, evict: str | None
) -> liveness.LivenessLock | None:
    """Makes a complete store file and gives it its name; FileExistsError if the name is taken.

    The file has no name, or another one, until it is whole. A temporary store's creator holds the
    lock that says that it lives from before then; this is it.
    """
    life = here()
    header = new_header(path, capacity, max_objects, temporary, evict)
    folder = locks_of(path, header.uuid)
    held = None
    try:
        if temporary:
            held = _lock_creation(folder, mode, life)
        _make_file(path, header, mode, life)
        if held is not None:
            held.keep_by_mapping()
        return held
    except BaseException:
        if life.is_ours():
            if held is not None:
                held.give_back()
            if is_store(path, header.uuid):  # it has its name, and nobody can have put anything
                os.unlink(path)
            remove_folder(folder)
        raise


def _make_file(path: str, header: Header, mode: int, life: Life) -> None:
    name = f"{path}.{os.urandom(4).hex()}{_MAKING}"
    try:
        file = _open_unnamed(path, mode)
        is_named = file is None
        with file or open_file(name, _ANEW, mode) as file:
            fd = file.fileno()
            if hasattr(os, "fchmod"):
                os.fchmod(fd, mode)  # whatever the umask is
            inode = os.fstat(fd).st_ino & LOW_64
            _fill(fd, path, header._replace(inode=inode))
            life.require_ours(path)
            if not is_named:
                _give_name(f"/proc/self/fd/{fd}", path, fd)
        if is_named:
            _give_name(name, path)
    finally:
        if life.is_ours():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _open_unnamed(path: str, mode: int) -> io.FileIO | None:
    """A new file without a name; None where there is no such thing."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # a file system that cannot
            return open_file(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | _CLOEXEC, mode)
    return None


def _give_name(name: str, path: str, fd: int | None = None) -> None:
    try:
        # with a descriptor, which `name` has no need of, Python takes the call that follows links
        os.link(name, path, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
    except (OSError, NotImplementedError, AttributeError):
        if fd is not None:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(name, path)  # a file system without links; Windows never overwrites


def _fill(fd: int, path: str, header: Header) -> None:
    g = lay_out(header.capacity, header.max_objects)
    tags, last = g.tags * 8, g.tags * 8 + 16 * (g.units - 1)
    os.ftruncate(fd, g.file_size)
    try:
        allocate(fd, 0, g.committed)
        allocate(fd, tags, tags + 16)
        allocate(fd, last, last + 16)
    except OSError as error:
        asked = header.capacity, header.max_objects
        raise _limits.no_room_for_tables(
            path, fd, g.committed, *asked, error.errno or errno.ENOSPC
        ) from None
    for at, value in first_words(header).items():
        _write(fd, at * 8, value.to_bytes(8, "little" if _is_little() else "big"))
    _write(fd, 0, HEADER.pack(*header))


def _is_little() -> bool:
    return memoryview(bytes([1, 0])).cast("H")[0] == 1


def _write(fd: int, at: int, data: bytes) -> None:
    if hasattr(os, "pwrite"):  # a child that is forked meanwhile shares the position
        os.pwrite(fd, data, at)
        return
    os.lseek(fd, at, os.SEEK_SET)
    os.write(fd, data)


# --- folders of locks


def creator_path(folder: str) -> str:
    return os.path.join(folder, "creator.lock")


def _lock_creation(folder: str, mode: int, life: Life) -> liveness.LivenessLock:
    """A new folder of locks with the creator's in it, so that nobody takes it for an orphan."""
    for _ in range(TRIES):
        life.require_ours(folder)
        liveness.make_folder(folder, mode)
        lock_mode = liveness.lock_mode(mode)
        lock = file_locks.new_lock(os.path.join(folder, "change.lock"), lock_mode)
        try:
            lock.acquire(timeout=1, poll_interval=0.001)
            file_locks.require_kernel_lock(lock)
            held = liveness.take(creator_path(folder), lock_mode)
        except (FileNotFoundError, FileExistsError, Timeout):
            continue  # one who cleans up was faster
        finally:
            try:
                lock.release(force=True)
            except BaseException:  # interrupted: it can be done twice
                lock.release(force=True)
                raise
        if held is not None:
            return held
    raise OSError(errno.EBUSY, "the store's directory of locks cannot be made", folder)


def is_creator_alive(fd: int, path: str) -> bool | None:
    """Whether the creator of a temporary store lives; None if the file is not a temporary store of
    this engine."""
    try:
        header = read_header(fd, path, os.fstat(fd))
    except RefstoreError:
        return None
    if not header.flags & FLAG_TEMPORARY:
        return None
    return liveness.is_held(creator_path(locks_of(path, header.uuid)))


def is_unused(fd: int, path: str) -> bool:
    header = read_header(fd, path, os.fstat(fd))
    g = lay_out(header.capacity, header.max_objects)
    # read, not mapped: it may be for want of address space or descriptors that somebody asks
    os.lseek(fd, 0, os.SEEK_SET)
    nbytes = (g.rows + MAX_ROWS * ROW_WORDS) * 8
    octets = os.read(fd, nbytes)
    if len(octets) < nbytes:
        return False
    words = memoryview(octets).cast("Q")
    return not words[SLOTS_USED] and not any(words[g.rows :: ROW_WORDS].tolist())


def require_own(path: str, found: os.stat_result, foreign: bool) -> None:
    """PermissionError if another user owns the file."""
    geteuid = getattr(os, "geteuid", None)
    if geteuid is not None and found.st_uid != geteuid() and not foreign:
        raise _messages.other_user(path, found.st_uid)


def is_store(path: str, uuid: bytes) -> bool:
    """Whether the store whose uuid begins so is there."""
    try:
        with open_store(path, os.O_RDONLY) as file:
            head = os.read(file.fileno(), HEADER.size)
    except OSError:
        return False
    return len(head) == HEADER.size and HEADER.unpack(head)[9].startswith(uuid[:4])


def remove_folder(folder: str, *, has_store: bool = False, timeout: float = 0.0) -> bool:
    """Removes a folder of locks of which nobody has any, if its store is gone.

    `has_store`: even if it is there; whoever comes next makes the folder again. `timeout`: seconds
    to wait for the change lock; of two that leave at once, each may meet the other with it.
    """
    match = _LOCKS.fullmatch(folder)
    if match is None or (is_store(match[1], bytes.fromhex(match[2])) and not has_store):
        return False
    if not _may_empty(folder):
        return False
    lock = file_locks.new_lock(os.path.join(folder, "change.lock"))
    try:
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=timeout, poll_interval=0.0005)
        if not lock.is_locked or not empty_unused(folder):
            return False
    finally:
        try:
            lock.release(force=True)
        except BaseException:  # as above
            lock.release(force=True)
            raise
    if os.path.isdir(folder) and not has_store:
        # Windows removes no file that is open. Whoever takes the lock now finds no store, and
        # makes none: a new one has other locks.
        empty(folder)
    return True


def _may_empty(folder: str) -> bool:
    """Whether it is no more than a folder of locks, and ours: in a folder where anyone may write,
    another user's could turn into a link to anywhere."""
    try:
        found = os.lstat(folder)
        names = os.listdir(folder)
    except OSError:
        return False
    geteuid = getattr(os, "geteuid", None)
    is_own = geteuid is None or found.st_uid == geteuid()
    return is_own and stat.S_ISDIR(found.st_mode) and all(map(_LOCK.fullmatch, names))


def empty_unused(folder: str) -> bool:
    """Removes a folder of locks, under the change lock that is in it, if nobody has another."""
    if not _may_empty(folder):
        return False
    names = [name for name in os.listdir(folder) if name != "change.lock"]
    if any(liveness.is_held(os.path.join(folder, name)) for name in names):
        return False
    empty(folder)
    return True


def empty(folder: str) -> None:
    """Removes a folder of locks, under the change lock that is in it: who waits for it sees that
    it is gone."""
    for name in sorted(os.listdir(folder), key="change.lock".__eq__):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.unlink(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def remove_orphans(folder: str) -> list[str]:
    """Removes what dead processes left in a folder of stores, and nobody will ever use."""
    removed: list[str] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return removed
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.name.endswith(".locks") and entry.is_dir(follow_symlinks=False):
                if remove_folder(entry.path):
                    removed.append(entry.path)
            elif entry.name.endswith(_MAKING) and _is_abandoned(entry):
                os.unlink(entry.path)
                removed.append(entry.path)
    return removed


def _is_abandoned(entry: Any) -> bool:
    found = entry.stat(follow_symlinks=False)
    old = time.time() - found.st_mtime > _ABANDONED_AFTER
    return old and stat.S_ISREG(found.st_mode)
