"""Preparation of a put: from a Python object to what its block needs, then the one copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from refstore import payload
from refstore._arguments import checked_size
from refstore.engines.filelock import slots
from refstore.engines.filelock.layout import KINDS
from refstore.engines.filelock.targets import PIECE, Target, pieces
from refstore.payload import arrays, headers

BYTES, ARRAY, OBJECT = range(len(KINDS))


class Prepared(NamedTuple):
    """An object that is measured, and has yet to be written."""

    nbytes: int
    kind: int
    text: bytes  # an array's description
    fill: Callable[[Target], None]  # writes exactly `nbytes` bytes

    def wanted(self, meta: bytes) -> slots.Wanted:
        """The slot and the block to ask for."""
        return slots.Wanted(self.nbytes, self.kind, self.text, meta)


def _nothing(target: Target) -> None:
    pass


def prepare(obj: object) -> Prepared:
    """TypeError, pickle.PicklingError and what else pickle raises for what cannot be stored."""
    if type(obj) is bytes:
        return Prepared(len(obj), BYTES, b"", lambda target: target.copy(0, obj))
    kind = KINDS.index(headers.kind_of(obj))
    if kind == ARRAY:
        return _prepare_array(cast("npt.NDArray[Any]", obj))
    if kind == BYTES:
        return _prepare_buffer(memoryview(cast("bytearray", obj)))
    frame = payload.encode(obj)
    return Prepared(frame.nbytes, OBJECT, b"", lambda target: _write_frame(target, frame))


def by_header(nbytes: SupportsIndex | None, header: object) -> slots.Wanted:
    """A block for what has a header. TypeError, ValueError."""
    assert nbytes is not None
    size = checked_size(nbytes)
    kind, text = headers.read_header(header, size)
    return slots.Wanted(size, KINDS.index(kind), text)


def by_shape(
    shape: SupportsIndex | tuple[SupportsIndex, ...], dtype: np.dtype[Any], order: str
) -> slots.Wanted:
    """A block for an array. TypeError, ValueError."""
    extents, nbytes = arrays.measure(shape, dtype)
    clipped = tuple(checked_size(n) for n in extents)
    axes = tuple(range(len(extents)))
    text = arrays.describe(dtype, clipped, axes if order == "C" else axes[::-1])
    return slots.Wanted(checked_size(nbytes), ARRAY, text)


def _write_frame(target: Target, frame: payload.Frame) -> None:
    for offset, piece in frame.pieces:
        for start, end in pieces(piece.nbytes):
            part = target.part(offset + start, end - start)
            payload._copy(part, piece[start:end])


def _prepare_buffer(view: memoryview) -> Prepared:
    if not view.nbytes:
        return Prepared(0, BYTES, b"", _nothing)
    plain = np.frombuffer(arrays.octets_of(view), np.uint8)
    return Prepared(view.nbytes, BYTES, b"", lambda target: target.copy(0, plain))


def _prepare_array(array: npt.NDArray[Any]) -> Prepared:
    text, array = arrays.described(array)
    nbytes = array.nbytes
    if not nbytes:
        return Prepared(0, ARRAY, text, _nothing)
    if array.flags.c_contiguous:
        octets = arrays.elements_of(array)
        return Prepared(nbytes, ARRAY, text, lambda target: target.copy(0, octets))
    return Prepared(nbytes, ARRAY, text, lambda target: _copy_strided(target, 0, array))


def _copy_strided(target: Target, offset: int, source: npt.NDArray[Any]) -> None:
    """Copies in pieces: some of what the first axis counts, or a part of one of them."""
    if source.nbytes <= PIECE or not source.ndim:
        piece = target.array(offset, source.shape, source.dtype)
        np.copyto(piece, source)
        return
    row = source.nbytes // len(source)
    step = max(PIECE // row, 1)
    for first in range(0, len(source), step):
        some = source[first] if row > PIECE else source[first : first + step]
        _copy_strided(target, offset + first * row, some)
