"""How an ndarray is described beside its bytes, when a plain number does not say it all.

A description holds the dtype, the shape and the order in which the axes lie in memory, slowest
first. Arrays are stored without gaps, so the strides follow from these.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from refstore.payload import describe_dtype, dtype_from


def axes_in_memory(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The axes of `array`, slowest first, as `numpy.copy` with order "K" has them."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def strides_of(shape: tuple[int, ...], axes: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of an array without gaps whose axes lie in memory in the order `axes`."""
    strides = [0] * len(shape)
    step = itemsize
    for axis in reversed(axes):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def describe(dtype: np.dtype[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> bytes:
    """A description of any length, for `read`. TypeError for a dtype with Python objects."""
    n = len(shape)
    return struct.pack(f"<B{n}Q{n}B", n, *shape, *axes) + describe_dtype(dtype)


def read(text: bytes) -> tuple[np.dtype[Any], tuple[int, ...], tuple[int, ...]]:
    """dtype, shape and strides in bytes of a described array."""
    n = text[0]
    numbers = struct.unpack_from(f"<{n}Q{n}B", text, 1)
    shape, axes = numbers[:n], numbers[n:]
    dtype = dtype_from(text[1 + 9 * n :])
    return dtype, shape, strides_of(shape, axes, dtype.itemsize)
