"""A stream of Arrow IPC messages, laid out for readers that do not copy.

pyarrow puts each buffer at a multiple of 8 bytes. That is too little for values of 16 bytes, such
as decimals and views of text, which libraries written in Rust copy where they lie so. Here each
lies at a multiple of 64, as the format recommends; readers find it there, since a message says
where its buffers are.

pyarrow writes into a `Stream`, which keeps each buffer as it comes, without a copy, and changes the
message that stands before it. A message is a flatbuffer, of which this reads

    Message          field 1: of what type it is, 2: that, 3: bytes of the body behind it
    DictionaryBatch  field 1: a RecordBatch
    RecordBatch      field 2: its buffers, each 8 bytes of offset in the body and 8 of length
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from refstore._buffers import Writer

__all__ = ["Stream"]

ALIGNMENT = 64
PREFIX = struct.Struct("<4si")  # of a message: a mark, and bytes of the flatbuffer with its padding
DICTIONARY_BATCH, RECORD_BATCH = 2, 3
UINT8, UINT16, INT32, UINT32 = map(struct.Struct, ("<B", "<H", "<i", "<I"))
INT64, BUFFER = struct.Struct("<q"), struct.Struct("<qq")


class _Place(NamedTuple):
    """A buffer in the body of a message: where pyarrow puts it, and where it goes."""

    given: int
    nbytes: int
    taken: int


class Stream:
    """The file that pyarrow writes a stream to: pieces of memory, and where each belongs."""

    closed = False

    def __init__(self) -> None:
        self.nbytes = 0
        self._pieces: list[tuple[int, Any]] = []
        self._told = 0  # bytes that pyarrow has written
        self._head = bytearray()  # of the message that comes, up to its body
        self._start = 0  # where its body goes
        self._places: list[_Place] = []  # of its buffers, those that come first last
        self._seen = self._size = 0  # bytes of its body, as given: those that came, and all

    def write_to(self, writer: Writer) -> None:
        """Copy it into the memory of an object of `nbytes`."""
        end = 0
        for offset, piece in self._pieces:
            writer.write_at(end, bytes(offset - end))
            writer.write_at(offset, piece)
            end = offset + len(piece)
        writer.write_at(end, bytes(self.nbytes - end))

    # --- what pyarrow calls

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._told += len(view)
        while len(view):
            taken = self._take_body(view) if self._seen < self._size else self._take_head(view)
            view = view[taken:]
        return len(data)

    def tell(self) -> int:
        return self._told

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    # --- a message

    def _take_head(self, view: memoryview) -> int:
        """Add what belongs to the head; how many bytes that is."""
        missing = self._head_nbytes() - len(self._head)
        self._head += view[:missing]
        if len(self._head) == self._head_nbytes():
            self._place()
            self._head = bytearray()
        return min(missing, len(view))

    def _head_nbytes(self) -> int:
        if len(self._head) < PREFIX.size:
            return PREFIX.size
        return PREFIX.size + int(PREFIX.unpack_from(self._head)[1])

    def _place(self) -> None:
        """Decide where the message and its buffers go."""
        head = self._head
        if len(head) == PREFIX.size:  # the mark of the end
            self._add(bytes(head))
            return
        head += bytes(_padding(len(head)))
        PREFIX.pack_into(head, 0, bytes(head[:4]), len(head) - PREFIX.size)
        message = _Table(head, PREFIX.size + UINT32.unpack_from(head, PREFIX.size)[0])
        places, end = [], 0
        for at in _buffers(message):
            given, nbytes = BUFFER.unpack_from(head, at)
            places.append(_Place(given, nbytes, end))
            BUFFER.pack_into(head, at, end, nbytes)
            end += nbytes + _padding(nbytes)
        self._places = places[::-1]
        self._seen = self._size = 0
        if size_at := message.field(3):
            (self._size,) = INT64.unpack_from(head, size_at)
            INT64.pack_into(head, size_at, end)
        self._add(bytes(head))
        self._start = self.nbytes
        self.nbytes += end

    def _take_body(self, view: memoryview) -> int:
        """Keep what belongs to buffers, and pass over what lies between them."""
        size = min(len(view), self._size - self._seen)
        end = self._seen + size
        while self._places and self._places[-1].given < end:
            place = self._places[-1]
            first, stop = max(place.given, self._seen), place.given + place.nbytes
            piece = view[first - self._seen : min(stop, end) - self._seen]
            self._pieces.append((self._start + place.taken + first - place.given, piece))
            if stop > end:
                break  # its rest comes with another call
            self._places.pop()
        self._seen = end
        return size

    def _add(self, piece: bytes) -> None:
        self._pieces.append((self.nbytes, piece))
        self.nbytes += len(piece)


# --- flatbuffers


class _Table(NamedTuple):
    """A table of a flatbuffer, which begins at a byte of it."""

    data: bytearray
    at: int

    def field(self, number: int) -> int:
        """The place of a field; 0 if it is left out, since it has its default value."""
        table = self.at - INT32.unpack_from(self.data, self.at)[0]
        entry = 2 * UINT16.size + UINT16.size * number
        if entry >= UINT16.unpack_from(self.data, table)[0]:
            return 0
        offset = UINT16.unpack_from(self.data, table + entry)[0]
        return self.at + offset if offset else 0

    def followed(self, number: int) -> int:
        """The place that a field points to."""
        at = self.field(number)
        return at + int(UINT32.unpack_from(self.data, at)[0])


def _buffers(message: _Table) -> range:
    """The places where a message's buffers are described."""
    (kind,) = UINT8.unpack_from(message.data, message.field(1))
    if kind not in (DICTIONARY_BATCH, RECORD_BATCH):
        return range(0)
    batch = _Table(message.data, message.followed(2))
    if kind == DICTIONARY_BATCH:
        batch = _Table(message.data, batch.followed(1))
    at = batch.followed(2)
    (count,) = UINT32.unpack_from(message.data, at)
    first = at + UINT32.size
    return range(first, first + count * BUFFER.size, BUFFER.size)


def _padding(nbytes: int) -> int:
    return -nbytes % ALIGNMENT
