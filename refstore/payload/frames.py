"""The layout of a frame: a pickle and its buffers as one flat run of bytes.

Offsets are counted from the frame's start:

    0                   header       HEADER, 24 bytes
    24                  table        one ENTRY of 24 bytes for each buffer, in stream order
    24 + 24 * count     stream       the pickle
    after it            buffers      each at a multiple of 64, and where several show the same
                                     memory, at the distances at which they lay there

    HEADER   magic 4 bytes | count 32 bits | nbytes of the stream 64 | checksum 32 | zeros 32
    ENTRY    offset 64 | nbytes 64 | words 32 | kind 32

    kind     PLAIN: the stream gets a memoryview of these bytes
             STORAGE: the stream gets a torch storage over them, and `words` signed 64-bit numbers
             that lie right in front of them and say how its tensors lie; see `torch`

Numbers are in the machine's own byte order, as everywhere in a store. The block that holds a frame
is 64-byte aligned. What lies between two parts means nothing. PLAIN buffers may overlap, and
nothing else does. The checksum is the CRC-32 of the table and of the header with zeros in its
place. Each number is bounded when it is read all the same, so that none leads out of the frame.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refstore._errors import StoreCorruptedError

__all__ = [
    "Entry",
    "Frame",
    "Run",
    "aligned",
    "alone",
    "base_address",
    "head_alone",
    "lay_out",
    "take_apart",
]

MAGIC = b"RSO1"
HEADER = struct.Struct("=4sIQII")
ENTRY = struct.Struct("=QQII")
PLAIN, STORAGE = 0, 1
ALIGNMENT = 64
FOR_ELEMENTS = 16  # no element of an array asks for more
WORD = 8


class Frame:
    """An object that is pickled and measured, and has yet to be written to its block.

    `pieces` are the offsets and the bytes that make it up, by rising offset; the views keep what
    they show alive and its size. What lies between two pieces means nothing.
    """

    __slots__ = ("nbytes", "pieces")

    def __init__(self, pieces: list[tuple[int, memoryview]]) -> None:
        self.pieces = pieces
        offset, last = pieces[-1]
        self.nbytes = offset + last.nbytes

    def pickle_alone(self) -> list[memoryview] | None:
        """The pieces of the pickle, if there are no buffers beside it."""
        (_, head), *rest = self.pieces
        return None if head.nbytes > HEADER.size else [piece for _, piece in rest]


class Run(NamedTuple):
    """The bytes of a STORAGE, and the words in front of them."""

    pieces: list[tuple[int, memoryview]]  # offsets from the storage's start, rising
    nbytes: int
    words: Sequence[int]


class Entry(NamedTuple):
    """A row of the table."""

    offset: int
    nbytes: int
    words: int
    kind: int


def aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    """The first multiple of the alignment that is no less than `offset`."""
    return -(-offset // alignment) * alignment


def base_address(view: memoryview) -> int:
    """The address of the first byte of `view` in this process."""
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address


# --- from a pickle and its buffers to a frame


def alone(stream: bytes | memoryview) -> Frame:
    """The frame of a pickle that has no buffers beside it, as `lay_out` has it."""
    return Frame([(0, memoryview(head_alone(len(stream)))), (HEADER.size, memoryview(stream))])


def lay_out(stream: list[memoryview], buffers: Sequence[memoryview | Run]) -> Frame:
    """The frame of a pickle, which comes in pieces, and of its buffers, in stream order."""
    at = HEADER.size + len(buffers) * ENTRY.size
    length = sum(piece.nbytes for piece in stream)
    pieces: list[tuple[int, memoryview]] = []
    for piece in stream:
        pieces.append((at, piece))
        at += piece.nbytes
    table = b"".join([ENTRY.pack(*entry) for entry in _place(buffers, at, pieces)])
    return Frame([(0, memoryview(_head(len(buffers), length, table))), *pieces])


def _head(count: int, length: int, table: bytes) -> bytes:
    return HEADER.pack(MAGIC, count, length, checksum_of(count, length, table), 0) + table


@functools.lru_cache(maxsize=1024)
def head_alone(length: int) -> bytes:
    """All that lies in front of a pickle that has no buffers beside it."""
    return _head(0, length, b"")


def checksum_of(count: int, length: int, table: bytes) -> int:
    return zlib.crc32(table, zlib.crc32(HEADER.pack(MAGIC, count, length, 0, 0)))


def _place(
    buffers: Sequence[memoryview | Run], end: int, pieces: list[tuple[int, memoryview]]
) -> list[tuple[int, int, int, int]]:
    """Append what the buffers are made of to `pieces`, from offset `end` on.

    Returns the rows of the table, as `Entry` has them.
    """
    together = {} if _have_owners(buffers) else _overlapping(buffers)
    entries: dict[int, tuple[int, int, int, int]] = {}
    for i, buffer in enumerate(buffers):
        if isinstance(buffer, Run):
            words = np.array(buffer.words, np.int64).data.cast("B")
            start = aligned(end + words.nbytes)
            pieces.append((start - words.nbytes, words))
            pieces += [(start + at, piece) for at, piece in buffer.pieces]
            entries[i] = (start, buffer.nbytes, len(buffer.words), STORAGE)
            end = start + buffer.nbytes
        elif not (nbytes := buffer.nbytes):
            entries[i] = (end, 0, 0, PLAIN)
        elif i not in together:
            start = aligned(end)
            pieces.append((start, buffer))
            entries[i] = (start, nbytes, 0, PLAIN)
            end = start + nbytes
        elif i not in entries:
            group = together[i]
            lowest = group[0][0]
            # What shows the same memory keeps its distance, hence each element its alignment.
            start = aligned(end) + lowest % FOR_ELEMENTS
            for address, j in group:
                view = buffers[j]
                assert isinstance(view, memoryview)
                at = start + address - lowest
                entries[j] = (at, view.nbytes, 0, PLAIN)
                if (known := max(end - at, 0)) < view.nbytes:
                    pieces.append((at + known, view[known:]))
                    end = at + view.nbytes
    return [entries[i] for i in range(len(buffers))]


def _have_owners(buffers: Sequence[memoryview | Run]) -> bool:
    """Whether each buffer is seen to have memory to itself: that of an array nobody else has."""
    owners = set()
    for buffer in buffers:
        if isinstance(buffer, Run):
            continue
        array: Any = buffer.obj
        while isinstance(array, np.ndarray) and array.base is not None:
            array = array.base
        if not isinstance(array, np.ndarray) or not array.flags.owndata or id(array) in owners:
            return False
        owners.add(id(array))
    return True


def _overlapping(buffers: Sequence[memoryview | Run]) -> dict[int, list[tuple[int, int]]]:
    """Groups buffers that share memory: for each of them, the group as (address, index), rising."""
    plain = [(i, b) for i, b in enumerate(buffers) if isinstance(b, memoryview) and b.nbytes]
    if len(plain) < 2:
        return {}
    order = sorted((base_address(view), i) for i, view in plain)
    groups: dict[int, list[tuple[int, int]]] = {}
    group: list[tuple[int, int]] = []
    stop = 0
    for address, i in order:
        if address >= stop:
            group = []
        group.append((address, i))
        stop = max(stop, address + buffers[i].nbytes)
        if len(group) > 1:
            groups[group[0][1]] = groups[i] = group
    return groups


# --- and back


def take_apart(view: memoryview) -> tuple[memoryview, list[Entry]]:
    """The pickle in the frame `view`, and its table, whose every number is within the frame.

    StoreCorruptedError says which one is not.
    """
    total = view.nbytes
    if view[: HEADER.size] == head_alone(max(total - HEADER.size, 1)):
        return view[HEADER.size :], []
    if total < HEADER.size:
        raise _corrupted("nbytes", total, "less than a header has")
    magic, count, *_ = HEADER.unpack_from(view)
    if magic != MAGIC:
        raise _corrupted("magic", magic, f"{MAGIC!r} is")
    start = HEADER.size + count * ENTRY.size
    if start >= total:
        raise _corrupted("count", count, "so many buffers have no room in the table")
    table_of = _table if count <= _MOST_KEPT else _table.__wrapped__
    end, entries = table_of(bytes(view[:start]), total)
    return view[start:end], entries


_MOST_KEPT = 64  # entries of a table that is read once for all frames that have it


@functools.lru_cache(maxsize=256)
def _table(front: bytes, total: int) -> tuple[int, list[Entry]]:
    """The end of the pickle and the entries, by the header and the table of a frame."""
    _, count, length, checksum, zeros = HEADER.unpack_from(front)
    end = len(front) + length
    if not length or end > total:
        raise _corrupted("length", length, f"no pickle of so many bytes has room in {total}")
    table = front[HEADER.size :]
    if zeros or checksum != checksum_of(count, length, table):
        raise _corrupted("checksum", checksum, "not that of its header and its table")
    entries = [Entry(*row) for row in ENTRY.iter_unpack(table)]
    highest = end
    for i, entry in enumerate(entries):
        _check(i, entry, end, total)
        highest = max(highest, entry.offset + entry.nbytes)
    if highest != total:
        raise _corrupted("nbytes", total, f"but the last part ends at {highest}")
    return end, entries


def _check(i: int, entry: Entry, end: int, total: int) -> None:
    """Nothing of a buffer lies before `end`, where the pickle does, or behind `total`."""
    offset, nbytes, words, kind = entry
    if kind not in (PLAIN, STORAGE):
        raise _corrupted(f"kind of buffer {i}", kind, "there is no such kind")
    if not end <= offset <= total:
        raise _corrupted(f"offset of buffer {i}", offset, f"not from {end} to {total}")
    if nbytes > total - offset:
        raise _corrupted(f"nbytes of buffer {i}", nbytes, "it reaches past the end")
    if words * WORD > offset - end or (words and kind != STORAGE):
        raise _corrupted(f"words of buffer {i}", words, "its kind and place allow others")


def _corrupted(field: str, value: object, why: str) -> StoreCorruptedError:
    return StoreCorruptedError(
        f"this object is not a frame that refstore wrote: its {field} is {value!r}, {why}"
    )
