"""The interface of an engine: the module, its `Engine`, an attachment and a creator's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex

from refstore._header import Backend

if TYPE_CHECKING:
    import numpy.typing as npt

    from refstore._buffers import PinnedBuffer, Writer
    from refstore._refs import ObjectRef

    HolderRow = tuple[int, str, ObjectRef | None, str | None, int, int, bool, int]

__all__ = ["Attachment", "CreatorLock", "Engine", "Look", "Module", "Watch"]


class Mapped(Protocol):
    """A store whose file is mapped."""

    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def capacity(self) -> int: ...
    @property
    def max_objects(self) -> int: ...
    @property
    def evict(self) -> Literal["lru", "s3fifo"] | None: ...


class Attachment(Mapped, Protocol):
    """This process's membership in one store, shared by all that uses it here."""

    def is_of(self, fd: int) -> bool: ...


class Reports(Protocol):
    """The calls that report, by who is attached and by who only looks."""

    def _census(self) -> tuple[int, ...]:
        """The fields of StoreStats, in its order."""

    def _info(self, key: ObjectRef | str) -> tuple[Any, ...]:
        """The fields of ObjectInfo, in its order, of a live object; ObjectNotFoundError."""

    def _objects(self, prefix: str | None) -> Iterable[tuple[Any, ...]]:
        """The fields of ObjectInfo, of every object whose name begins so, or of all."""

    def _problems(self) -> set[str]:
        """A sentence for each invariant that does not hold at this moment."""

    def _holders(self, key: ObjectRef | str | None) -> list[HolderRow]:
        """The fields of Holder, and its slot, for each holder of one object or of any."""

    def _processes(self) -> list[tuple[Any, ...]]:
        """The fields of ProcessInfo, in its order, of each process that has a place."""


class Engine(Reports, Protocol):
    """The calls of a `Store` that an engine implements; `Store` has their docs."""

    @property
    def _attachment(self) -> Attachment: ...
    @property
    def closed(self) -> bool: ...
    def _open(self, att: Attachment) -> None: ...
    def close(self) -> None: ...
    def put(
        self,
        obj: object,
        *,
        name: str | None,
        replace: bool,
        timeout: float | None,
        owned: bool,
        evictable: bool | None,
        meta: bytes,
    ) -> ObjectRef: ...
    def create(
        self,
        nbytes: SupportsIndex | None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None,
        dtype: npt.DTypeLike | None,
        order: Literal["C", "F"],
        header: bytes | None,
        name: str | None,
        replace: bool,
        claim: bool,
        timeout: float | None,
        owned: bool,
        evictable: bool | None,
        meta: bytes,
    ) -> Writer: ...
    def get(
        self, key: ObjectRef | str, *, timeout: float | None, writable: bool
    ) -> PinnedBuffer: ...
    def put_many(
        self,
        objs: Iterable[object],
        *,
        names: Iterable[str] | None,
        replace: bool,
        timeout: float | None,
        owned: bool,
        evictable: bool | None,
    ) -> list[ObjectRef]: ...
    def get_many(
        self, keys: Iterable[ObjectRef | str], *, timeout: float | None, writable: bool
    ) -> list[PinnedBuffer]: ...
    def delete_many(self, keys: Iterable[ObjectRef | str]) -> int: ...
    def get_or_put(
        self,
        name: str,
        factory: Callable[[], object],
        *,
        timeout: float | None,
        owned: bool,
        evictable: bool | None,
    ) -> PinnedBuffer: ...
    def wait(
        self, name: str, *, newer_than: ObjectRef | None, timeout: float | None
    ) -> PinnedBuffer: ...
    def wait_any(
        self, names: Iterable[str], *, count: SupportsIndex, timeout: float | None
    ) -> list[str]: ...
    def adopt(self, key: ObjectRef | str) -> None: ...
    def disown(self, key: ObjectRef | str) -> None: ...
    def delete(self, key: ObjectRef | str) -> None: ...
    def refcount(self, key: ObjectRef | str) -> int: ...
    def ref(self, name: str) -> ObjectRef: ...
    def __contains__(self, key: ObjectRef | str, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ObjectRef]: ...
    def names(self, prefix: str) -> list[str]: ...
    def trim(self) -> int: ...
    def _ref_at(self, address: int, nbytes: int) -> ObjectRef | None:
        """The object that this process pins in whose block these bytes of its memory lie."""

    def _watch(self) -> Watch:
        """Makes a Watch, for one thread that waits on behalf of others."""

    def _recover_all(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        """Recovers; the fields of Recovery, in its order."""


class Look(Mapped, Reports, Protocol):
    """A look at a store without being attached: it takes no place in the process table, pins
    nothing and writes nothing."""

    @property
    def made_at(self) -> float:
        """Seconds since the epoch."""

    def _recoveries(self) -> list[tuple[Any, ...]]:
        """The fields of PastRecovery, in its order, newest first."""

    def _page_states(self) -> bytes:
        """A number for each page of the data, as `_looking.PageState` has them."""


class Watch(Protocol):
    """Sleeps, in one thread, until any of many names changes. It keeps no store open."""

    def seen(self, names: Sequence[str]) -> list[int]:
        """Takes part as a sleeper from here on; what to hand to sleep(), read before a look.

        A number for each name, in their order, which is another one after a change of that name;
        or fewer that stand for all names. There may be no names.
        """

    def sleep(self, names: Sequence[str], seen: Sequence[int], seconds: float) -> None:
        """Returns when one of the names was published, replaced or deleted since seen(), after
        poke(), after that many seconds, or sooner. The GIL is released."""

    def poke(self) -> None:
        """Ends the sleep of another thread, or the next one if there is none."""


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
        self,
        path: str,
        capacity: int,
        max_objects: int,
        mode: int,
        temporary: bool,
        evict: Literal["lru", "s3fifo"] | None,
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

    def look(self, path: str, foreign: bool) -> Look:
        """Looks at a store from outside. Errors: as of attach()."""

    def unsupported_reason(self, folder: str) -> str | None:
        """The reason why a folder cannot hold a store of this engine; None if it can."""

    def remove_orphans(self, folder: str) -> list[str]:
        """Removes what this engine keeps beside its stores, of stores in `folder` that are gone;
        returns the paths."""
