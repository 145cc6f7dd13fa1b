"""Any picklable object as one flat run of bytes, a frame, and back without copying its buffers.

Bytes-like objects and plain arrays lie in the store as they are. Every other object is pickled by
protocol 5, and its buffers (arrays, Arrow buffers, torch storages) are kept out of the pickle
stream, so that they can be used where they lie. A frame, offsets counted from its start:

    0                   header       HEADER, 32 bytes
    32                  table        one ENTRY of 32 bytes for each buffer, in stream order
    32 + 32 * count     stream       the pickle
    multiples of 64     buffers      in stream order; what lies between two of them means nothing

    HEADER   magic 4 bytes | flags 32 bits | count 64 | offset of the stream 64 | its nbytes 64
    ENTRY    offset 64 | nbytes 64 | skip 64 | kind 64

    flags    HAS_STORAGES: at least one ENTRY is of kind STORAGE
    kind     PLAIN: the stream gets a memoryview of these bytes
             STORAGE: the stream gets a torch storage over them; `skip` bytes of the storage that
             was pickled are left out in front, because no tensor in the object reaches them

Numbers are in the machine's own byte order, as everywhere in a store. The block that holds a frame
is 64-byte aligned, hence each buffer is too.

torch is never imported here when an object is put: an object can hold a tensor only if somebody
else has imported it. It has no read-only tensors, and writing to read-only memory kills the
process, so storages are rebuilt over a private copy-on-write view of the frame.
"""

from __future__ import annotations

import copyreg
import importlib
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from refstore.errors import StoreCorruptedError

__all__ = ["Frame", "decode", "encode"]

MAGIC = b"RSO1"
HEADER = struct.Struct("=4sIQQQ")
ENTRY = struct.Struct("=QQQQ")
HAS_STORAGES = 1
PLAIN, STORAGE = 0, 1
ALIGNMENT = 64
RELEASES_GIL = 64 << 10  # bytes from which a copy lets other threads run


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

    def write(self, target: Any) -> None:
        """Fill the first `nbytes` bytes of `target`: a writable view of plain bytes, or what an
        engine gives in its place, which looks at each part whether it may still be written."""
        for offset, piece in self.pieces:
            _copy(target[offset : offset + piece.nbytes], piece)


def encode(obj: object) -> Frame:
    """Pickle `obj`. Raises what pickle raises; nothing is written anywhere yet."""
    encoder = _Encoder()
    encoder.dump(obj)
    return encoder.frame()


def decode(view: memoryview, private: Callable[[], memoryview]) -> Any:
    """The object whose frame is `view`; its buffers are slices of `view`, as writable as that is.

    `private()` returns a writable copy-on-write view of the same frame. It is called once, and
    only if the frame holds torch storages.
    """
    total = view.nbytes
    if total < HEADER.size:
        raise _corrupted(f"it has {total} bytes")
    magic, flags, count, start, length = HEADER.unpack_from(view)
    table_end = HEADER.size + count * ENTRY.size
    if magic != MAGIC:
        raise _corrupted(f"it begins with {magic!r}")
    if table_end > start or start + length > total:
        raise _corrupted("its table or its pickle reaches past its end")
    writable = private() if flags & HAS_STORAGES else None
    buffers: list[object] = []
    for offset, nbytes, skip, kind in ENTRY.iter_unpack(view[HEADER.size : table_end]):
        end = offset + nbytes
        if end > total:
            raise _corrupted("a buffer reaches past its end")
        if kind == PLAIN:
            buffers.append(view[offset:end])
        elif kind == STORAGE and writable is not None:
            buffers.append(_Rebuilt(_storage_over(writable[offset:end]), skip))
        else:
            raise _corrupted(f"it has a buffer of kind {kind}")
    try:
        return pickle.loads(view[start : start + length], buffers=buffers)
    finally:
        if flags & HAS_STORAGES:
            _settle_sparse_tensors()


def _corrupted(what: str) -> StoreCorruptedError:
    return StoreCorruptedError(f"this object is no frame that refstore wrote: {what}")


class _Sink:
    """The file that pickle writes to: keeps each piece as it comes instead of joining them.

    The C pickler hands over large bytes objects themselves, so they are copied only once, into
    their block. A view of each piece also stops a bytearray from being resized meanwhile.
    """

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(memoryview(piece))


