"""Rules of a store for pickling, by `Store(pickler=, allow_pickle=)`.

The engines know nothing of it. What is put into such a store comes to `encode` with its rules
beside it. A buffer of a store that unpickles nothing is noted here, and `decode` looks.
"""

from __future__ import annotations

import pickle
import weakref
from typing import Any, NamedTuple, cast

import numpy as np

from refstore import _messages
from refstore.payload.headers import names_code

__all__ = ["FREE", "Bound", "Rules", "bind", "guard", "guarded", "require_unpickling", "rules_for"]


class Rules(NamedTuple):
    """Answers of a store about pickling."""

    pickler: type[pickle.Pickler] | None  # None: the library's own
    allows: bool


FREE = Rules(None, True)


def rules_for(pickler: Any, allow_pickle: object) -> Rules:
    """Rules that `Store(pickler=, allow_pickle=)` asks for. TypeError."""
    if pickler is None:
        return FREE if allow_pickle else Rules(None, False)
    made_by = getattr(pickler, "Pickler", pickler)
    # dill's are made from the one in Python, which the library keeps beside the one in C
    if isinstance(made_by, type) and issubclass(made_by, (pickle.Pickler, pickle._Pickler)):
        return Rules(cast("type[pickle.Pickler]", made_by), bool(allow_pickle))
    raise TypeError(
        f"pickler is {pickler!r}: give a module that has a Pickler, such as cloudpickle, or a "
        "subclass of pickle.Pickler"
    )


class Bound(NamedTuple):
    """An object that is put, with the rules of its store."""

    obj: object
    rules: Rules


def bind(obj: object, rules: Rules) -> object:
    """The object to put for `obj`: itself if it is not pickled. ValueError if it must not be."""
    is_plain = (
        type(obj) is bytes
        or isinstance(obj, bytearray | memoryview)
        or (type(obj) is np.ndarray and not obj.dtype.hasobject)
    )
    if is_plain:
        return obj
    if not rules.allows:
        raise _messages.not_pickled(f"an object of type {type(obj).__name__}")
    return Bound(obj, rules)


# Buffers by their identity: they are compared by nothing else.
guarded: dict[int, weakref.ref[Any]] = {}


def guard(buf: Any) -> Any:
    """The buffer, whose object is not unpickled from here on. ValueError, and it is released, if it
    is an array with a dtype that only a pickle makes."""
    key = id(buf)
    guarded[key] = weakref.ref(buf, lambda _: guarded.pop(key, None))
    if buf.kind == "array" and names_code(buf.header):
        buf.release()
        raise _messages.dtype_not_unpickled()
    return buf


def require_unpickling(buf: object) -> None:
    """ValueError for a buffer that is guarded."""
    if id(buf) in guarded:
        raise _messages.not_unpickled()
