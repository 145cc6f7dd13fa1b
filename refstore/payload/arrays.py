"""Descriptions of ndarrays beside their bytes, for when a plain number does not say it all.

    number of axes 8 bits | extents, 64 bits each | axes, 8 bits each | dtype

The axes stand in the order in which they lie in memory, slowest first; one that repeats what lies
there, since its stride is 0, has REPEATED added. Arrays are stored without gaps, and what is
repeated is stored once, so the strides follow from these. The dtype is a marker, then the text that
numpy makes it from, or a pickle where there is none.

Whoever writes to a store file can run code in its readers by that pickle, as by any other. All else
is checked: a description that does not fit its block is a DescriptionError.
"""

from __future__ import annotations

import functools
import io
import math
import operator
import pickle
import re
import struct
import sys
from collections.abc import Iterable
from typing import Any, Final, SupportsIndex

import numpy as np
import numpy.typing as npt

from refstore import _messages
from refstore._signals import is_from_handler

__all__ = [
    "DescriptionError",
    "axes_in_memory",
    "axes_of",
    "describe",
    "describe_dtype",
    "dtype_from",
    "has_plain_view",
    "measure",
    "plain_axes",
    "read",
    "stored_part",
    "strides_of",
]

REPEATED: Final = 0x80
MAX_AXES: Final = 64  # numpy's own limit

_TEXT, _PICKLE = b"t", b"p"
# What numpy calls its own dtypes. It would take more: lists of fields, names of modules' types.
_TEXT_OF_DTYPE: Final = re.compile(rb"[<>|=][A-Za-z?][0-9]*(\[[0-9]*[A-Za-z]+\])?")


class DescriptionError(Exception):
    """An invalid part of a description, as in "the shape"."""


LENGTH: Final = "the length of the description"
ORDER: Final = "the order of the axes"


# --- layouts


