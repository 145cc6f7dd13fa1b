"""A store's file as it lies there after a death: taken, and put back for the next trial."""

from __future__ import annotations

import bisect
import ctypes
import functools
import hashlib
import os
from typing import NamedTuple

from tests.fuzz import layout
from tests.native.rows import LOCKS_END, PAGE

LIVE_WORDS_AT = 320  # Header.live_words
LIVE_AT, LIVE_NBYTES = 384, 128  # Header.live: a bit for each row in use
ORIGINS = layout.constants()["ORIGINS"]
ORIGINS_AT, ORIGIN_NBYTES = (
    LOCKS_END,
    ctypes.sizeof(layout.structs()["Origin"]),
)  # first its `taken`
VOLATILE = {  # pids and times, which no two runs have in common
    "Row": ("pid", "recoverer"),
    "Origin": ("taken", "pid"),
    "Slot": ("created",),
}
_ZEROS = bytes(PAGE)


class Image(NamedTuple):
    """What is not zero in a file."""

    nbytes: int
    pieces: tuple[tuple[int, bytes], ...]

    def rows(self) -> list[int]:
        """The rows in use."""
        bits = int.from_bytes(self.pieces[0][1][LIVE_AT : LIVE_AT + LIVE_NBYTES], "little")
        return [row for row in range(8 * LIVE_NBYTES) if bits >> row & 1]

    def mark(self) -> bytes:
        """The same for files that differ in nothing but pids and times."""
        header = layout.structs()["Header"].from_buffer_copy(self.pieces[0][1])
        volatile = _volatile(header.capacity, header.max_objects)
        found = hashlib.blake2b(digest_size=16)
        for at, data in self.pieces:
            found.update(at.to_bytes(8, "little"))
            masked = bytearray(data)
            first = bisect.bisect_left(volatile, (at, 0))
            for place, nbytes in volatile[first : bisect.bisect(volatile, (at + len(data), 0))]:
                masked[place - at : place - at + nbytes] = bytes(nbytes)
            found.update(masked)
        return found.digest()


@functools.cache
def _volatile(capacity: int, max_objects: int) -> list[tuple[int, int]]:
    """Where VOLATILE lies, and how many bytes it is each time; rising."""
    return sorted(
        (table.at + entry * table.stride + field.at, field.width)
        for table in layout.native(capacity, max_objects).tables
        for field in table.fields
        if field.name in VOLATILE.get(table.name, ())
        for entry in range(table.entries)
    )


def take(path: str) -> Image:
    """The image of a file that nobody writes to."""
    pieces: list[tuple[int, bytes]] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        nbytes = os.fstat(fd).st_size
        end = 0
        while (at := _next_data(fd, end)) is not None:
            end = os.lseek(fd, at, os.SEEK_HOLE)
            pieces.extend(_without_zeros(at, os.pread(fd, end - at, at)))
    finally:
        os.close(fd)
    return Image(nbytes, tuple(pieces))


def _next_data(fd: int, at: int) -> int | None:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but holes from here on
        return None


def _without_zeros(at: int, data: bytes) -> list[tuple[int, bytes]]:
    pieces = []
    start: int | None = None
    for offset in range(0, len(data), PAGE):
        if data[offset : offset + PAGE] == _ZEROS:
            if start is not None:
                pieces.append((at + start, data[start:offset]))
            start = None
        elif start is None:
            start = offset
    if start is not None:
        pieces.append((at + start, data[start:]))
    return pieces


def put_back(path: str, image: Image) -> None:
    """Make the file what it was, in the same inode: locks on it stay."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(fd, image.nbytes)
        for at, data in image.pieces:
            os.pwrite(fd, data, at)
    finally:
        os.close(fd)
