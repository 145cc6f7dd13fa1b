"""Tables of reducers, and the mark of functions that stored pickles name.

Those functions have one home, whatever file they are in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["HOME", "Reducer", "Reducers", "as_usual", "named_in_pickles"]

HOME = "refstore._unpickle"

T = TypeVar("T")
Reducer = Callable[[Any], Any]

as_usual = operator.methodcaller("__reduce_ex__", 5)  # the reducer of what has none of ours


def named_in_pickles(target: T) -> T:
    """Make pickles name `target`, a function or a class, by `refstore._unpickle`."""
    target.__module__ = HOME
    return target


class Reducers(dict[type, Reducer]):
    """A pickler's dispatch table, which finds a type's reducer when it is first met.

    So subclasses are found, and an object of another type costs no call of a Python function, as
    a `reducer_override` would. It is asked for no type that is built in.
    """

    def __init__(
        self, theirs: Mapping[type, Reducer], find: Callable[[type], Reducer | None]
    ) -> None:
        """`theirs`: what the pickler knew; `find`: the reducer of any other type, or of one of
        theirs that is ours to reduce."""
        super().__init__()
        self._theirs, self._find = theirs, find

    def __missing__(self, cls: type) -> Reducer:
        if issubclass(cls, type) and cls not in self._theirs:
            raise KeyError(cls)  # a class is pickled by its name
        self[cls] = self._find(cls) or as_usual
        return self[cls]

    def get(self, cls: Any, default: Any = None) -> Any:
        """Lookup by which picklers in Python ask."""
        try:
            return self[cls]
        except KeyError:
            return default
