"""One process's view of the file: two mappings, and memory that is committed before it is touched.

A write to memory that the file system cannot give is a SIGBUS, and on tmpfs a read is, too. So
whatever is reached for the first time is allocated by a system call before, which can say no.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import sys
import weakref
from typing import Any, Final

from refstore import _limits, _messages
from refstore._errors import StoreCorruptedError
from refstore._names import NAME_LIMIT
from refstore._paths import open_store
from refstore._signals import is_from_handler
from refstore.engines.filelock.layout import (
    CHUNK,
    LABEL_NBYTES,
    META_INLINE,
    PAGE,
    TRIMS,
    UNIT,
    Geometry,
    Header,
    lay_out,
    policy_of,
)
from refstore.engines.filelock.life import Life, finalize
from refstore.engines.filelock.targets import Target, pieces

_ZEROS: Final = bytes(CHUNK)
_NO_ROOM: Final = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
# A mapping needs no descriptor; before 3.13 Python keeps one for it nevertheless.
UNTRACKED: Final[dict[str, Any]] = (
    {"trackfd": False} if sys.version_info >= (3, 13) and hasattr(os, "fork") else {}
)
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, which the mmap module does not name


def allocate(fd: int, start: int, end: int, *, fresh: bool = True) -> None:
    """Makes the file system give the bytes from `start` to `end`; OSError if it cannot.

    Where it has no call for that they are written, hence nobody else may use them: with `fresh`
    they hold nothing, otherwise each page's last byte stays as it is.
    """
    fallocate = getattr(os, "posix_fallocate", None)
    if fallocate is not None:
        try:
            fallocate(fd, start, end - start)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    while start < end:
        os.lseek(fd, start, os.SEEK_SET)
        if fresh:
            start += os.write(fd, _ZEROS[: end - start])
            continue
        kept = os.read(fd, 1)
        os.lseek(fd, start, os.SEEK_SET)
        os.write(fd, kept)
        start = start // PAGE * PAGE + PAGE


def copy_on_write(fd: int, nbytes: int, offset: int) -> mmap.mmap:
    """A private view of a part of the file behind `fd`; of zeros if that is -1. MemoryError."""
    try:
        return mmap.mmap(fd, nbytes, access=mmap.ACCESS_COPY, offset=offset, **UNTRACKED)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise _limits.no_private_view(nbytes) from None


_others: list[io.FileIO] = []


class _Descriptor:
    """A descriptor of a mapping's file, if there is one. The program may have closed it, and have
    another file at its number, which is not ours to close."""

    __slots__ = ("_file", "_found")

    def __init__(self, found: tuple[int, int]) -> None:
        self._file: io.FileIO | None = None
        self._found = found  # device, inode

    def take(self, file: io.FileIO) -> None:
        self._file = file

    def is_there(self) -> bool:
        try:
            found = os.fstat(self.number())
        except (OSError, ValueError):
            return False
        return (found.st_dev, found.st_ino) == self._found

    def number(self) -> int:
        return -1 if self._file is None else self._file.fileno()

    def close(self) -> None:
        if self._file is not None and not self._file.closed:
            if self.is_there():
                self._file.close()
            else:
                _others.append(self._file)
        self._file = None


def _again(fd: int, mode: str) -> io.FileIO:
    """Another descriptor of the same file, in one step that no signal handler interrupts."""
    return next(map(io.FileIO, map(os.dup, (fd,)), (mode,)))


class Mapped:
    """A store whose file is mapped, by an attachment or a look."""

    def note_file(self, path: str, header: Header) -> None:
        self.path = path
        self.uuid = header.uuid
        self.tag = header.tag
        self.capacity = header.capacity
        self.max_objects = header.max_objects
        self.evict = policy_of(header)


class Tables:
    """The file, and where in it what is. `words` is as much of it as is mapped, 8 bytes each;
    `octets` the same, one byte each."""

    __slots__ = (
        "__weakref__",
        "_access",
        "_own",
        "found",
        "g",
        "header",
        "octets",
        "path",
        "words",
    )

    octets: memoryview
    words: memoryview

    def __init__(self, path: str, header: Header, found: os.stat_result, access: int) -> None:
        self.path = path
        self.header = header
        self.g: Geometry = lay_out(header.capacity, header.max_objects)
        self.found = found.st_dev, found.st_ino
        self._access = access
        self._own = _Descriptor(self.found)
        # In a cycle the collector may end the file before `__del__` comes; the file would warn.
        weakref.finalize(self, self._own.close).atexit = False

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            finalize(self._own.close, sys.is_finalizing)

    def descriptor(self) -> int:
        """A descriptor of the file. OSError if there is none any more, and no way to it."""
        own = self._own
        if not own.is_there():
            own.close()
            try:
                opened = open_store(self.path, self._access)
            except OSError:
                raise self._no_descriptor() from None
            own.take(opened)
            if not own.is_there():
                opened.close()
                raise self._no_descriptor()
        return own.number()

    def _no_descriptor(self) -> OSError:
        return _limits.no_descriptor(self.path, "what was asked for")

    def descriptor_or_none(self) -> int:
        """A descriptor of the file, or -1."""
        try:
            return self.descriptor()
        except OSError:
            return -1

    def damaged(self, what: str) -> StoreCorruptedError:
        """`what`: a sentence that names the field."""
        return _messages.damaged_file(self.path, what)

    def leads_out(self) -> StoreCorruptedError:
        return self.damaged("an offset in it points outside of the file")

    # --- addresses

    def slot(self, slot: int) -> int:
        """The first word of a slot."""
        if not 0 <= slot < self.g.max_objects:
            raise self.damaged(f"something leads to slot {slot} of {self.g.max_objects}")
        return self.g.slots + slot * 16

    def label(self, slot: int) -> int:
        return self.g.labels + slot * LABEL_NBYTES

    def meta(self, slot: int) -> int:
        return self.g.metas + slot * META_INLINE

    def block_at(self, unit: int) -> int:
        return self.g.data + unit * UNIT

    def name(self, slot: int, nbytes: int) -> bytes:
        if nbytes > NAME_LIMIT:
            raise self.damaged(f"the name of slot {slot} has {nbytes} bytes")
        at = self.label(slot)
        return bytes(self.octets[at : at + nbytes])


class Mapping(Tables):
    """The file of a process that is attached, mapped twice."""

    __slots__ = (
        "_near",
        "_near_pages",
        "_scrap",
        "_trims",
        "readable",
        "targets",
        "writable",
    )

    def __init__(self, path: str, fd: int, header: Header, found: os.stat_result) -> None:
        super().__init__(path, header, found, os.O_RDWR)
        try:
            size = self.g.file_size
            self.writable = mmap.mmap(fd, size, access=mmap.ACCESS_WRITE, **UNTRACKED)
            self.readable = mmap.mmap(fd, size, access=mmap.ACCESS_READ, **UNTRACKED)
        except (ValueError, OverflowError):
            raise _limits.cannot_map(path, _limits.MAPPINGS * size, errno.ENOMEM) from None
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise _limits.cannot_map(path, _limits.MAPPINGS * size, errno.ENOMEM) from None
        self.octets = memoryview(self.writable)
        self.words = self.octets.cast("Q")
        self._near: set[int] = set()  # chunks that are committed, for as long as nobody trims
        self._near_pages: set[int] = set()  # the same, of what is reached page by page
        self._trims = -1
        # By id: what is being filled. No collection of weak references: a signal that comes in a
        # copy would be lost in its callback.
        self.targets: dict[int, weakref.ref[Target]] = {}
        self._scrap: mmap.mmap | None = None  # see `remove`
        self._own.take(_again(fd, "rb+"))

    def stop_writing(self, *, is_lost: bool) -> None:
        """Stops all writes of a forked child, whatever frames of its parent's calls it is in.

        `is_lost`: it has no row, and uses the file no more.
        """
        for ref in list(self.targets.values()):
            target = ref()
            if target is not None:
                target.stop()
        if self._scrap is not None:
            self._scrap.close()
        if is_lost:
            self.words.release()
            self.octets.release()

    # --- memory

    def remove(self, start: int, end: int, life: Life) -> None:
        """Gives whole pages back to the system. OSError where that cannot be."""
        # by a mapping of its own, which a child that is forked meanwhile finds closed
        at, access = start, mmap.ACCESS_WRITE
        scrap = mmap.mmap(self.descriptor(), end - start, access=access, offset=at, **UNTRACKED)
        self._scrap = scrap
        life.require_ours(self.path)
        scrap.madvise(mmap.MADV_REMOVE)
        scrap.close()

    def look_at_trims(self) -> None:
        """Called with the lock just taken: memory that somebody trimmed is no longer committed."""
        trims = self.words[TRIMS]
        if trims != self._trims:
            self._near.clear()
            self._near_pages.clear()
            self._trims = trims

    def commit(self, start: int, end: int) -> bool:
        """Commits memory for the bytes from `start` to `end`, before they are touched; whether
        there is any.

        Under the change lock, hence whatever else lies in their chunks belongs to nobody who
        works without it, or is in use, and keeps its contents.
        """
        near = self._near
        for chunk in range(start // CHUNK, (end - 1) // CHUNK + 1):
            if chunk not in near:
                return self._commit_far(start, end)
        return True

    def commit_word(self, i: int) -> bool:
        """The same for the page of a word, whose neighbours may never be used."""
        page = i * 8 // PAGE
        if page not in self._near_pages:
            if not self._allocate(page * PAGE, page * PAGE + PAGE):
                return False
            self._near_pages.add(page)
        return True

    def _commit_far(self, start: int, end: int) -> bool:
        whole = start // CHUNK * CHUNK, min(-(-end // CHUNK) * CHUNK, self.g.file_size)
        pages = start // PAGE * PAGE, min(-(-end // PAGE) * PAGE, self.g.file_size)
        if hasattr(os, "posix_fallocate") and self._allocate(*whole):
            self._near.update(range(whole[0] // CHUNK, -(-whole[1] // CHUNK)))
            return True
        return self._allocate(*(pages if hasattr(os, "posix_fallocate") else (start, end)))

    def _allocate(self, start: int, end: int) -> bool:
        try:
            allocate(self.descriptor(), start, end, fresh=False)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            if is_from_handler(error):
                raise
            return self._populate(start, end)
        return True

    def _populate(self, start: int, end: int) -> bool:
        # with no descriptor left: by way of the mapping
        try:
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.writable.madvise(_POPULATE_WRITE, first, end - first)
        except (OSError, ValueError, AttributeError) as error:
            if is_from_handler(error):
                raise
            return False
        return True

    def commit_block(self, offset: int, nbytes: int, life: Life) -> bool:
        """The same for a large block that is ours, without the lock: nothing near it is looked at
        or remembered. In pieces, between which signal handlers run."""
        for start, end in pieces(nbytes):
            life.require_ours(self.path)
            if not self._allocate(offset + start, offset + end):
                return False
        return True


class Glance(Tables):
    """The tables of the file, for a process that only looks: nothing that it does reaches the file.

    `is_own`: changes of it are of this process alone, and what others change may not show.
    """

    __slots__ = ()

    def __init__(
        self, path: str, fd: int, header: Header, found: os.stat_result, *, is_own: bool
    ) -> None:
        super().__init__(path, header, found, os.O_RDONLY)
        access, size = mmap.ACCESS_COPY if is_own else mmap.ACCESS_READ, self.g.data
        try:
            self.octets = memoryview(mmap.mmap(fd, size, access=access, **UNTRACKED))
        except (ValueError, OverflowError, OSError) as error:
            failed = getattr(error, "errno", None) or errno.ENOMEM
            raise _limits.cannot_map(path, size, failed) from None
        self.words = self.octets.cast("Q")
        self._own.take(_again(fd, "rb"))

    def commit_word(self, i: int) -> bool:
        """Nothing to commit: what is written to is not the file's."""
        return True
