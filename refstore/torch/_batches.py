"""Structures of tensors as one object: batches of a DataLoader, stacked where they will lie.

A structure is dicts, lists and tuples with tensors in them. Its tensors lie one after the other in
the object, each at a multiple of 64; the rest of it, with a `Place` where a tensor was, is what
travels by pickle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

from refstore._errors import StoreFullError
from refstore._handles import handle_of
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.payload.frames import aligned
from refstore.torch._taking import taken

__all__ = ["Collate", "Place", "is_plain", "mapped"]


class Place(NamedTuple):
    """Place of a tensor in an object, and its type."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def nbytes(self) -> int:
        nbytes: int = math.prod(self.shape) * self.dtype.itemsize
        return nbytes

    def in_(self, octets: torch.Tensor) -> torch.Tensor:
        """The tensor there, over the object's memory."""
        part = octets[self.offset : self.offset + self.nbytes()]
        return part.view(self.dtype).view(self.shape)


def is_plain(tensor: Any) -> bool:
    """Whether it is nothing but its numbers in memory that this process can read."""
    return (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def mapped(structure: Any, leaf: Callable[[Any], Any], atom: type = Place) -> Any:
    """The same structure with `leaf(...)` of all in it that is no dict, list or tuple, or is of the
    type `atom`."""
    kind = type(structure)
    if kind is dict:
        return {key: mapped(value, leaf, atom) for key, value in structure.items()}
    if kind is list or kind is tuple:
        return kind(mapped(value, leaf, atom) for value in structure)
    if isinstance(structure, tuple) and hasattr(structure, "_fields") and kind is not atom:
        return kind(*(mapped(value, leaf, atom) for value in structure))
    return leaf(structure)


class _Layout:
    """Tensors that are to lie in one object, and copied there."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._pieces: list[tuple[Place, Sequence[torch.Tensor]]] = []

    def single(self, value: Any) -> Any:
        """A leaf of a batch that is made already."""
        if not is_plain(value) or value.requires_grad:
            return value
        return self._place([value], tuple(value.shape))

    def stacked(self, samples: Sequence[Any]) -> Any:
        """A batch of samples, in the form that `default_collate()` gives it."""
        first = samples[0]
        kind = type(first)
        if kind is np.ndarray and first.dtype.kind in "biufc":
            samples = [torch.as_tensor(each) for each in samples]
            first = samples[0]
        if isinstance(first, torch.Tensor) and _can_be_stacked(samples):
            return self._place(samples, (len(samples), *first.shape))
        if kind is dict and all(type(each) is dict for each in samples):
            return {key: self.stacked([each[key] for each in samples]) for key in first}
        is_row = kind is tuple or kind is list or hasattr(first, "_fields")
        if is_row and isinstance(first, tuple | list) and len({len(s) for s in samples}) == 1:
            parts = [self.stacked(column) for column in zip(*samples, strict=True)]
            return kind(*parts) if hasattr(first, "_fields") else parts
        return mapped(default_collate(samples), self.single)

    def _place(self, tensors: Sequence[torch.Tensor], shape: tuple[int, ...]) -> Any:
        place = Place(self.nbytes, tensors[0].dtype, shape)
        if not place.nbytes():
            return torch.empty(shape, dtype=place.dtype)  # which has no memory to lie anywhere
        self.nbytes = aligned(self.nbytes + place.nbytes())
        self._pieces.append((place, tensors))
        return place

    def write(self, octets: torch.Tensor) -> None:
        for place, tensors in self._pieces:
            target = place.in_(octets)
            if len(place.shape) > tensors[0].dim():
                torch.stack(list(tensors), out=target)
            else:
                target.copy_(tensors[0])


def _can_be_stacked(tensors: Sequence[Any]) -> bool:
    shape, dtype = tensors[0].shape, tensors[0].dtype
    return all(
        is_plain(each) and not each.requires_grad and each.shape == shape and each.dtype == dtype
        for each in tensors
    )


class Collate:
    """Function that `collate()` returns: makes a batch, in workers in the store."""

    def __init__(self, store: Store, collate_fn: Callable[[Any], Any] | None) -> None:
        self._store, self._collate_fn = store, collate_fn
        self._handle = handle_of(store)

    def __reduce__(self) -> Any:
        return type(self), (self._store, self._collate_fn)

    def __call__(self, samples: Any) -> Any:
        make = self._collate_fn or default_collate
        if get_worker_info() is None:
            return make(samples)
        layout, batch = _Layout(), None
        with torch.no_grad():
            if self._collate_fn is None and isinstance(samples, list) and samples:
                rest = layout.stacked(samples)
            else:
                batch = make(samples)
                rest = mapped(batch, layout.single)
            if not layout.nbytes:
                return rest
            try:
                # To wait would be in vain: the loader takes batches in their order, and the room
                # may be that of later ones.
                writer = self._store.create(layout.nbytes, owned=True)
            except StoreFullError:
                return make(samples) if batch is None else batch
            with writer:
                _write(layout, writer)
        return _Sent(self._handle, writer.ref, rest)


def _write(layout: _Layout, writer: Any) -> None:
    # in a function of its own: no view is left when the object is sealed
    layout.write(torch.frombuffer(memoryview(writer), dtype=torch.uint8))


class _Sent:
    """A batch on its way: what reads it has the batch itself."""

    def __init__(self, *args: Any) -> None:
        self._args = args

    def __reduce__(self) -> Any:
        return _batch, self._args


def _batch(handle: bytes, ref: ObjectRef, rest: Any) -> Any:
    with taken(handle, ref) as buf:
        octets = torch.frombuffer(memoryview(buf), dtype=torch.uint8)

    def back(leaf: Any) -> Any:
        return leaf.in_(octets) if isinstance(leaf, Place) else leaf

    return mapped(rest, back)
