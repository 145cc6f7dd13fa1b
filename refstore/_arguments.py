"""Checks of arguments that both engines, or several calls, have in common."""

from __future__ import annotations

import contextlib
import math
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, cast

from refstore import _messages, _paths

__all__ = [
    "LONGEST_WAIT",
    "META_LIMIT",
    "checked_count",
    "checked_meta",
    "checked_options",
    "checked_size",
    "deadline_of",
    "listed_names",
    "names_for",
    "require_bytes_or_shape",
    "require_capacity",
    "require_create",
    "require_distinct",
    "require_max_objects",
    "require_name",
    "require_order",
]

MAX_SIZE = 1 << 62  # bytes: larger than any store, and small enough to add to
LONGEST_WAIT = 1e9  # seconds; more is for ever
META_LIMIT = 1 << 16  # bytes


class _Permissions(int):
    """Permissions of a file, which signatures show as they are usually written."""

    def __repr__(self) -> str:
        return f"0o{self:o}"


POLICIES = (None, "lru", "s3fifo")  # of eviction
OWNERS = _Permissions(0o600)  # which a store's owner must have


def checked_options(
    capacity: SupportsIndex | str | None,
    max_objects: SupportsIndex | None,
    evict: str | None,
    mode: SupportsIndex,
) -> tuple[int | None, int | None, int]:
    """Capacity, max_objects and mode as plain numbers; TypeError or ValueError."""
    if evict not in POLICIES:
        raise ValueError(f"evict is {evict!r}: it is None, 'lru' or 's3fifo'")
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


def deadline_of(timeout: object) -> float | None:
    """The time at which a call that begins now has waited enough, by time.monotonic(); None: never;
    0: it does not wait.

    Errors: TypeError or ValueError if the timeout is invalid.
    """
    if timeout is None:
        return None
    if not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
        raise TypeError(
            f"timeout is {timeout!r}: give seconds, or None, not {type(timeout).__name__}"
        )
    try:
        seconds = float(cast(SupportsFloat, timeout))
    except OverflowError:  # of an int
        seconds = math.inf if cast(int, timeout) > 0 else -math.inf
    if not seconds >= 0:
        raise ValueError(f"timeout is {timeout!r}: it cannot be negative, nor NaN")
    if seconds == 0:
        return 0.0
    return None if seconds > LONGEST_WAIT else time.monotonic() + seconds


def checked_meta(meta: object) -> bytes:
    """The bytes that put() was given as `meta`; TypeError or ValueError."""
    if not isinstance(meta, bytes):
        raise TypeError(f"meta is {meta!r}: give bytes, not {type(meta).__name__}")
    if len(meta) > META_LIMIT:
        raise ValueError(f"meta has {len(meta)} bytes: it can have {META_LIMIT}")
    return meta if type(meta) is bytes else bytes(memoryview(meta))


def listed(
    what: str, wanted: str, given: Iterable[Any], lone: type | tuple[type, ...]
) -> list[Any]:
    """A list of what a call was given for several; TypeError if it is no iterable, or `lone`.

    `what` is the parameter, `wanted` says what they are.
    """
    if type(given) in (list, tuple):  # which list() copies at once
        return list(given)
    several: Iterable[Any] | None = None
    if not isinstance(given, lone):
        with contextlib.suppress(TypeError):
            several = iter(given)
    if several is not None:
        return list(several)
    told = "None" if given is None else f"one {type(given).__name__}"
    raise TypeError(f"{what} is {told}: give a list of {wanted}")


def listed_keys(keys: Iterable[Any], ref: type) -> list[Any]:
    """The refs and names that a call was given, `ref` being the engine's class; TypeError."""
    return listed("keys", "refs and names", keys, (str, ref))


def listed_names(names: Iterable[str]) -> list[str]:
    """The names that a call was given; TypeError."""
    return listed("names", "names", names, str)


def listed_objects(objs: Iterable[object]) -> list[object]:
    """The objects that a put_many() was given; TypeError."""
    return listed("objs", "objects", objs, (str, bytes, bytearray, memoryview, Mapping))


def checked_count(count: SupportsIndex, names: Sequence[str]) -> int:
    """The number of names that a wait_any() waits for; TypeError or ValueError."""
    n = _number("count", count, "such as 1")
    if not 1 <= n <= len(names):
        raise ValueError(f"count is {n}, of {len(names)} names: it is 1 to their number")
    return n


def names_for(n: int, names: Iterable[str] | None) -> list[str] | None:
    """Names that put_many() was given for `n` objects; TypeError or ValueError."""
    if names is None:
        return None
    told = listed_names(names)
    if len(told) != n:
        raise ValueError(f"{len(told)} names for {n} objects: give one for each")
    return told


def require_distinct(names: list[str]) -> None:
    """ValueError if one of the names is there twice."""
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is there twice: give each object its own")


def require_capacity(nbytes: int, limit: int) -> None:
    """ValueError if an engine has no stores as large as that."""
    if not 0 < nbytes <= limit:
        raise ValueError(f"capacity is {nbytes} bytes: it must be between 1 and {limit}")


def require_max_objects(n: int, limit: int) -> None:
    """ValueError if an engine has no stores of that many objects."""
    if not 0 < n <= limit:
        raise ValueError(f"max_objects is {n}: it must be between 1 and {limit}")


def require_bytes_or_shape(
    nbytes: object, shape: object, dtype: object, header: object = None
) -> None:
    """TypeError unless create() was given a number of bytes or a shape, and a dtype with that, or
    a number of bytes and a header."""
    if header is not None and (nbytes is None or shape is not None or dtype is not None):
        raise TypeError("create(header=) takes nbytes beside the header, and no shape or dtype")
    if (nbytes is None) == (shape is None) or (nbytes is not None and dtype is not None):
        raise TypeError("create() takes either nbytes, or shape and maybe dtype")


def require_order(order: object) -> None:
    """ValueError unless it is an order that create() knows."""
    if order not in ("C", "F"):
        raise ValueError(f"order is {order!r}: it is 'C' or 'F'")


def require_name(claim: bool, name: object) -> None:
    """ValueError if create() was asked to claim a name, and not given one."""
    if claim and name is None:
        raise ValueError("create(claim=True) claims a name: give one")


def checked_size(n: SupportsIndex) -> int:
    """A size in bytes or elements, MAX_SIZE if it is larger; TypeError or ValueError."""
    size = operator.index(n)
    if size < 0:
        raise _messages.negative_size(size)
    return min(size, MAX_SIZE)
