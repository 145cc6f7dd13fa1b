"""Types that a program serializes by functions of its own, inside objects and as objects."""

from __future__ import annotations

import builtins
import importlib
import pickle
import types
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from refstore import _messages
from refstore._pickled import named_in_pickles
from refstore.payload.ndarrays import IN_STREAM
from refstore.payload.torch import Storages

__all__ = ["rebuild_registered", "reducer", "register_serializer"]

# Of these nobody asks: pickle has ways of its own for them, or put() has.
_BUILT_IN: Final = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set),
    *(frozenset, type(Ellipsis), type(NotImplemented), pickle.PickleBuffer, memoryview),
    *(types.FunctionType, types.BuiltinFunctionType, np.ndarray),
)


class Serializer(NamedTuple):
    dumps: Callable[[Any], Any]
    loads: Callable[[Any], Any]


_by_type: dict[type, Serializer] = {}
_by_name: dict[tuple[str, str], Serializer] = {}


def register_serializer(
    type: type, dumps: Callable[[Any], Any], loads: Callable[[Any], Any]
) -> None:
    """Makes functions of the program's own store the objects of a type, and read them.

    They take the place of pickle for these objects, by themselves and inside others. Each process
    that puts or reads them registers the type, best in the module that defines it: that is imported
    where an object of it is read. Readers know the type by its module and qualified name; a second
    call for those replaces the first.

    Parameters:
        type: the class; a subclass of it is another type.
        dumps: takes an object, and returns bytes or another buffer.
        loads: takes those, in C order, and returns the object: as bytes up to 1024 of them, else as
            a memoryview of the store itself, which the object may keep, and pins the stored one
            with. It is read-only unless the object is got with `writable=True`, and dumps returned
            what may be written, such as a bytearray.

    Errors:
        TypeError: the type is none, or a function is not callable.
        ValueError: a type that nobody asks about: dict and its like, functions, classes, ndarray,
            torch.Tensor.

    Example:
        >>> import fractions
        >>> refstore.register_serializer(fractions.Fraction, lambda f: str(f).encode(),
        ...                              lambda data: fractions.Fraction(bytes(data).decode()))
        >>> with store.get(store.put([fractions.Fraction(1, 3)])) as buf:
        ...     buf.value
        [Fraction(1, 3)]
    """
    if not isinstance(type, builtins.type):
        raise TypeError(f"a serializer is for a type, and {type!r} is none")
    if type in _BUILT_IN or issubclass(type, builtins.type) or Storages().reducer(type):
        raise ValueError(
            f"objects of {type.__name__} are pickled or put in one way, whatever is registered: "
            "register a class of your own"
        )
    for what, function in (("dumps", dumps), ("loads", loads)):
        if not callable(function):
            raise TypeError(f"{what} is to be a function, not {builtins.type(function).__name__}")
    _by_name[_names_of(type)] = _by_type[type] = Serializer(dumps, loads)


def _names_of(cls: type) -> tuple[str, str]:
    # The main program has another name in the children that multiprocessing spawns.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return module, cls.__qualname__


def reducer(cls: type) -> Callable[[Any], Any] | None:
    """The reducer of a type that is registered; None for another. A subclass is another type."""
    serializer = _by_type.get(cls)
    if serializer is None:
        return None
    dumps = serializer.dumps
    module, name = _names_of(cls)

    def reduce(obj: Any) -> Any:
        data = dumps(obj)
        try:
            view = memoryview(data)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the serializer of {name} is to return bytes or another buffer, not "
                f"{type(data).__name__}: {error}"
            ) from None
        if view.nbytes <= IN_STREAM or not view.c_contiguous:
            return rebuild_registered, (module, name, view.tobytes())
        return rebuild_registered, (module, name, pickle.PickleBuffer(data))

    return reduce


# The function below is named in pickle streams, so a store may outlive a change of its name.


@named_in_pickles
def rebuild_registered(module: str, name: str, data: Any) -> Any:
    found, cause = _by_name.get((module, name)), None
    if found is None:
        try:
            importlib.import_module(module)  # which may register it
        except ImportError as error:
            cause = error
        found = _by_name.get((module, name))
    if found is None:
        raise _messages.no_serializer(module, name, cause) from cause
    return found.loads(data)
