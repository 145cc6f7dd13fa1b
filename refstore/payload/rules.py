"""Rules of a store for pickling, by `Store(pickler=, allow_pickle=)`.

What is put into such a store comes to `encode` with its rules beside it. A buffer of a store that
unpickles nothing is marked, and that is all that the engines know.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple, cast

import numpy as np

from refstore import _messages
from refstore.payload import arrays
from refstore.payload.headers import ARRAY, OBJECT, kind_of, names_code

__all__ = [
    "FREE",
    "Bound",
    "Rules",
    "bind",
    "guard",
    "require_safe",
    "require_unpickling",
    "rules_for",
]


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
        try:
            hash(made_by)
            made: Any = made_by(io.BytesIO(), 5, buffer_callback=lambda _: None)
            made.dispatch_table = {}
        except (TypeError, AttributeError) as error:
            raise TypeError(
                f"pickler is {made_by!r}, which is not made as pickle's: {error}"
            ) from None
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
    kind = kind_of(obj)
    if kind != OBJECT:
        if kind == ARRAY and not rules.allows:
            require_safe(cast("np.ndarray[Any, Any]", obj).dtype, None)
        return obj
    if not rules.allows:
        dtype = f" and dtype {obj.dtype}" if type(obj) is np.ndarray else ""
        raise _messages.not_pickled(f"an object of type {type(obj).__name__}{dtype}")
    return Bound(obj, rules)


def require_safe(dtype: Any, header: object) -> None:
    """ValueError for a dtype or a header of which a reader would unpickle more than numpy's own."""
    is_named = isinstance(header, bytes) and names_code(header)
    if is_named or not (dtype is None or arrays.is_numpys_own(np.dtype(dtype))):
        raise _messages.not_unpickled("the dtype of this array is a pickle of more than numpy")


def guard(buf: Any) -> Any:
    """The buffer, whose object is not unpickled from here on. ValueError, and it is released, if it
    is an array with a dtype that only a pickle makes."""
    buf._is_guarded = True
    try:
        require_safe(None, buf.header if buf.kind == "array" else None)
    except ValueError:
        buf.release()
        raise
    return buf


def require_unpickling(buf: Any) -> None:
    """ValueError for a buffer that is guarded."""
    if buf._is_guarded:
        raise _messages.not_unpickled("this object is a pickle", "bytes(buf) are its bytes; ")
