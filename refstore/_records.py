"""Many items in one block, each encoded by itself, for `shared`.

    0      header    HEADER, padded to 64 bytes
    64     tags      one byte a record: how it is encoded
    then   ends      where each record ends, counted from the start of the data; `width` bytes each
    then   table     of a dict: a hash table of record numbers + 1, 0 for none; `width` bytes each
    then   formats   a pickle: dtype, number of axes and alignment of the arrays, by tag
    then   data      the records

Each part begins at a multiple of 64, and so do records that are FRAMEs and arrays of more than
1 KiB; other arrays begin at a multiple of their dtype's alignment. A record begins where the one
before it ends, rounded up accordingly, so that its end is all that is kept of its place. Numbers
are in the machine's own byte order, as everywhere in a store.

    tag        record
    BYTES      the bytes
    TEXT       UTF-8, of lone surrogates too
    NUMBER     an int, signed, lowest byte first
    PICKLE     a pickle
    FRAME      a pickle and its buffers, see `payload.frames`
    FORMATS+k  an array of format k in C order; its extents, 64 bits each, unless it has one axis

A dict has its keys at the even numbers, each followed by its value. The table is probed linearly
from the hash of the key's tag and bytes.
"""

from __future__ import annotations

import hashlib
import math
import operator
import pickle
import struct
from array import array
from typing import Any, Literal, NamedTuple, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from refstore import payload
from refstore._buffers import PinnedBuffer, Writer
from refstore._errors import StoreCorruptedError
from refstore.payload import arrays
from refstore.payload.frames import ALIGNMENT, aligned
from refstore.payload.rules import require_unpickling

__all__ = ["Builder", "NoRecordsError", "Records", "encode_index_key"]

MAGIC = b"RSRECRD1"
HEADER = struct.Struct("=8s3QIIQ")
BYTES, TEXT, NUMBER, PICKLE, FRAME, FORMATS = range(6)
MAX_FORMATS = 256 - FORMATS
SMALL_ARRAY = 1024  # bytes; what is larger is aligned for any use
OWN_CHUNK = 1 << 16  # bytes; larger pieces are not gathered, but written from where they lie
WIDTHS: dict[int, Literal["I", "Q"]] = {4: "I", 8: "Q"}  # of a number, and its format
NARROW = 1 << 32  # numbers below this one take the smaller of them


class Format(NamedTuple):
    """The dtype and the rest that the arrays of one tag have in common."""

    dtype: bytes  # as arrays.describe_dtype() has it
    ndim: int
    alignment: int


class Places(NamedTuple):
    """Offsets of the parts of a block, and its size."""

    tags: int
    ends: int
    table: int
    formats: int
    data: int
    nbytes: int


def _places(count: int, entries: int, formats: int, data: int, width: int) -> Places:
    at, found = ALIGNMENT, []
    for nbytes in (count, count * width, entries * width, formats):
        found.append(at)
        at = aligned(at + nbytes)
    return Places(*found, at, at + data)  # type: ignore[call-arg]  # the four found