def axes_in_memory(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The axes of `array`, slowest first, as `numpy.copy` with order "K" has them."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    if 0 not in array.strides or not array.nbytes:
        return tuple(order)
    repeated = {axis for axis in order if array.strides[axis] == 0 and array.shape[axis] > 1}
    return tuple(axis | REPEATED if axis in repeated else axis for axis in order)


def plain_axes(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The same order, for an array of which nothing is repeated."""
    return tuple(axis & ~REPEATED for axis in axes)


def elements_of(array: Any) -> Any:
    """The bytes of an array's elements in C order, copied if they do not lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def octets_of(view: memoryview) -> memoryview:
    """The bytes of a view, copied if they have gaps: by numpy, which does it without the GIL and
    faster than memoryview, as far as it knows the format."""
    if view.c_contiguous:
        return view
    try:
        array = np.asarray(view)
    except (ValueError, TypeError, RuntimeError):
        array = None
    if array is None or array.nbytes != view.nbytes or array.dtype.hasobject:
        return memoryview(view.tobytes())
    return memoryview(elements_of(array))


def described(array: Any) -> tuple[bytes, Any]:
    """The description of an array, and what is stored of it, its axes as they come in memory."""
    if array.flags.c_contiguous:
        return describe(array.dtype, array.shape, tuple(range(array.ndim))), array
    axes = axes_in_memory(array)  # which keep the order in which they lie, without the gaps
    text = describe(array.dtype, array.shape, axes)
    return text, stored_part(array, axes).transpose(plain_axes(axes))


def stored_part(array: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """`array` less what it repeats along these axes: they have an extent of 1."""
    part: list[Any] = [slice(None)] * array.ndim
    for axis in axes:
        if axis & REPEATED:
            part[axis & ~REPEATED] = slice(1)
    part.append(...)  # even of 0 axes it is an array
    stored: npt.NDArray[Any] = array[tuple(part)]
    return stored


def strides_of(shape: tuple[int, ...], axes: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of an array without gaps whose axes lie in memory in the order `axes`."""
    strides = [0] * len(shape)
    step = itemsize
    for axis in reversed(axes):
        if not axis & REPEATED:
            strides[axis] = step
            step *= max(shape[axis], 1)
    return tuple(strides)


def measure(
    shape: SupportsIndex | Iterable[SupportsIndex], dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], int]:
    """The extents of an array that is asked for, and its size in bytes.

    TypeError for a dtype with Python objects; ValueError for what no array can be.
    """
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} holds Python objects, which cannot lie in shared memory: put() pickles "
            "them"
        )
    extents = _extents(shape)
    if len(extents) > MAX_AXES:
        raise ValueError(f"an array has at most {MAX_AXES} dimensions, not {len(extents)}")
    if min(extents, default=0) < 0:
        raise _messages.negative_size(min(extents))
    nbytes = dtype.itemsize * math.prod(extents)
    if nbytes == 0 and not _is_countable(extents, dtype.itemsize):
        raise ValueError(f"an array of shape {extents} has too large extents, though it is empty")
    return extents, nbytes


def _extents(shape: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        return (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        return tuple(operator.index(extent) for extent in shape)  # type: ignore[union-attr]


def _is_countable(extents: tuple[int, ...], itemsize: int) -> bool:
    # numpy counts in as many bits as sys.maxsize has, and leaves extents of 0 out of it
    whole = itemsize * math.prod(extent for extent in extents if extent)
    return max(whole, *extents, 0) <= sys.maxsize


# --- descriptions


def describe(dtype: np.dtype[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> bytes:
    """A description of any length, for `read`. TypeError for a dtype with Python objects."""
    n = len(shape)
    return struct.pack(f"<B{n}Q{n}B", n, *shape, *axes) + describe_dtype(dtype)


def axes_of(text: bytes) -> tuple[int, ...]:
    """The axes of a described array, slowest first, as `axes_in_memory` has them."""
    n = text[0] if text else 0
    return tuple(text[1 + 8 * n : 1 + 9 * n])


def has_plain_view(text: bytes) -> bool:
    """Whether there is a memoryview of a described array whose bytes are those that are stored."""
    axes = axes_of(text)
    return axes == tuple(range(len(axes))) and _has_format(text[1 + 9 * len(axes) :])


@functools.lru_cache(maxsize=256)
def _has_format(description: bytes) -> bool:
    try:
        dtype = dtype_from(description)
        array: Any = np.empty(0, dtype)
        memoryview(array).release()
    except Exception as error:
        if is_from_handler(error):
            raise
        return not isinstance(error, ValueError)  # whoever wants more than its bytes is told
    return dtype.type is not np.void or dtype.names is not None


def read(text: bytes, nbytes: int) -> tuple[np.dtype[Any], tuple[int, ...], tuple[int, ...]]:
    """dtype, shape and strides in bytes of a described array that is stored in `nbytes` bytes.

    DescriptionError if it cannot lie there. pickle.UnpicklingError for a dtype of a package that
    this process cannot import.
    """
    n = text[0] if text else 0
    if n > MAX_AXES:
        raise DescriptionError("the number of axes")
    if len(text) < 2 + 9 * n:
        raise DescriptionError(LENGTH)
    numbers = struct.unpack_from(f"<{n}Q{n}B", text, 1)
    shape, axes = numbers[:n], numbers[n:]
    if sorted(plain_axes(axes)) != list(range(n)):
        raise DescriptionError(ORDER)
    dtype = dtype_from(text[1 + 9 * n :])
    _require_fit(shape, axes, dtype.itemsize, nbytes)
    return dtype, shape, strides_of(shape, axes, dtype.itemsize)


def _require_fit(shape: tuple[int, ...], axes: tuple[int, ...], itemsize: int, nbytes: int) -> None:
    stored = itemsize * math.prod(shape[axis] for axis in axes if not axis & REPEATED)
    if stored != nbytes or not _is_countable(shape, itemsize):
        raise DescriptionError("the shape")
    if any(axis & REPEATED and shape[axis & ~REPEATED] < 2 for axis in axes):
        raise DescriptionError(ORDER)


# --- dtypes


def describe_dtype(dtype: np.dtype[Any]) -> bytes:
    """Bytes from which `dtype_from` makes an identical dtype. TypeError if there are none."""
    if dtype.hasobject:
        raise TypeError(
            f"an array of dtype {dtype} holds references to Python objects, which mean nothing in"
            " another process; convert it to a dtype of plain bytes first"
        )
    if dtype.names is None and dtype.subdtype is None and dtype.metadata is None:
        return _describe_scalar(dtype, (dtype.char, dtype.type))
    return _PICKLE + pickle.dumps(dtype, 5)


# `what`: that tells those apart that are equal, such as long and long long.
@functools.lru_cache(maxsize=256)
def _describe_scalar(dtype: np.dtype[Any], what: tuple[str, object]) -> bytes:
    for text in (dtype.str, dtype.str[0] + dtype.char):
        if _is_made_from(text, dtype):
            return _TEXT + text.encode()
    pickled = pickle.dumps(dtype, 5)
    if not _identical(pickle.loads(pickled), dtype):  # its package is to blame
        raise TypeError(f"dtype {dtype} {what} comes out of its pickle as another one")
    return _PICKLE + pickled


def _is_made_from(text: str, dtype: np.dtype[Any]) -> bool:
    try:
        return _identical(np.dtype(text), dtype)
    except TypeError:  # numpy knows nothing by that letter
        return False


def _identical(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    return (
        one == other
        and one.char == other.char
        and one.type is other.type
        and one.metadata == other.metadata
        and one.isalignedstruct == other.isalignedstruct
    )


def dtype_from(description: bytes) -> np.dtype[Any]:
    """The dtype that `describe_dtype` described. Errors: as `read`."""
    marker, rest = description[:1], description[1:]
    dtype: Any = None
    if marker == _TEXT and _TEXT_OF_DTYPE.fullmatch(rest):
        dtype = _dtype_from_text(rest.decode())
    elif marker == _PICKLE:
        dtype = _dtype_from_pickle(rest)
    if not isinstance(dtype, np.dtype) or not _lies_within(dtype):
        raise DescriptionError("the dtype")
    return dtype


def _lies_within(dtype: Any) -> bool:
    """Whether a dtype is of plain bytes, and none of its parts leads out of it."""
    if dtype.hasobject:
        return False
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _lies_within(base) and base.itemsize * math.prod(shape) == dtype.itemsize
    fields: Any = dtype.fields or {}
    return all(
        _lies_within(field[0]) and 0 <= field[1] <= dtype.itemsize - field[0].itemsize
        for field in fields.values()
    )


def names_code(text: bytes) -> bool:
    """Tells whether it takes more than numpy to make the dtype of a described array."""
    description = text[1 + 9 * text[0] :] if text else b""
    if description[:1] != _PICKLE:
        return False
    try:
        return not is_numpys_own(_Wary(io.BytesIO(description[1:])).load())
    except Exception as error:
        if is_from_handler(error):
            raise
        return True


class _Wary(pickle.Unpickler):
    """Calls nothing but `numpy.dtype`."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("dtype", "record"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no dtype of numpy")


def is_numpys_own(dtype: Any) -> bool:
    """Tells whether numpy alone makes such a dtype, of plain bytes that lie within it."""
    return isinstance(dtype, np.dtype) and _lies_within(dtype) and _is_numpys_own(dtype)


def _is_numpys_own(dtype: Any) -> bool:
    if dtype.metadata:
        return False
    if dtype.subdtype is not None:
        return _is_numpys_own(dtype.subdtype[0])
    if dtype.names is not None:
        fields: Any = dtype.fields
        return dtype.type in (np.void, np.record) and all(
            _is_numpys_own(fields[name][0]) for name in dtype.names
        )
    try:
        same = np.dtype(dtype.str)
    except Exception as error:  # whatever numpy says of what it did not make
        if is_from_handler(error):
            raise
        return False
    return same == dtype and (same.type, same.flags) == (dtype.type, dtype.flags)


def _dtype_from_text(text: str) -> np.dtype[Any] | None:
    try:
        dtype = np.dtype(text)
    except Exception as error:  # TypeError, ValueError, warnings that are errors
        if is_from_handler(error):
            raise
        return None
    return dtype if text in (dtype.str, dtype.str[0] + dtype.char) else None


def _dtype_from_pickle(pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError | MemoryError) or is_from_handler(error):
            raise
        if not isinstance(error, ImportError):  # whatever a class does that is not a dtype's
            raise DescriptionError("the dtype") from error
        raise pickle.UnpicklingError(
            f"the dtype of this array belongs to a package that cannot be imported here: {error}; "
            "install it, or read bytes(buf)"
        ) from error
