"""From a Python object to the bytes of a block: what is needed first, then the one copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refstore import arrays
from refstore.locked.layout import KINDS
from refstore.payload import RELEASES_GIL, encode

BYTES, ARRAY, OBJECT = range(len(KINDS))


class Prepared(NamedTuple):
    """An object that is measured, and has yet to be written."""

    nbytes: int
    kind: int
    text: bytes  # an array's description
    fill: Callable[[memoryview], None]  # writes exactly `nbytes` bytes


def _copy(target: memoryview, source: Any) -> None:
    if target.nbytes < RELEASES_GIL:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def _nothing(target: memoryview) -> None:
    pass


def prepare(obj: object) -> Prepared:
    """TypeError, pickle.PicklingError and what else pickle raises for what cannot be stored."""
    if type(obj) is bytes:
        return Prepared(len(obj), BYTES, b"", lambda target: _copy(target, obj))
    if type(obj) is np.ndarray and not obj.dtype.hasobject:
        return _prepare_array(obj)
    if isinstance(obj, (bytearray, memoryview)):
        return _prepare_buffer(memoryview(obj))
    frame = encode(obj)
    return Prepared(frame.nbytes, OBJECT, b"", frame.write)


def _prepare_buffer(view: memoryview) -> Prepared:
    if not view.nbytes:
        return Prepared(0, BYTES, b"", _nothing)
    plain = np.frombuffer(view if view.c_contiguous else view.tobytes(), np.uint8)
    return Prepared(view.nbytes, BYTES, b"", lambda target: _copy(target, plain))


def _prepare_array(array: npt.NDArray[Any]) -> Prepared:
    axes = tuple(range(array.ndim))
    if not array.flags.c_contiguous:  # the axes keep the order in which they lie, without the gaps
        axes = arrays.axes_in_memory(array)
    text = arrays.describe(array.dtype, array.shape, axes)
    if not array.flags.c_contiguous:
        array = arrays.stored_part(array, axes).transpose(arrays.plain_axes(axes))
    nbytes = array.nbytes
    if not nbytes:
        return Prepared(0, ARRAY, text, _nothing)
    if array.flags.c_contiguous:
        octets = array.reshape(-1).view(np.uint8)
        return Prepared(nbytes, ARRAY, text, lambda target: _copy(target, octets))

    def fill(target: memoryview) -> None:
        np.copyto(np.ndarray(array.shape, array.dtype, target), array, casting="no")

    return Prepared(nbytes, ARRAY, text, fill)