def encode_index_key(key: object) -> tuple[int, bytes] | None:
    """Tag and bytes of a dict's key; None for what is none."""
    if isinstance(key, str):
        return TEXT, str.encode(key, "utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return BYTES, bytes(key)
    try:
        number = operator.index(cast(SupportsIndex, key))
    except TypeError:
        return None
    return NUMBER, _encode_number(number)


def _encode_number(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)


def _hash(tag: int, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(bytes([tag]) + key, digest_size=8).digest(), "little")


# --- from items to a block


class Builder:
    """Gathers the records of a block, then writes them.

    `is_steady`: no item changes before that, so that large buffers need no copy of their own.
    """

    def __init__(self, is_steady: bool) -> None:
        self._is_steady = is_steady
        self._tags = bytearray()
        self._ends = array("Q")
        self._formats: dict[Format, int] = {}
        self._pieces: list[Any] = [bytearray()]  # the data, each piece after the one before
        self._end = 0
        self._table: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

    def add(self, obj: object) -> None:
        """Adds a record. Errors: what pickling the object raises."""
        if type(obj) is bytes:
            self._append(BYTES, 1, obj)
        elif type(obj) is str:
            self._append(TEXT, 1, obj.encode("utf-8", "surrogatepass"))
        elif type(obj) is int:
            self._append(NUMBER, 1, _encode_number(obj))
        elif isinstance(obj, (bytearray, memoryview)):
            self._append(BYTES, 1, bytes(obj))
        elif type(obj) is not np.ndarray or not self._add_array(obj):
            self._add_pickled(obj)

    def add_key(self, key: tuple[int, bytes]) -> None:
        self._append(key[0], 1, key[1])

    def _add_array(self, obj: npt.NDArray[Any]) -> bool:
        """Whether there is a format for it."""
        dtype = obj.dtype
        if dtype.hasobject or not dtype.itemsize:
            return False
        alignment = ALIGNMENT if obj.nbytes > SMALL_ARRAY else dtype.alignment
        known = Format(arrays.describe_dtype(dtype), obj.ndim, alignment)
        k = self._formats.setdefault(known, len(self._formats))
        if k >= MAX_FORMATS:
            del self._formats[known]
            return False
        plain = arrays.elements_of(obj).data if obj.size else b""
        if obj.ndim < 2:
            self._append(FORMATS + k, alignment, plain)
        else:
            self._append(FORMATS + k, alignment, plain, struct.pack(f"={obj.ndim}Q", *obj.shape))
        return True

    def _add_pickled(self, obj: object) -> None:
        frame = payload.encode(obj)
        stream = frame.pickle_alone()
        if stream is not None:
            self._append(PICKLE, 1, *stream)
            return
        self._pad(ALIGNMENT)
        start = self._end
        for offset, piece in frame.pieces:
            self._put(b"\0" * (start + offset - self._end))
            self._put(piece)
        self._finish(FRAME)

    def _append(self, tag: int, alignment: int, *pieces: bytes | memoryview) -> None:
        self._pad(alignment)
        for piece in pieces:
            self._put(piece)
        self._finish(tag)

    def _pad(self, alignment: int) -> None:
        self._put(b"\0" * (aligned(self._end, alignment) - self._end))

    def _put(self, piece: bytes | memoryview) -> None:
        nbytes = len(piece)
        if nbytes >= OWN_CHUNK:
            is_kept = self._is_steady or type(piece) is bytes
            self._pieces += [piece if is_kept else bytes(piece), bytearray()]
        else:
            self._pieces[-1] += piece
        self._end += nbytes

    def _finish(self, tag: int) -> None:
        self._tags.append(tag)
        self._ends.append(self._end)

    def index(self, keys: list[tuple[int, bytes]]) -> None:
        """Makes the table of the keys, which are the records of even numbers, all different."""
        size = 1 << (len(keys) * 4 // 3).bit_length()
        table = [0] * size
        for number, key in enumerate(keys):
            at = _hash(*key) % size
            while table[at]:
                at = (at + 1) % size
            table[at] = number * 2 + 1
        self._table = np.array(table, np.uint64)

    def measure(self) -> int:
        """The size of the block."""
        return self._layout()[0].nbytes

    def _layout(self) -> tuple[Places, int, bytes]:
        formats = pickle.dumps([tuple(one) for one in self._formats], 5)
        count, entries = len(self._tags), len(self._table)
        width = 4 if max(self._end, count) < NARROW else 8
        return _places(count, entries, len(formats), self._end, width), width, formats

    def write(self, writer: Writer) -> None:
        """Writes a block of the size that measure() says."""
        places, width, formats = self._layout()
        count, entries = len(self._tags), len(self._table)
        head = HEADER.pack(MAGIC, count, entries, self._end, width, len(formats), 0)
        writer.write_at(0, head)
        writer.write_at(places.tags, self._tags)
        writer.write_at(places.ends, np.asarray(self._ends, f"u{width}"))
        writer.write_at(places.table, self._table.astype(f"u{width}"))
        writer.write_at(places.formats, formats)
        at = places.data
        for piece in self._pieces:
            writer.write_at(at, piece)
            at += len(piece)


# --- from a block to items


class NoRecordsError(Exception):
    """An object is no block of records, or one of the other kind."""


class Records:
    """The records of a pinned block, decoded one by one."""

    __slots__ = ("_buf", "_data", "_data_at", "_ends", "_formats", "_table", "_tags", "count")

    count: int

    def __init__(self, buf: PinnedBuffer, *, is_dict: bool) -> None:
        """Errors: NoRecordsError, StoreCorruptedError."""
        if buf.kind != "bytes" or len(buf) < ALIGNMENT:
            raise NoRecordsError
        require_unpickling(buf)  # most of them are pickles, and so is what describes the others
        view = memoryview(buf)
        magic, self.count, entries, data, width, formats, _ = HEADER.unpack_from(view)
        if magic != MAGIC or bool(entries) is not is_dict:
            raise NoRecordsError
        if width not in WIDTHS:
            raise _corrupted("width", width)
        places = _places(self.count, entries, formats, data, width)
        if places.nbytes != view.nbytes:
            raise _corrupted("nbytes", places.nbytes)
        self._buf = buf
        self._tags = view[places.tags : places.tags + self.count]
        self._ends = _numbers(view, places.ends, self.count, width)
        self._table = _numbers(view, places.table, entries, width)
        self._formats = _read_formats(view[places.formats : places.formats + formats])
        self._data, self._data_at = view[places.data :], places.data

    def item(self, i: int) -> Any:
        """The object that was record `i`. Raises what unpickling it raises."""
        tag = self._tags[i]
        if tag >= FORMATS:
            return self._array(i, tag - FORMATS)
        if tag == FRAME:
            return self._framed(i)
        piece = self._record(i)
        if tag == BYTES:
            return piece.tobytes()
        if tag == TEXT:
            try:
                return str(piece, "utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise _corrupted(f"text of record {i}", str(error)) from None
        if tag == NUMBER:
            return int.from_bytes(piece, "little", signed=True)
        return payload.unpickle(piece)

    def _record(self, i: int, alignment: int = 1) -> memoryview:
        start, end = self._span(i, alignment)
        return self._data[start:end]

    def _span(self, i: int, alignment: int) -> tuple[int, int]:
        start = aligned(self._ends[i - 1], alignment) if i else 0
        end: int = self._ends[i]
        if not start <= end <= len(self._data):
            raise _corrupted(f"end of record {i}", end)
        return start, end

    def _framed(self, i: int) -> Any:
        start, end = self._span(i, ALIGNMENT)

        def private() -> memoryview:
            return self._buf._private_view()[self._data_at + start : self._data_at + end]

        return payload.decode(self._data[start:end], private)

    def _array(self, i: int, k: int) -> npt.NDArray[Any]:
        if k >= len(self._formats):
            raise _corrupted(f"tag of record {i}", k + FORMATS)
        dtype, ndim, alignment = self._formats[k]
        piece = self._record(i, alignment)
        shape: tuple[int, ...] = ()
        if ndim == 1:
            shape = (len(piece) // dtype.itemsize,)
        elif ndim:
            at = len(piece) - 8 * ndim
            if at < 0:
                raise _corrupted(f"end of record {i}", self._ends[i])
            shape = struct.unpack_from(f"={ndim}Q", piece, at)
            piece = piece[:at]
        if math.prod(shape) * dtype.itemsize != len(piece):
            raise _corrupted(f"shape of record {i}", shape)
        if not len(piece):
            return _empty(shape, dtype)
        return np.frombuffer(piece, dtype).reshape(shape)  # which keeps the view, hence the pin

    def find(self, tag: int, key: bytes) -> int | None:
        """The number of the value of a key."""
        size = len(self._table)
        at = _hash(tag, key) % size if size else 0
        for _ in range(size):
            entry = self._table[at]
            if not entry:
                break
            number: int = entry - 1
            if number + 1 >= self.count:
                raise _corrupted(f"entry {at} of the table", entry)
            if self._tags[number] == tag and self._record(number) == key:
                return number + 1
            at = (at + 1) % size
        return None


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    made = np.empty(shape, dtype)
    made.flags.writeable = False
    return made


def _numbers(view: memoryview, start: int, count: int, width: int) -> memoryview:
    return view[start : start + count * width].cast(WIDTHS[width])


def _read_formats(pickled: memoryview) -> list[tuple[np.dtype[Any], int, int]]:
    known = [Format(*row) for row in pickle.loads(pickled)]
    return [(arrays.dtype_from(one.dtype), one.ndim, one.alignment) for one in known]


def _corrupted(field: str, value: object) -> StoreCorruptedError:
    return StoreCorruptedError(f"these records are damaged: their {field} is {value!r}")
