"""The mark of functions that stored pickles name: they have one home, whatever file they are in."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["HOME", "named_in_pickles"]

HOME = "refstore._unpickle"

T = TypeVar("T")


def named_in_pickles(target: T) -> T:
    """Make pickles name `target`, a function or a class, by `refstore._unpickle`."""
    target.__module__ = HOME
    return target
