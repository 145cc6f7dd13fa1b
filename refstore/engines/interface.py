"""The interface of an engine: the module, its `Engine`, an attachment and a creator's lock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, SupportsIndex

from refstore._header import Backend

if TYPE_CHECKING:
    import numpy.typing as npt

    from refstore._buffers import PinnedBuffer, Writer
    from refstore._refs import ObjectRef

__all__ = ["Attachment", "CreatorLock", "Engine", "Module"]


class Attachment(Protocol):
    """This process's membership in one store, shared by all that uses it here."""

    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def capacity(self) -> int: ...
    @property
    def max_objects(self) -> int: ...
    def is_of(self, fd: int) -> bool: ...


class Engine(Protocol):
    """The calls of a `Store` that an engine implements; `Store` has their docs."""

    @property
    def _attachment(self) -> Attachment: ...
    @property
    def closed(self) -> bool: ...
    def _open(self, att: Attachment) -> None: ...
    def close(self) -> None: ...
    def put(
        self, obj: object, *, name: str | None, replace: bool, timeout: float | None
    ) -> ObjectRef: ...
    def create(
        self,
        nbytes: SupportsIndex | None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None,
        dtype: npt.DTypeLike | None,
        name: str | None,
        replace: bool,
        timeout: float | None,
    ) -> Writer: ...
    def get(
        self, key: ObjectRef | str, *, timeout: float | None, writable: bool
    ) -> PinnedBuffer: ...
    def delete(self, key: ObjectRef | str) -> None: ...
    def refcount(self, key: ObjectRef | str) -> int: ...
    def ref(self, name: str) -> ObjectRef: ...
    def __contains__(self, key: ObjectRef | str, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ObjectRef]: ...
    def names(self) -> list[str]: ...
    def trim(self) -> int: ...
    def _census(self) -> tuple[int, ...]:
        """The fields of StoreStats, in its order."""

    def _problems(self) -> set[str]:
        """A sentence for each invariant that does not hold at this moment."""

    def _recover_all(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        """Recovers; the fields of Recovery, in its order."""

    def _holders(
        self, key: ObjectRef | str | None
    ) -> list[tuple[int, str, ObjectRef | None, str | None, int, int, bool]]:
        """The fields of Holder, for each holder of one object or of any."""


class CreatorLock(Protocol):
    """The lock that shows others that the creator of a temporary store is alive."""

    def give_back(self) -> None:
        """Releases it: others may remove the store from now on."""


class Module(Protocol):
    """The module of an engine."""

    BACKEND: Backend  # its name
    Engine: type[Engine]
    OBJECTS_LIMIT: int

    def file_nbytes(self, capacity: int, max_objects: int) -> int:
        """Apparent size of the file of such a store."""

    def make_file(
        self, path: str, capacity: int, max_objects: int, mode: int, temporary: bool
    ) -> CreatorLock | None:
        """Makes a whole store file; FileExistsError if the path is taken.

        Returns the creator's lock of a temporary store.
        """

    def is_creator_alive(self, fd: int, path: str) -> bool | None:
        """Whether the creator of the temporary store behind `fd` is alive; None if the file is
        no temporary store of this engine."""

    def is_unused(self, fd: int, path: str) -> bool:
        """Whether nobody is attached to the store behind `fd`, and nothing was ever put there."""

    def attach(self, path: str, foreign: bool) -> Attachment:
        """Attaches. Errors: FileNotFoundError, StoreCorruptedError, StoreVersionError,
        PermissionError."""

    def unsupported_reason(self, folder: str) -> str | None:
        """The reason why a folder cannot hold a store of this engine; None if it can."""

    def remove_orphans(self, folder: str) -> list[str]:
        """Removes what this engine keeps beside its stores, of stores in `folder` that are gone;
        returns the paths."""