class _Encoder:
    """The state of one call of `encode`."""

    def __init__(self) -> None:
        self._sink = _Sink()
        self._buffers: list[memoryview | _Storage] = []  # in stream order
        self._storages: dict[int, _Storage] = {}  # by the address of torch's storage object
        self._markers: dict[int, _Storage] = {}  # by the id of the storage's marker

    def dump(self, obj: object) -> None:
        pickler = pickle.Pickler(self._sink, 5, buffer_callback=self._add_buffer)
        # A dispatch table costs objects of other types nothing; a reducer_override would be
        # called for each of them.
        table: dict[type, Callable[[Any], Any]] = {**copyreg.dispatch_table}
        table[np.ndarray] = _reduce_array
        for subclass in (np.memmap, np.recarray, np.matrix):
            table[subclass] = _reduce_array_subclass
        torch: Any = sys.modules.get("torch")
        if hasattr(torch, "UntypedStorage"):  # not while another thread is still importing it
            table[torch.Tensor] = self._reduce_tensor
            table[torch.TypedStorage] = self._reduce_typed_storage
            table[torch.UntypedStorage] = self._reduce_untyped_storage
        pickler.dispatch_table = table
        try:
            pickler.dump(obj)
        except AttributeError as error:
            # what pickle raises before Python 3.12 for a local function or class
            if not str(error).startswith("Can't pickle"):
                raise
            raise pickle.PicklingError(str(error)) from error

    def frame(self) -> Frame:
        count = len(self._buffers)
        start = HEADER.size + count * ENTRY.size
        length = sum(piece.nbytes for piece in self._sink.pieces)
        flags = HAS_STORAGES if self._storages else 0
        head = bytearray(HEADER.pack(MAGIC, flags, count, start, length))

        offset = start
        pieces = []
        for piece in self._sink.pieces:
            pieces.append((offset, piece))
            offset += piece.nbytes
        for buffer in self._buffers:
            kind, skip = PLAIN, 0
            if isinstance(buffer, _Storage):
                kind = STORAGE
                skip, buffer = buffer.reached()
            offset = -(-offset // ALIGNMENT) * ALIGNMENT
            head += ENTRY.pack(offset, buffer.nbytes, skip, kind)
            pieces.append((offset, buffer))
            offset += buffer.nbytes
        return Frame([(0, memoryview(bytes(head))), *pieces])

    def _add_buffer(self, buffer: pickle.PickleBuffer) -> None:
        # raw() takes contiguous buffers only, and the pickler refuses the others itself.
        self._buffers.append(self._markers.get(id(buffer)) or buffer.raw())

    def _storage(self, untyped: Any) -> _Storage:
        """The one stand-in for a storage: tensors that share it share the stand-in too."""
        key = untyped._cdata
        storage = self._storages.get(key)
        if storage is None:
            storage = self._storages[key] = _Storage(untyped)
            self._markers[id(storage.marker)] = storage
        return storage

    def _reduce_tensor(self, tensor: Any) -> Any:
        torch = _torch()
        ordinary = (
            tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
            and not tensor.is_nested
            and not tensor.is_conj()
            and not tensor.is_neg()
            and not tensor.__dict__
            and not tensor._backward_hooks
        )
        if not ordinary or not _has_memory(tensor.untyped_storage()):
            # torch takes it apart into storages, ordinary tensors and the rest of its state.
            return tensor.__reduce_ex__(5)
        storage = self._storage(tensor.untyped_storage())
        size, stride, itemsize = tuple(tensor.shape), tensor.stride(), tensor.element_size()
        start = stop = 0
        if tensor.numel():
            start = tensor.storage_offset() * itemsize
            last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            stop = start + (last + 1) * itemsize
            storage.reach(start, stop)
        return _tensor, (storage, tensor.dtype, start, size, stride, tensor.requires_grad)

    def _reduce_typed_storage(self, typed: Any) -> Any:
        untyped = typed._untyped_storage
        if not _has_memory(untyped):
            return typed.__reduce_ex__(5)
        storage = self._storage(untyped)
        storage.reach(0, untyped.nbytes())
        return _typed_storage, (storage, typed.dtype)

    def _reduce_untyped_storage(self, untyped: Any) -> Any:
        if not _has_memory(untyped):
            return untyped.__reduce_ex__(5)
        storage = self._storage(untyped)
        storage.reach(0, untyped.nbytes())
        return _untyped_storage, (storage,)


def _has_memory(untyped: Any) -> bool:
    """Whether this process can read the storage's bytes: not those of a GPU or a fake tensor."""
    if untyped.device.type != "cpu":
        return False
    try:
        return bool(untyped.data_ptr() or not untyped.nbytes())
    except RuntimeError:  # a tensor that only looks as if it had memory
        return False


class _Storage:
    """Stands in for a torch storage in the pickle, and gathers how much of it is needed.

    A tensor is often a small view of a big storage, such as one row of a data set. Only the bytes
    between the first and the last one that tensors of this object reach are stored.
    """

    __slots__ = ("marker", "start", "stop", "untyped")

    def __init__(self, untyped: Any) -> None:
        self.untyped = untyped
        self.start = self.stop = 0  # bytes; nothing is reached while they are equal
        # Takes the storage's place in the list of buffers, whose extent is known only at the end.
        self.marker = pickle.PickleBuffer(bytearray())

    def __reduce__(self) -> Any:
        return _same, (self.marker,)

    def reach(self, start: int, stop: int) -> None:
        if self.start == self.stop:
            self.start, self.stop = start, stop
        else:
            self.start, self.stop = min(self.start, start), max(self.stop, stop)

    def reached(self) -> tuple[int, memoryview]:
        """How many bytes to skip, and the bytes after those."""
        torch = _torch()
        # Rounded down so that elements of every size keep their alignment.
        skip = self.start - self.start % ALIGNMENT
        octets = torch.empty(0, dtype=torch.uint8)
        octets.set_(self.untyped, skip, (self.stop - skip,), (1,))
        return skip, memoryview(octets.numpy())


class _Rebuilt(NamedTuple):
    """What a `_Storage` comes back as."""

    untyped: Any
    skip: int  # bytes of the storage that was pickled, missing in front


def _torch() -> Any:
    return importlib.import_module("torch")  # by name: nothing here needs it to be installed


def _settle_sparse_tensors() -> None:
    """What torch.load does in the end, too: torch keeps each sparse tensor that it rebuilt till
    then, and the block would be pinned for ever."""
    settle = getattr(_torch()._utils, "_validate_loaded_sparse_tensors", None)
    if settle is not None:
        settle()


def _storage_over(memory: memoryview) -> Any:
    torch = _torch()
    if not memory.nbytes:
        return torch.UntypedStorage(0)
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


# The functions below are named in pickle streams, so a store may outlive a change of their names.


def _same(rebuilt: _Rebuilt) -> _Rebuilt:
    return rebuilt


def _tensor(
    storage: _Rebuilt,
    dtype: Any,
    start: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
) -> Any:
    torch = _torch()
    tensor = torch.empty((0,), dtype=dtype)
    # A tensor without elements has start 0, which may lie before what was kept.
    offset = max(start - storage.skip, 0) // tensor.element_size()
    tensor.set_(storage.untyped, offset, size, stride)
    return tensor.requires_grad_(requires_grad)


def _typed_storage(storage: _Rebuilt, dtype: Any) -> Any:
    return _torch().TypedStorage(wrap_storage=storage.untyped, dtype=dtype, _internal=True)


def _untyped_storage(storage: _Rebuilt) -> Any:
    return storage.untyped


def _array(
    buffer: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]
) -> Any:
    # ndarray(buffer=view) holds on to the object behind a memoryview and not to the view itself,
    # which is what pins the block; frombuffer holds the view.
    octets = np.frombuffer(buffer, np.uint8)
    return np.ndarray(shape, dtype, buffer=octets, order=order)


def _array_subclass(cls: type[np.ndarray[Any, Any]], array: np.ndarray[Any, Any]) -> Any:
    return array.view(cls)


def _reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """numpy's own way copies arrays with gaps and those of dates into the stream; not this one."""
    if array.dtype.hasobject or not array.nbytes:
        return array.__reduce_ex__(5)
    if not array.flags.forc:
        array = np.ascontiguousarray(array)
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    octets = array.reshape(-1, order=order).view(np.uint8)
    return _array, (pickle.PickleBuffer(octets.data), array.dtype, array.shape, order)


def _reduce_array_subclass(array: np.ndarray[Any, Any]) -> Any:
    return _array_subclass, (type(array), array.view(np.ndarray))


def _copy(target: Any, source: memoryview) -> None:
    if source.nbytes < RELEASES_GIL or not isinstance(target, memoryview):
        target[:] = source
    else:  # numpy lets go of the GIL for it, memoryview does not
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
