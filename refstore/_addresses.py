"""Addresses of views, whatever kind of object they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["address_of"]


def address_of(view: Any) -> tuple[int, int] | None:
    """Address and bytes from the lowest to the highest of a view; None if it has no bytes here.

    Errors: TypeError for what has no buffer.
    """
    if not isinstance(view, np.ndarray):
        if hasattr(view, "data_ptr") and hasattr(view, "stride"):
            return _of_tensor(view)
        view = _as_array(view)
    return _span(view.__array_interface__["data"][0], view.shape, view.strides, view.itemsize)


def _as_array(view: Any) -> Any:
    """An array over the memory of what exports a buffer or has an `__array_interface__`."""
    try:
        exported = memoryview(view)
    except TypeError:
        if not hasattr(view, "__array_interface__"):
            raise _no_buffer(view) from None
        return np.asarray(view)
    except (BufferError, ValueError):  # of a dtype that no format says, or it is closed
        return np.asarray(view)
    try:
        return np.asarray(exported)
    except (ValueError, RuntimeError):  # a format that numpy does not know
        return np.frombuffer(exported, np.uint8)


def _of_tensor(tensor: Any) -> tuple[int, int] | None:
    # not by its numpy(), which does not know every dtype, nor a tensor that requires grad
    if tensor.device.type != "cpu":
        return None
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # a sparse one, which is of several pieces
        raise _no_buffer(tensor) from None
    itemsize = tensor.element_size()
    strides = [step * itemsize for step in tensor.stride()]
    return _span(address, tensor.shape, strides, itemsize)


def _span(
    address: int, shape: Sequence[int], strides: Sequence[int], itemsize: int
) -> tuple[int, int] | None:
    if not itemsize or 0 in shape or not address:
        return None
    steps = [stride * (n - 1) for n, stride in zip(shape, strides, strict=True)]
    low = sum(step for step in steps if step < 0)
    high = sum(step for step in steps if step > 0)
    return address + low, high - low + itemsize


def _no_buffer(view: object) -> TypeError:
    return TypeError(
        f"{type(view).__name__} has no buffer: give an array, a tensor, a memoryview or a "
        "PinnedBuffer"
    )
