"""Samples of one form in one object: each of their tensors a column, as a table has them.

    0      header     MAGIC, the number of samples, the size of the form
    then   form       a pickle: the structure of a sample, with a `Column` for each leaf
    then   columns    each at a multiple of 64, each sample's part after the one before it

A sample is a structure of tensors, arrays of numbers, ints, floats and bools; each has to have the
types, dtypes and shapes of the first one.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from refstore._buffers import PinnedBuffer
from refstore._errors import StoreCorruptedError
from refstore.payload.frames import aligned
from refstore.payload.rules import require_unpickling
from refstore.torch._batches import Place, is_plain, mapped

__all__ = ["Columns", "Form", "OtherFormError"]

MAGIC = b"RSTORCH1"
HEADER = struct.Struct("=8sQQ")
SCALARS: dict[type, torch.dtype] = {int: torch.int64, float: torch.float64, bool: torch.bool}


class OtherFormError(Exception):
    """Raised for a sample that is not as the first one was."""


class Column(NamedTuple):
    """One leaf of all samples: its place, and which type it is of."""

    place: Place
    kind: str  # "tensor", "array", or "scalar"


def _as_tensor(value: Any) -> tuple[torch.Tensor, str]:
    dtype = SCALARS.get(type(value))
    if dtype is not None:
        try:
            return torch.tensor(value, dtype=dtype), "scalar"
        except (OverflowError, RuntimeError, ValueError):  # an int of more than 64 bits
            raise OtherFormError from None
    if is_plain(value) and not value.requires_grad:
        return value.resolve_conj().resolve_neg(), "tensor"
    if type(value) is np.ndarray and value.dtype.isnative and value.dtype.kind in "biufc":
        try:
            return torch.from_numpy(np.array(value)), "array"
        except TypeError:  # a dtype that torch does not have
            raise OtherFormError from None
    raise OtherFormError


class Form:
    """Form of the samples: where each of them goes. Errors: OtherFormError."""

    def __init__(self, first: Any, count: int) -> None:
        self._count, self._end = count, 0
        self._columns: list[Column] = []
        structure = mapped(first, self._add)
        self._form = pickle.dumps(structure, 5)
        self._start = aligned(HEADER.size + len(self._form))
        self.nbytes = self._start + self._end
        self._structure = _shape_of(first)

    def _add(self, leaf: Any) -> Column:
        tensor, kind = _as_tensor(leaf)
        column = Column(Place(self._end, tensor.dtype, (self._count, *tensor.shape)), kind)
        self._end = aligned(self._end + column.place.nbytes())
        self._columns.append(column)
        return column

    def write(self, octets: torch.Tensor, sample_at: Callable[[int], Any]) -> None:
        head = HEADER.pack(MAGIC, self._count, len(self._form)) + self._form
        octets[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        targets = [column.place.in_(octets[self._start :]) for column in self._columns]
        for i in range(self._count):
            sample = sample_at(i)
            if _shape_of(sample) != self._structure:
                raise OtherFormError
            leaves: list[Any] = []
            mapped(sample, leaves.append)
            for leaf, column, target in zip(leaves, self._columns, targets, strict=True):
                tensor, kind = _as_tensor(leaf)
                same = (kind, tensor.dtype, tensor.shape) == (
                    column.kind,
                    target.dtype,
                    target.shape[1:],
                )
                if not same:
                    raise OtherFormError
                target[i] = tensor


def _shape_of(sample: Any) -> Any:
    """A sample's structure, to be compared with another one's."""
    kind = type(sample)
    if kind is dict:
        return kind, [(key, _shape_of(value)) for key, value in sample.items()]
    if isinstance(sample, tuple | list):
        return kind, [_shape_of(value) for value in sample]
    return kind


class Columns:
    """The samples of a pinned object, over its memory."""

    def __init__(self, buf: PinnedBuffer) -> None:
        """Errors: StoreCorruptedError."""
        view = memoryview(buf)
        _, self.count, nbytes = HEADER.unpack_from(view)
        start = aligned(HEADER.size + nbytes)
        require_unpickling(buf)
        try:
            structure = pickle.loads(view[HEADER.size : HEADER.size + nbytes])
            octets = torch.frombuffer(view, dtype=torch.uint8)[start:]
            self._structure = mapped(structure, lambda each: _shown(each, octets), Column)
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
            raise StoreCorruptedError(f"these samples are damaged: {error}") from error

    @staticmethod
    def are_in(buf: PinnedBuffer) -> bool:
        """Whether an object has samples in this form."""
        return buf.kind == "bytes" and bytes(memoryview(buf)[: len(MAGIC)]) == MAGIC

    def sample(self, i: int) -> Any:
        return mapped(self._structure, lambda column: column[i])


def _shown(column: Column, octets: torch.Tensor) -> Any:
    """Memory of one leaf of all samples: its item `i` is that of sample i."""
    tensor = column.place.in_(octets)
    if column.kind == "tensor":
        return tensor
    return _Scalars(tensor.numpy()) if column.kind == "scalar" else tensor.numpy()


class _Scalars:
    """Numbers as Python has them."""

    def __init__(self, array: Any) -> None:
        self._item = array.item

    def __getitem__(self, i: int) -> Any:
        return self._item(i)
