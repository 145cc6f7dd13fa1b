"""Pickling of ndarrays and their subclasses inside objects: their elements out of band.

An array of at most IN_STREAM bytes goes the way of numpy's own `__reduce__`: nobody gains from so
few bytes not being copied, and its elements in the stream are read faster than by any call that
makes an array over a buffer. So do arrays of Python objects. What is so small and of the other byte
order goes there as elements that have none.

Of a larger one its memory is stored as it lies if it has no gaps; so axes of stride 0, and axes
swapped or reversed, come back as they were. An array with gaps is stored without them, in C order.

A subclass that leaves pickling to numpy is rebuilt over the memory. One that adds state of its
own, by methods that call those of ndarray, is asked for it through a class in between, so that its
elements are never turned into bytes on the way; see `_between`. What does something else when it is
pickled is pickled as it likes.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import pickle
import types
from typing import Any

import numpy as np

from refstore._pickled import Reducer, as_usual, named_in_pickles
from refstore._signals import is_from_handler
from refstore.payload.arrays import elements_of

__all__ = ["IN_STREAM", "reduce_array", "reducer"]

IN_STREAM = 1024  # bytes
_PLAIN = frozenset("?bBhHiIlLqQefdgFDG")  # dtypes that each have a format of buffers

Array = np.ndarray[Any, Any]

_view = np.ndarray.view
_numpys_own: Any = np.empty(0).__reduce__()[0]


def reducer(cls: type) -> Reducer | None:
    """The reducer for a class of arrays; None where they do it themselves."""
    if not issubclass(cls, np.ndarray) or cls.__reduce_ex__ is not np.ndarray.__reduce_ex__:
        return None
    if cls is np.ndarray:
        return reduce_array
    if issubclass(cls, np.ma.MaskedArray):
        return _reduce_masked if _inherits(cls, np.ma.MaskedArray, "__getstate__") else None
    return _reduce_subclass if _inherits(cls, np.ndarray) else _reduce_with_state


def _inherits(cls: type, base: type, *more: str) -> bool:
    """Whether `cls` leaves its pickling to `base`."""
    names = ("__reduce__", "__setstate__", *more)
    return all(getattr(cls, name) is getattr(base, name) for name in names)


def reduce_array(array: Array) -> Any:
    dtype = array.dtype
    # `_in_stream`, written out: the call for each of many small arrays is what there is to save.
    if (array.nbytes <= IN_STREAM and dtype.isnative) or dtype.hasobject:
        return array.__reduce__()
    if array.nbytes <= IN_STREAM and dtype.itemsize:  # as elements that have no byte order
        return _view, (array.view(_void(dtype.itemsize)), dtype)
    return rebuild_array, (np.ndarray, *_laid_out(array))


@functools.lru_cache(maxsize=64)
def _void(itemsize: int) -> np.dtype[Any]:
    return np.dtype((np.void, itemsize))


def _in_stream(array: Array) -> bool:
    dtype = array.dtype
    # From the stream, elements of the other byte order come back in the machine's own.
    return bool((array.nbytes <= IN_STREAM and dtype.isnative) or dtype.hasobject)


def _laid_out(array: Array) -> tuple[Any, ...]:
    """The arguments of `rebuild_array` behind the class."""
    first, strides, dtype = 0, None, array.dtype
    # An array, and no memoryview of one: Python 3.10 crashes when it collects a cycle in which a
    # memoryview is looked at by another one.
    octets: Any
    if array.flags.c_contiguous:
        exports_itself = dtype.char in _PLAIN and dtype.isbuiltin == 1
        octets = array if exports_itself else elements_of(array)
    elif not array.itemsize or _has_gaps(array):
        octets = elements_of(array)
    else:
        strides = array.strides
        axes = list(zip(array.shape, strides, strict=True))
        first = -sum((n - 1) * step for n, step in axes if step < 0)
        nbytes = first + sum((n - 1) * step for n, step in axes if step > 0) + array.itemsize
        lowest = array[tuple(slice(None, None, -1 if step < 0 else 1) for step in strides)]
        # as plain bytes: not every dtype is known to as_strided()
        octets = np.lib.stride_tricks.as_strided(
            lowest.view(_void(array.itemsize)),
            (nbytes // array.itemsize,),
            (array.itemsize,),
            writeable=False,
        ).view(np.uint8)
    return pickle.PickleBuffer(octets), dtype, array.shape, first, strides


def _has_gaps(array: Array) -> bool:
    low, high = np.lib.array_utils.byte_bounds(array)
    shown = array.itemsize
    for n, step in zip(array.shape, array.strides, strict=True):
        if step % array.itemsize:
            return True
        shown *= n if step else 1
    return high - low > shown


# --- subclasses


def _plain(array: Array) -> Array:
    return np.ndarray.view(array, np.ndarray)


def _reduce_subclass(array: Array) -> Any:
    plain = _plain(array)
    if _in_stream(plain):
        return as_usual(array)
    return rebuild_array, (type(array), *_laid_out(plain))


def _reduce_masked(array: Any) -> Any:
    plain = _plain(array)
    if _in_stream(plain):
        return as_usual(array)
    mask = None if array._mask is np.ma.nomask else array._mask
    rest = (plain, mask, array._fill_value, array._hardmask)
    return rebuild_masked, (type(array), array._baseclass, *rest)


@named_in_pickles
class _Elements:
    """Stands for an array's bytes in the state that ndarray's own methods would make and take."""

    def __reduce__(self) -> str:
        return "ELEMENTS"


ELEMENTS = _Elements()


class _Between(np.ndarray[Any, Any]):
    """The base that `super()` finds in place of ndarray."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        is_fortran = self.flags.fnc
        state = (1, self.shape, self.dtype, is_fortran, ELEMENTS)
        return _numpys_own, (type(self).__base__, (0,), b"b"), state

    def __setstate__(self, state: Any, /) -> None:
        if state[-1] is not ELEMENTS:
            super().__setstate__(state)


