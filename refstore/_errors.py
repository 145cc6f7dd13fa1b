"""Every exception that refstore raises of its own.

Each has `RefstoreError` as a base, and beside it the built-in exception that code which knows
nothing of refstore would catch: a missing object is a `KeyError`, a full store a `MemoryError`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from refstore._refs import ObjectRef

__all__ = [
    "GetTimeoutError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "RefstoreError",
    "RefstoreWarning",
    "StoreBusyError",
    "StoreCorruptedError",
    "StoreFullError",
    "StoreVersionError",
    "TopHolder",
]


class RefstoreWarning(UserWarning):
    """Something works, though not as well as it could on this machine."""


class RefstoreError(Exception):
    """The base of all errors of this package."""

    _keywords: ClassVar[tuple[str, ...]] = ()  # attributes that the constructor asks for by name

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as cls(*args), which has no place for keyword arguments.
        keywords = {name: getattr(self, name) for name in self._keywords}
        return functools.partial(type(self), **keywords), self.args, self.__dict__


class ObjectNotFoundError(RefstoreError, KeyError):
    """No live object has this ref or name, `key`."""

    _keywords = ("key",)

    def __init__(self, message: str, *, key: ObjectRef | str) -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; this one is a sentence.
        return Exception.__str__(self)


class ObjectExistsError(RefstoreError, FileExistsError):
    """The name, `key`, is taken, and `replace=True` was not given."""

    _keywords = ("key",)

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class TopHolder(NamedTuple):
    """A process, and how much of a store's room it keeps from being used again."""

    pid: int  # 0 while it is not known
    command: str  # how it was started, cut short
    bytes: int  # of the blocks that it pins or is writing, as allocated


class StoreFullError(RefstoreError, MemoryError):
    """There is no room for an object.

    needed          bytes asked for
    free            bytes free in the whole store
    largest_free    bytes of the largest object that would fit
    holders         the processes that pin objects or are writing some, largest first
    """

    _keywords = ("needed", "free", "largest_free", "holders")

    def __init__(
        self,
        message: str,
        *,
        needed: int,
        free: int,
        largest_free: int,
        holders: Sequence[TopHolder] = (),
    ) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free
        self.largest_free = largest_free
        self.holders = tuple(holders)


class GetTimeoutError(RefstoreError, TimeoutError):
    """Nothing was published under the name in the time given."""


class StoreBusyError(RefstoreError, TimeoutError):
    """Another process, `pid`, is stopped in the middle of a change that must end first."""

    _keywords = ("pid",)

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class StoreCorruptedError(RefstoreError):
    """The file is no store, or what it says contradicts itself."""


class StoreVersionError(RefstoreError):
    """The file is a store, but of another format, build or engine, or not the one expected."""
