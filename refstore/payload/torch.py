"""torch tensors inside objects: storages out of band, shared again by the tensors that shared them.

A tensor is often a small view of a big storage, such as one row of a data set. What is stored of a
storage is what the tensors of the object show of it, packed by `spans`. How they lie in what is
stored is known only once all of them were met, when the pickle is already written. So each tensor
gets a number in it, and the words in front of the storage's bytes hold under that number its
offset and its strides, in bytes.

torch has no read-only tensors, and writing to read-only memory kills the process, so storages are
rebuilt over a private copy-on-write view of the frame.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refstore._errors import RefstoreError, StoreCorruptedError
from refstore._pickled import named_in_pickles
from refstore.payload import spans
from refstore.payload.frames import WORD, Entry, Run

__all__ = ["Storage", "Storages", "rebuilt", "require_torch", "validate_sparse"]


def _torch() -> Any:
    """Finds torch by name: nothing here needs it to be installed."""
    torch = sys.modules.get("torch")
    if hasattr(torch, "UntypedStorage"):  # or another thread is still importing it
        return torch
    return importlib.import_module("torch")  # which takes longer than to read a small tensor


def require_torch() -> None:
    """RefstoreError where torch cannot be imported."""
    try:
        _torch()
    except ImportError as error:
        raise RefstoreError(
            f"this object holds tensors, and torch cannot be imported here ({error}); install it"
        ) from error


# --- when an object is put


class Storage:
    """Stands in for a torch storage in the pickle, and gathers what of it is shown."""

    __slots__ = ("_untyped", "_views", "_words", "marker")

    def __init__(self, untyped: Any) -> None:
        self._untyped = untyped
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

    def run(self) -> Run:
        torch = _torch()
        octets = torch.empty(0, dtype=torch.uint8)
        octets.set_(self._untyped, 0, (self._untyped.nbytes(),), (1,))
        pieces, nbytes, places = spans.pack(octets.numpy(), self._views)
        return Run(pieces, nbytes, [word for start, steps in places for word in (start, *steps)])


class Storages:
    """The storages that were met in one object."""

    def __init__(self) -> None:
        self._by_address: dict[int, Storage] = {}  # of torch's own storage object
        self._by_marker: dict[int, Storage] = {}  # by the marker's id

    def reducers(self) -> dict[type, Callable[[Any], Any]]:
        torch: Any = sys.modules.get("torch")
        if not hasattr(torch, "UntypedStorage"):  # or another thread is still importing it
            return {}
        return {
            torch.Tensor: self._reduce_tensor,
            torch.TypedStorage: self._reduce_typed_storage,
            torch.UntypedStorage: self._reduce_untyped_storage,
        }

    def marked_by(self, buffer: pickle.PickleBuffer) -> Storage | None:
        return self._by_marker.get(id(buffer))

    def _storage(self, untyped: Any) -> Storage:
        """The one stand-in for a storage: tensors that share it share the stand-in too."""
        key = untyped._cdata
        storage = self._by_address.get(key)
        if storage is None:
            storage = self._by_address[key] = Storage(untyped)
            self._by_marker[id(storage.marker)] = storage
        return storage

    def _whole(self, untyped: Any) -> Storage:
        storage = self._storage(untyped)
        storage.show(spans.View(0, 1, (untyped.nbytes(),), (1,)))
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
        itemsize = tensor.element_size()
        start = tensor.storage_offset() * itemsize
        size, strides = tuple(tensor.shape), tuple(n * itemsize for n in tensor.stride())
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


def _has_memory(untyped: Any) -> bool:
    """Whether this process can read the storage's bytes: not those of a GPU or a fake tensor."""
    if untyped.device.type != "cpu":
        return False
    try:
        return bool(untyped.data_ptr() or not untyped.nbytes())
    except RuntimeError:  # a tensor that only looks as if it had memory
        return False


# --- when it is read


class Rebuilt(NamedTuple):
    """A `Storage` as it comes back."""

    untyped: Any
    words: np.ndarray[Any, np.dtype[np.int64]]


def rebuilt(writable: memoryview, entry: Entry) -> Rebuilt:
    """The storage that `entry` of the table describes, in a writable view of the frame."""
    torch = _torch()
    memory = writable[entry.offset : entry.offset + entry.nbytes]
    untyped = (
        torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
        if memory.nbytes
        else torch.UntypedStorage(0)
    )
    words = writable[entry.offset - entry.words * WORD : entry.offset]
    return Rebuilt(untyped, np.frombuffer(bytes(words), np.int64))


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
    return rebuilt


@named_in_pickles
def rebuild_tensor(
    storage: Rebuilt, at: int, dtype: Any, size: tuple[int, ...], requires_grad: bool
) -> Any:
    tensor = _torch().empty((0,), dtype=dtype)
    itemsize, nbytes = tensor.element_size(), storage.untyped.nbytes()
    layout = storage.words[at : at + 1 + len(size)].tolist()
    if len(layout) != 1 + len(size):
        raise _misplaced("words", len(storage.words), "too few for its tensors")
    for number in layout:
        if number < 0 or number % itemsize:
            raise _misplaced("layout", number, f"not a multiple of {itemsize}")
    start, *strides = layout
    if 0 not in size:
        stop = start + sum((n - 1) * step for n, step in zip(size, strides, strict=True)) + itemsize
        if stop > nbytes:
            raise _misplaced("layout", stop, f"its storage has {nbytes} bytes")
    steps = [step // itemsize for step in strides]
    tensor.set_(storage.untyped, start // itemsize, size, steps)
    return tensor.requires_grad_(requires_grad)


def _misplaced(field: str, value: int, why: str) -> StoreCorruptedError:
    return StoreCorruptedError(
        f"a tensor in this object is not as refstore wrote it: its {field} is {value}, {why}"
    )


@named_in_pickles
def rebuild_typed_storage(storage: Rebuilt, dtype: Any) -> Any:
    return _torch().TypedStorage(wrap_storage=storage.untyped, dtype=dtype, _internal=True)


@named_in_pickles
def rebuild_untyped_storage(storage: Rebuilt) -> Any:
    return storage.untyped
