"""Checks of arguments that both engines, or several calls, have in common."""

from __future__ import annotations

import contextlib
import operator
from typing import SupportsFloat, SupportsIndex, cast

from refstore import _messages, _paths

__all__ = [
    "checked_options",
    "checked_size",
    "require_bytes_or_shape",
    "require_capacity",
    "require_create",
    "require_max_objects",
    "require_no_wait",
]

MAX_SIZE = 1 << 62  # bytes: larger than any store, and small enough to add to
NO_WAIT = 0  # the default of timeouts


class _Permissions(int):
    """Permissions of a file, which signatures show as they are usually written."""

    def __repr__(self) -> str:
        return f"0o{self:o}"


OWNERS = _Permissions(0o600)  # which a store's owner must have


def checked_options(
    capacity: SupportsIndex | str | None,
    max_objects: SupportsIndex | None,
    evict: str | None,
    mode: SupportsIndex,
) -> tuple[int | None, int | None, int]:
    """Capacity, max_objects and mode as plain numbers; TypeError or ValueError."""
    if evict not in (None, "lru"):
        raise ValueError(f"evict is {evict!r}: it is None or 'lru'")
    if evict is not None:
        raise ValueError(f"evict is {evict!r}: this version does not evict yet, leave it out")
    nbytes = None if capacity is None else _paths.parse_capacity(capacity)
    objects = None if max_objects is None else _number("max_objects", max_objects, "such as 5000")
    if objects is not None and objects <= 0:
        raise ValueError(f"max_objects is {objects}: a store needs at least one")
    bits = _number("mode", mode, "such as 0o600")
    if bits & ~0o777 or bits & OWNERS != OWNERS:
        raise ValueError(
            f"mode is {_octal(bits)}: it is 0o777 at most, and the owner must be able to read and "
            "write, as with 0o600 or 0o660"
        )
    return nbytes, objects, bits


def _number(what: str, value: object, example: str) -> int:
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(cast(SupportsIndex, value))
    raise TypeError(f"{what} is {value!r}: give an int {example}, not {type(value).__name__}")


def _octal(bits: int) -> str:
    return f"{bits}" if bits < 0 else f"0o{bits:o}"


def require_create(create: object) -> None:
    """TypeError unless `create` is one of the three that it can be."""
    if create is not None and not isinstance(create, bool):
        raise TypeError(f"create is {create!r}: it is True, False or None")


def require_no_wait(timeout: object) -> None:
    """TypeError or ValueError if `timeout` is not valid; NotImplementedError if it is not 0."""
    if timeout is NO_WAIT:
        return
    if timeout is None:
        raise _messages.no_waiting()
    if not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
        raise TypeError(
            f"timeout is {timeout!r}: give seconds, or None, not {type(timeout).__name__}"
        )
    seconds = float(cast(SupportsFloat, timeout))
    if not seconds >= 0:
        raise ValueError(f"timeout is {timeout!r}: it cannot be negative, nor NaN")
    if seconds:
        raise _messages.no_waiting()


def require_capacity(nbytes: int, limit: int) -> None:
    """ValueError if an engine has no stores as large as that."""
    if not 0 < nbytes <= limit:
        raise ValueError(f"capacity is {nbytes} bytes: it must be between 1 and {limit}")


def require_max_objects(n: int, limit: int) -> None:
    """ValueError if an engine has no stores of that many objects."""
    if not 0 < n <= limit:
        raise ValueError(f"max_objects is {n}: it must be between 1 and {limit}")


def require_bytes_or_shape(nbytes: object, shape: object, dtype: object) -> None:
    """TypeError unless create() was given a number of bytes or a shape, and a dtype with that."""
    if (nbytes is None) == (shape is None) or (nbytes is not None and dtype is not None):
        raise TypeError("create() takes either nbytes, or shape and maybe dtype")


def checked_size(n: SupportsIndex) -> int:
    """A size in bytes or elements, MAX_SIZE if it is larger; TypeError or ValueError."""
    size = operator.index(n)
    if size < 0:
        raise _messages.negative_size(size)
    return min(size, MAX_SIZE)
