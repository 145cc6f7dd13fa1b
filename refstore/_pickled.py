"""The mark of functions that stored pickles name: they have one home, whatever file they are in."""

from __future__ import annotations

import operator
from typing import TypeVar

__all__ = ["HOME", "as_usual", "named_in_pickles"]

HOME = "refstore._unpickle"

T = TypeVar("T")

as_usual = operator.methodcaller("__reduce_ex__", 5)  # the reducer of what has none of ours


def named_in_pickles(target: T) -> T:
    """Make pickles name `target`, a function or a class, by `refstore._unpickle`."""
    target.__module__ = HOME
    return target
