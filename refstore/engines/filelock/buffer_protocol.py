"""`Exporter`: the base of classes in Python whose objects are buffers, on every Python.

A subclass has `_buffer_for(flags)`, which returns what exports in its object's place, or raises.
PEP 688 gave classes in Python a way to say so, and only with 3.12. So there are four ways, and
`WAY` is the first of these that this Python has:

    CORE      the compiled core's class. A view belongs to what exported it: whoever keeps a view,
              or only what lies behind it (`memoryview.obj`), keeps that.
    METHOD    `__buffer__`. What lies behind a view is an object of Python's own, which lets go of
              what exported it when the view goes, though somebody may still keep that object.
              `torch.frombuffer(buf)` does, and is refused: see `SIMPLE_WRITABLE`. So does
              `numpy.ndarray(buffer=memoryview(buf))`, and cannot be told from others.
    FORWARD   a subclass of `pickle.PickleBuffer`, which forwards requests to an array given once
              and for all. What lies behind a view is as with the core, but `_buffer_for` is not
              asked: that `numpy.ndarray(buffer=buf)` keeps `buf` itself cannot be known, and an
              array that is not in C order has no plain bytes: numpy's arrays do not export both
              those and their shape. What is refused is numpy's ValueError, and a view for which no
              shape is asked has numpy's 0 dimensions instead of 1. A Writer that is truncated
              exports nothing from then on. (A memoryview would do better, but Python's collector
              crashes on cycles with a memoryview of a memoryview.)
    NONE      nothing exports: `bytes(buf)`, `buf.array` and `numpy.asarray(buf)` do.

All objects are made by `export`, and stop to export by `stop`.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from refstore import _messages

__all__ = [
    "FORMAT",
    "SIMPLE",
    "SIMPLE_WRITABLE",
    "WAY",
    "WRITABLE",
    "Exporter",
    "ReleasingExporter",
    "export",
    "is_typed",
    "require_format",
    "stop",
    "typed_view",
]

# What a request asks for, in bits (PEP 3118)
SIMPLE = 0
WRITABLE = 0x1
FORMAT = 0x4
ND = 0x8
STRIDES = 0x18
# torch.frombuffer() asks for this, then for SIMPLE, and keeps only what lies behind the view.
SIMPLE_WRITABLE = WRITABLE

Way = Literal["CORE", "METHOD", "FORWARD", "NONE"]
T = TypeVar("T", bound="Exporter")

_BASETYPE = 1 << 10  # in a type's flags: it takes subclasses
# Of one byte, and numpy finds no format for it, since its fields overlap.
_NO_FORMAT = np.dtype({"names": ["a", "b"], "formats": ["u1", "u1"], "offsets": [0, 0]})


def is_typed(flags: int) -> bool:
    """Whether a request takes an array's shape, and not only its bytes."""
    return flags & STRIDES == STRIDES or flags & (FORMAT | ND) == FORMAT | ND


def export(cls: type[T], octets: npt.NDArray[Any], array: Callable[[], npt.NDArray[Any]]) -> T:
    """A new object of `cls`, past its __init__.

    `octets`, and `array()` over them: one of the two exports if that is decided here.
    """
    if WAY != "FORWARD":
        return cls.__new__(cls)
    target: Any = array()
    make: Any = cls.__new__
    if _has_format(target):
        return cast(T, make(cls, target))
    target = octets.view(np.ndarray)
    made = make(cls, target)
    target.dtype = _NO_FORMAT  # not before: PickleBuffer itself asks for a format
    return cast(T, made)


def stop(exporter: Exporter) -> None:
    """Refuses new views: releases a fixed target. Else `_buffer_for` raises."""
    if WAY == "FORWARD":
        pickle.PickleBuffer.release(exporter)  # type: ignore[arg-type]


def require_format(dtype: np.dtype[Any]) -> None:
    """BufferError if numpy has a format for `dtype`, but one that means something else."""
    if dtype.type is np.void and dtype.names is None:  # "7x", which numpy reads as records
        raise _messages.no_format(dtype)


def typed_view(array: npt.NDArray[Any]) -> memoryview:
    """A memoryview with the array's format. BufferError if it has none."""
    require_format(array.dtype)
    return _view(array)


def _view(array: Any) -> memoryview:
    try:
        return memoryview(array)
    except ValueError as error:  # numpy's way to say that there is no such view
        raise _messages.no_such_view(error) from error


def _has_format(array: Any) -> bool:
    try:
        require_format(array.dtype)
        memoryview(array).release()
    except (ValueError, BufferError):
        return False
    return True


# Each gives two classes. Of those that have something to release numpy.frombuffer() keeps a view,
# of others the object itself.


def _core_classes() -> tuple[type, type] | None:
    try:
        from refstore._core import Exporter, ReleasingExporter
    except ImportError:
        return None
    return Exporter, ReleasingExporter


def _classes_with_method() -> tuple[type, type] | None:
    if sys.version_info < (3, 12):
        return None

    class Exporter:
        __slots__ = ("__weakref__",)
        _buffer_for: Callable[[int], Any]

        def __buffer__(self, flags: int, /) -> memoryview:
            return _view(self._buffer_for(flags))

    class ReleasingExporter(Exporter):
        __slots__ = ()

        def __release_buffer__(self, view: memoryview, /) -> None:
            pass

    return Exporter, ReleasingExporter


def _classes_that_forward() -> tuple[type, type] | None:
    # PickleBuffer does just this, and is closed to subclasses by no more than a flag.
    if sys.implementation.name != "cpython":
        return None
    flags = _flags_of(pickle.PickleBuffer)
    others = (object, int, memoryview, dict)  # with other flags, so that no accident fits them all
    if flags is None or None in map(_flags_of, others):
        return None
    before = flags.value
    flags.value = before | _BASETYPE
    try:

        class Exporter(pickle.PickleBuffer):  # type: ignore[misc]
            __slots__ = ()

    except TypeError:
        return None
    finally:
        flags.value = before
    return Exporter, Exporter


def _flags_of(cls: type) -> ctypes.c_ulong | None:
    """The flags of a type where they lie in memory; None if they are not where they should be."""
    # `tp_flags` comes 18 words after a PyVarObject, which is a PyObject and a size.
    at = object.__basicsize__ + 19 * ctypes.sizeof(ctypes.c_void_p)
    flags = ctypes.c_ulong.from_address(id(cls) + at)
    return flags if flags.value == cls.__flags__ else None


class _NoExporter:
    __slots__ = ("__weakref__",)


def _first_way() -> tuple[Way, tuple[type, type]]:
    ways: tuple[tuple[Way, Callable[[], tuple[type, type] | None]], ...] = (
        ("CORE", _core_classes),
        ("METHOD", _classes_with_method),
        ("FORWARD", _classes_that_forward),
    )
    for way, make in ways:
        made = make()
        if made is not None:
            return way, made
    return "NONE", (_NoExporter, _NoExporter)


if TYPE_CHECKING:
    WAY: Way

    class Exporter:
        __slots__ = ("__weakref__",)

        def __buffer__(self, flags: int, /) -> memoryview: ...
        def _buffer_for(self, flags: int) -> Any: ...

    class ReleasingExporter(Exporter):
        __slots__ = ()
else:
    WAY, (Exporter, ReleasingExporter) = _first_way()
