"""torch tensors inside objects: storages out of band, shared again by the tensors that shared them.

A tensor is often a small view of a big storage, such as one row of a data set. What is stored of a
storage is what the tensors of the object show of it, packed by `spans`. How they lie in what is
stored is known only once all of them were met, when the pickle is already written. So each tensor
gets a number in it, and the words in front of the storage's bytes hold under that number its
offset and its strides, in bytes. A tensor that fills its storage, as most do, needs none of that,
and is read in half the time.

torch has no read-only tensors, and writing to read-only memory kills the process, so storages are
rebuilt over a private copy-on-write view of the frame.
"""

from __future__ import annotations

import importlib
import itertools
import math
import operator
import pickle
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from refstore._errors import RefstoreError, StoreCorruptedError
from refstore._pickled import named_in_pickles
from refstore.payload import spans
from refstore.payload.frames import WORD, Entry, Frame, Run

__all__ = [
    "SHARED_DTYPES",
    "Rebuilt",
    "Storage",
    "Storages",
    "alone",
    "front_of",
    "held",
    "octets_of",
    "require_torch",
    "validate_sparse",
]


_imported: Any = None
_of_numpy: dict[Any, np.dtype[Any]] = {}  # numpy's dtypes by torch's
SHARED_DTYPES = (  # of both libraries
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


def _torch() -> Any:
    """Finds torch by name: nothing here needs it to be installed."""
    global _imported
    if _imported is None:
        torch = importlib.import_module("torch")
        _of_numpy.update((getattr(torch, name), np.dtype(name)) for name in SHARED_DTYPES)
        _imported = torch
    return _imported


def require_torch() -> None:
    """RefstoreError where torch cannot be imported."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise RefstoreError(
            f"this object holds tensors, and torch cannot be imported here ({error}); install it"
        ) from error


# --- when an object is put


class Storage:
    """Stands in for a torch storage in the pickle, and gathers what of it is shown."""

    __slots__ = ("_is_whole", "_octets", "_views", "_words", "marker")

    def __init__(self, untyped: Any) -> None:
        self._octets = octets_of(untyped, 0, untyped.nbytes())
        self._is_whole = False
        self._views: list[spans.View] = []
        self._words = 0
        # Takes the storage's place in the list of buffers, as what it is is known only at the end.
        self.marker = pickle.PickleBuffer(bytearray())

    def __reduce__(self) -> Any:
        return same_storage, (self.marker,)

    def show(self, view: spans.View) -> int:
        """Store what `view` shows, too. Returns the number of the word where its layout begins."""
        at = self._words
        self._words += 1 + len(view.strides)
        self._views.append(view)
        return at

    def show_all(self) -> None:
        self._is_whole = True

    def run(self) -> Run:
        if self._is_whole:
            pieces, nbytes = [(0, self._octets.data)], self._octets.nbytes
            places = [(view.start, view.strides) for view in self._views]
        else:
            pieces, nbytes, places = spans.pack(self._octets, self._views)
        return Run(pieces, nbytes, [word for start, steps in places for word in (start, *steps)])


class Storages:
    """The storages that were met in one object."""

    def __init__(self) -> None:
        self._by_address: dict[int, Storage] = {}  # of torch's own storage object
        self.by_marker: dict[int, Storage] = {}  # by the marker's id

    def reducer(self, cls: type) -> Callable[[Any], Any] | None:
        """The reducer for one of torch's classes; None for another."""
        global tensor_class
        torch: Any = sys.modules.get("torch")
        if not hasattr(torch, "UntypedStorage"):  # or another thread is still importing it
            return None
        tensor_class = torch.Tensor
        if cls is torch.Tensor:
            return self._reduce_tensor
        if cls is torch.TypedStorage:
            return self._reduce_typed_storage
        return self._reduce_untyped_storage if cls is torch.UntypedStorage else None

    def _storage(self, untyped: Any) -> Storage:
        """The one stand-in for a storage: tensors that share it share the stand-in too."""
        key = untyped._cdata
        storage = self._by_address.get(key)
        if storage is None:
            storage = self._by_address[key] = Storage(untyped)
            self.by_marker[id(storage.marker)] = storage
        return storage

    def _whole(self, untyped: Any) -> Storage:
        storage = self._storage(untyped)
        storage.show_all()
        return storage

    def _reduce_tensor(self, tensor: Any) -> Any:
        if not _is_ordinary(tensor) or not _has_memory(untyped := tensor.untyped_storage()):
            # torch takes it apart into storages, ordinary tensors and the rest of its state.
            return tensor.__reduce_ex__(5)
        size, steps = tuple(tensor.shape), tensor.stride()
        if 0 < tensor.nbytes == untyped.nbytes() and steps == _steps(size):
            return rebuild_whole, (self._whole(untyped), tensor.dtype, size, tensor.requires_grad)
        storage = self._storage(untyped)
        itemsize = tensor.element_size()
        start = tensor.storage_offset() * itemsize
        strides = tuple(step * itemsize for step in steps)
        at = storage.show(spans.View(start, itemsize, size, strides))
        return rebuild_tensor, (storage, at, tensor.dtype, size, tensor.requires_grad)

    def _reduce_typed_storage(self, typed: Any) -> Any:
        untyped = typed._untyped_storage
        if not _has_memory(untyped):
            return typed.__reduce_ex__(5)
        return rebuild_typed_storage, (self._whole(untyped), typed.dtype)

    def _reduce_untyped_storage(self, untyped: Any) -> Any:
        if not _has_memory(untyped):
            return untyped.__reduce_ex__(5)
        return rebuild_untyped_storage, (self._whole(untyped),)


def _is_ordinary(tensor: Any) -> bool:
    """Whether a tensor is but elements of the processor's memory, at even steps."""
    return (
        tensor.is_cpu
        and tensor.layout is _torch().strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor.__dict__
        and not tensor._backward_hooks
    )


def _steps(size: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one to the next along each axis, where there are no gaps."""
    steps = itertools.accumulate(reversed(size[1:]), operator.mul, initial=1)
    return tuple(steps)[::-1] if size else ()


def octets_of(untyped: Any, start: int, nbytes: int) -> spans.Octets:
    """Bytes of a storage, which nobody can resize any more from here on: torch sees to that."""
    torch = _torch()
    octets = torch.empty(0, dtype=torch.uint8).set_(untyped, start, (nbytes,), (1,))
    return cast("spans.Octets", octets.numpy())


def held(tensor: Any) -> np.ndarray[Any, Any]:
    """An array over a dense tensor's elements: while it lives, they stay where they are."""
    if tensor.dtype in _of_numpy:  # in less time
        return cast("np.ndarray[Any, Any]", tensor.detach().numpy())
    untyped = tensor.untyped_storage()
    return octets_of(untyped, 0, untyped.nbytes())


def _has_memory(untyped: Any) -> bool:
    """Whether this process can read the storage's bytes: not those of a GPU or a fake tensor."""
    if untyped.device.type != "cpu":
        return False
    try:
        return bool(untyped.data_ptr() or not untyped.nbytes())
    except RuntimeError:  # a tensor that only looks as if it had memory
        return False


# --- a tensor by itself

tensor_class: type | None = None  # torch's, once an object of a type that is not built in was met

# Frames of tensors that differ in nothing but their elements have the same bytes in front of these.
_fronts: dict[tuple[Any, ...], bytes] = {}
_MOST_FRONTS = 1024


def alone(tensor: Any, encode: Callable[[object], Frame]) -> Frame | None:
    """The frame that `encode` would make, in less time; None for a tensor that is not dense."""
    if not _is_ordinary(tensor) or not tensor.is_contiguous() or not (nbytes := tensor.nbytes):
        return None
    untyped, form = tensor.untyped_storage(), _form_of(tensor)
    if not _has_memory(untyped):
        return None
    front = _fronts.get(form)
    if front is None:
        frame = encode(tensor)
        if _form_of(tensor) == form:  # else others were at it meanwhile
            if len(_fronts) >= _MOST_FRONTS:
                _fronts.clear()
            _fronts[form] = front_of(frame)
        return frame
    start = tensor.storage_offset() * tensor.element_size()
    elements = octets_of(untyped, start, nbytes).data
    return Frame([(0, memoryview(front)), (len(front), elements)])


def _form_of(tensor: Any) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad


def front_of(frame: Frame) -> bytes:
    """Bytes of a dense tensor's frame that lie in front of its elements."""
    *pieces, (offset, _) = frame.pieces
    front = bytearray(offset)
    for at, piece in pieces:
        front[at : at + piece.nbytes] = piece
    return bytes(front)


# --- when it is read


class Rebuilt:
    """A `Storage` as it comes back, with nothing made of it yet."""

    __slots__ = ("_entry", "_tensor", "_words", "_writable")

    def __init__(self, writable: memoryview, entry: Entry) -> None:
        """The one that `entry` of the table describes, in a writable view of the frame."""
        self._entry = entry
        self._writable = writable
        self._tensor: Any = None  # any that fills it
        self._words: list[int] | None = None

    @property
    def nbytes(self) -> int:
        return self._entry.nbytes

    def words(self) -> list[int]:
        if self._words is None:
            offset, _, words, _ = self._entry
            self._words = self._writable[offset - words * WORD : offset].cast("q").tolist()
        return self._words

    def fill(self, dtype: Any, size: tuple[int, ...]) -> Any:
        """A tensor of all of it, with the storage that all its tensors share; it has that size."""
        torch = _torch()
        offset, nbytes, _, _ = self._entry
        known = _of_numpy.get(dtype)
        if self._tensor is None and known is not None:  # in half the time of the next
            array = np.frombuffer(self._writable, known, nbytes // known.itemsize, offset)
            self._tensor = tensor = torch.from_numpy(array.reshape(size))
            return tensor
        if self._tensor is None and dtype is torch.bfloat16:
            memory = self._writable[offset : offset + nbytes]
            self._tensor = tensor = torch.frombuffer(memory, dtype=dtype).view(size)
            return tensor
        # frombuffer() crashes with some dtypes
        return torch.empty((0,), dtype=dtype).set_(self.untyped, 0, size, _steps(size))

    @property
    def untyped(self) -> Any:
        """The storage, of which there is one."""
        if self._tensor is None:
            self.fill(_torch().uint8, (self.nbytes,))
        return self._tensor.untyped_storage()


def validate_sparse() -> None:
    """Validates rebuilt sparse tensors, as torch.load does in the end.

    torch keeps each of them till then, and the block would be pinned for ever.
    """
    validate = getattr(_torch()._utils, "_validate_loaded_sparse_tensors", None)
    if validate is not None:
        validate()


# The functions below are named in pickle streams, so a store may outlive a change of their names.


@named_in_pickles
def same_storage(rebuilt: Rebuilt) -> Rebuilt:
    if type(rebuilt) is not Rebuilt:
        raise _misplaced("storage", rebuilt, "not one of torch's")
    return rebuilt


@named_in_pickles
def rebuild_tensor(
    storage: Rebuilt, at: int, dtype: Any, size: tuple[int, ...], requires_grad: bool
) -> Any:
    tensor = _torch().empty((0,), dtype=dtype)
    itemsize, nbytes = dtype.itemsize, storage.nbytes
    words = storage.words()
    layout = words[at : at + 1 + len(size)]
    if len(layout) != 1 + len(size):
        raise _misplaced("words", len(words), "too few for its tensors")
    for number in layout:
        if number < 0 or number % itemsize:
            raise _misplaced("layout", number, f"not a multiple of {itemsize}")
    start, *strides = layout
    if 0 not in size:
        stop = start + sum((n - 1) * step for n, step in zip(size, strides, strict=True)) + itemsize
        if stop > nbytes:
            raise _misplaced("layout", stop, _STORAGE_HAS.format(nbytes))
    steps = [step // itemsize for step in strides]
    tensor.set_(storage.untyped, start // itemsize, size, steps)
    return tensor.requires_grad_(requires_grad)


@named_in_pickles
def rebuild_whole(storage: Rebuilt, dtype: Any, size: tuple[int, ...], requires_grad: bool) -> Any:
    nbytes = storage.nbytes
    if math.prod(size) * dtype.itemsize != nbytes or not nbytes:
        raise _misplaced("size", size, _STORAGE_HAS.format(nbytes))
    tensor = storage.fill(dtype, size)
    return tensor.requires_grad_() if requires_grad else tensor


_STORAGE_HAS = "its storage has {} bytes"


def _misplaced(field: str, value: object, why: str) -> StoreCorruptedError:
    return StoreCorruptedError(
        f"a tensor in this object is not as refstore wrote it: its {field} is {value}, {why}"
    )


@named_in_pickles
def rebuild_typed_storage(storage: Rebuilt, dtype: Any) -> Any:
    return _torch().TypedStorage(wrap_storage=storage.untyped, dtype=dtype, _internal=True)


@named_in_pickles
def rebuild_untyped_storage(storage: Rebuilt) -> Any:
    return storage.untyped
