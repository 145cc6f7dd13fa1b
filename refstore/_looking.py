"""A look at a store by who is not attached to it, as commands take it that show something.

The file is mapped read-only. A look takes no place in the process table, pins nothing, and changes
nothing: it works when all places are taken and when the store is full, and what dead processes have
left is shown as it is, not recovered.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from refstore import _header, _messages
from refstore._names import require_text
from refstore._report_calls import add_sites, by_size, lasting, with_sites
from refstore._reports import Holder, ObjectInfo, PastRecovery, ProcessInfo, StoreStats
from refstore.engines import choice

if TYPE_CHECKING:
    from typing_extensions import Self

    from refstore._refs import ObjectRef
    from refstore.engines import interface

__all__ = ["Look", "PageState"]


class PageState(enum.IntEnum):
    """The use of a page of the data, as `Look.page_states` gives it."""

    NEVER_USED = 0  # free
    FREE = 1
    LIVE = 2
    PINNED = 3  # live, too
    PENDING_DELETE = 4
    WRITTEN = 5  # or claimed
    OF_RUN = 6  # cut into blocks for small objects, none of which has one there


class Look:
    """A look at the store whose file is at `path`.

    Each call looks anew. On a store that others use, what it finds is as true as any count of
    moving things.

    Parameters:
        path: of the file.
        foreign: whether to look at another user's store.

    Errors:
        FileNotFoundError: there is no such file.
        StoreCorruptedError: it is not a store, or is damaged.
        StoreVersionError: it is of another version or build.
        PermissionError: it may not be read, or is another user's and foreign is False.
        ValueError: a call after close().

    Example:
        >>> with Look(store.path) as look:
        ...     look.stats().objects
        0
    """

    __slots__ = ("_look", "_module", "name", "path")

    def __init__(self, path: str, foreign: bool = False) -> None:
        self.path = path
        self.name = os.path.basename(path)
        owner = _header.owner_of(path)
        self._module = choice.default() if owner is None else choice.load(owner)
        try:
            self._look: interface.Look | None = self._module.look(path, foreign)
        except FileNotFoundError as error:
            raise _messages.gone(path, error) from None
        except OSError as error:
            raise _messages.of_path(path, error) from None

    @property
    def _seen(self) -> interface.Look:
        if self._look is None:
            raise _messages.closed()
        return self._look

    def close(self) -> None:
        """Unmaps the file, once no call that is under way uses it."""
        self._look = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- the store as a whole

    @property
    def backend(self) -> Literal["native", "filelock"]:
        """The engine of the store."""
        return self._module.BACKEND

    @property
    def uuid(self) -> bytes:
        """Tells the store from a later one of its name: 16 bytes."""
        return self._seen.uuid

    @property
    def capacity(self) -> int:
        """Bytes of payload that fit."""
        return self._seen.capacity

    @property
    def max_objects(self) -> int:
        """Number of objects that fit."""
        return self._seen.max_objects

    @property
    def evict(self) -> Literal["lru", "s3fifo"] | None:
        """The eviction policy that the store was made with."""
        return self._seen.evict

    @property
    def made_at(self) -> float:
        """The time at which the store was made, in seconds since the epoch."""
        return self._seen.made_at

    def stats(self) -> StoreStats:
        """Counts what the store holds and has done, as `Store.stats`."""
        return StoreStats(*self._seen._census())

    def problems(self) -> list[str]:
        """Checks every invariant of the store, as `Store.check`."""
        return lasting(self._seen._problems)

    def recoveries(self) -> list[PastRecovery]:
        """The last recoveries of dead processes that anybody made, at most 16, newest first."""
        return [PastRecovery(*row) for row in self._seen._recoveries()]

    def page_states(self) -> bytes:
        """The use of each page of 4 KiB of the data, a `PageState` each.

        A page that several blocks share has the strongest of their states: pinned, being written,
        pending delete, live.
        """
        return self._seen._page_states()

    # --- what is in it

    def info(self, key: ObjectRef | str) -> ObjectInfo:
        """Describes a live object, as `Store.info`, with the line that put it."""
        seen = self._seen
        return next(with_sites([ObjectInfo(*seen._info(key))], seen.uuid, seen._processes()))

    def objects(self, prefix: str | None = None) -> Iterator[ObjectInfo]:
        """Describes all objects, as `Store.objects`."""
        seen = self._seen
        rows = seen._objects(None if prefix is None else require_text(prefix, "a prefix"))
        return with_sites((ObjectInfo(*row) for row in rows), seen.uuid, seen._processes())

    def holders(self, key: ObjectRef | str | None = None) -> list[Holder]:
        """Lists who keeps which objects in memory, largest first, as `Store.holders`."""
        seen = self._seen
        found = by_size(seen._holders(key))
        add_sites(found, seen.uuid, seen._processes())
        return found

    def held_by_dead(self) -> int:
        """Bytes of the blocks that dead processes hold, each counted once."""
        held = [one for one in by_size(self._seen._holders(None)) if not one.alive]
        sealed = {one.ref: one.bytes for one in held if one.ref is not None}
        return sum(sealed.values()) + sum(one.bytes for one in held if one.ref is None)

    def processes(self) -> list[ProcessInfo]:
        """Describes the processes that have a place in the store, dead ones among them."""
        return [ProcessInfo(*row) for row in self._seen._processes()]