class _BetweenType(type):
    """Type of the classes that `_between` makes: state that holds one is of the class itself."""


def _reduce_between(cls: Any) -> Any:
    return same_class, (cls.__base__,)


copyreg.pickle(_BetweenType, _reduce_between)


@functools.lru_cache(maxsize=256)
def _between(cls: Any) -> Any:
    """A subclass of `cls` whose next class after those of `cls` is _Between; None if that fails."""
    bases = cls.__mro__[: cls.__mro__.index(np.ndarray)]
    if any(isinstance(one, types.MemberDescriptorType) for b in bases for one in vars(b).values()):
        return None  # what is in its slots would not come along
    if hasattr(cls, "__del__"):
        return None  # which would run for what has the array's own attributes
    if type(cls) is not type or any("__init_subclass__" in vars(base) for base in cls.__mro__[:-1]):
        return None  # it wants to know of its subclasses
    with contextlib.suppress(TypeError):
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__slots__": ()}
        return _BetweenType(cls.__name__, (cls, _Between), names)
    return None


def _reduce_with_state(array: Array) -> Any:
    plain = _plain(array)
    cls: Any = type(array)
    between = None if _in_stream(plain) else _between(cls)
    if between is None:
        return as_usual(array)
    try:
        twin: Any = np.ndarray.view(array, between)
        if hasattr(array, "__dict__"):
            vars(twin).clear()
            vars(twin).update(vars(array))
        function, args, state = twin.__reduce__()
    except Exception as error:  # it wants to be of its own class, say
        if is_from_handler(error):
            raise
        return as_usual(array)
    if function is not _numpys_own or args != (cls, (0,), b"b"):
        return as_usual(array)
    try:
        is_ours = _holds(state, ELEMENTS) and not _holds(state, twin)
    except RecursionError:  # it holds itself
        is_ours = False
    if not is_ours:
        return as_usual(array)
    # The state comes after the object, since it may refer to it.
    return rebuild_to_be_set, (cls, *_laid_out(plain)), state, None, None, set_state


def _holds(state: object, what: object) -> bool:
    if isinstance(state, (tuple, list)):
        return any(_holds(one, what) for one in state)
    if isinstance(state, dict):
        return any(_holds(one, what) for one in state.values())
    return state is what


def _with_bytes(state: Any, octets: bytes) -> Any:
    """The state with the array's bytes where ELEMENTS stands."""
    if type(state) in (tuple, list):
        return type(state)(_with_bytes(one, octets) for one in state)
    if type(state) is dict:
        return {key: _with_bytes(one, octets) for key, one in state.items()}
    return octets if state is ELEMENTS else state


# The functions below are named in pickle streams, so a store may outlive a change of their names.


@named_in_pickles
def rebuild_array(
    cls: type[Array],
    buffer: memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    first: int,
    strides: tuple[int, ...] | None,
) -> Array:
    # ndarray(buffer=view) holds on to the object behind a memoryview and not to the view itself,
    # which is what pins the block; frombuffer holds the view.
    octets = np.frombuffer(buffer, np.uint8)
    # As numpy does when it unpickles a subclass: no __new__, and __array_finalize__(None).
    return np.ndarray.__new__(cls, shape, dtype, octets, first, strides)


@named_in_pickles
def same_class(cls: type) -> type:
    return cls


@named_in_pickles
def rebuild_masked(
    cls: Any, base: type[Array], data: Array, mask: Array | None, fill_value: Any, is_hard: bool
) -> Any:
    array = cls.__new__(cls, data.view(base), mask=np.ma.nomask, dtype=data.dtype)
    if mask is not None:
        array._mask = mask  # given to __new__, that of records would be copied
    array.fill_value = fill_value
    if is_hard:
        array.harden_mask()
    return array


@named_in_pickles
def rebuild_to_be_set(cls: Any, *laid_out: Any) -> Array:
    between: Any = _between(cls)
    return rebuild_array(between or cls, *laid_out)


@named_in_pickles
def set_state(array: Any, state: Any) -> None:
    cls = type(array)
    try:
        array.__setstate__(state)
    except TypeError:
        # It calls ndarray.__setstate__ by name, which takes bytes and nothing else.
        octets = _plain(array).tobytes("F" if array.flags.fnc else "C")
        array.__setstate__(_with_bytes(state, octets))
    if _Between in cls.__bases__:
        array.__class__ = cls.__base__
