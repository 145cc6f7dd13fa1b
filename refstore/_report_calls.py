"""The calls of a `Store` that report: counts, objects, holders, problems, recoveries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from refstore import _logging
from refstore._engine_calls import EngineCalls
from refstore._names import require_text
from refstore._refs import ObjectRef
from refstore._reports import Holder, ObjectInfo, Recovery, StoreStats
from refstore._sites import Told

if TYPE_CHECKING:
    from refstore.engines.interface import HolderRow

__all__ = ["ReportCalls", "add_sites", "by_size", "lasting", "with_sites"]

RETRIES = 15  # more that check() takes: what is used all the time looks wrong now and then
RETRY_DELAY = 0.02  # seconds


class ReportCalls(EngineCalls):
    """The calls that report, for `Store`."""

    __slots__ = ()

    def info(self, key: ObjectRef | str) -> ObjectInfo:
        """Describes a live object, without pinning it.

        Parameters:
            key: a ref, or the name of a published object.

        Returns:
            An ObjectInfo.

        Errors:
            ObjectNotFoundError: it was deleted or never put, or the ref is of another store.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> _ = store.put(b"abc", name="letters")
            >>> store.info("letters").nbytes
            3
        """
        return ObjectInfo(*self._base()._info(key))

    def objects(self, prefix: str | None = None) -> Iterator[ObjectInfo]:
        """Describes all objects, in whatever state they are, without pinning any.

        Each entry is consistent; the whole is not an atomic snapshot.

        Parameters:
            prefix: describes those whose names begin so; None: all, those without names, too.

        Returns:
            An iterator of ObjectInfo. Of what is no object yet, `ref` and `kind` are None.

        Errors:
            TypeError, ValueError: the prefix is not a str, or the store is closed.

        Example:
            >>> _ = store.put(b"abc", name="letters")
            >>> [(one.name, one.state) for one in store.objects()]
            [('letters', 'live')]
        """
        base = self._base()
        rows = base._objects(None if prefix is None else require_text(prefix, "a prefix"))
        found = (ObjectInfo(*row) for row in rows)
        if self._tracks:
            return with_sites(found, base._attachment.uuid, base._processes())
        return found

    def stats(self) -> StoreStats:
        """Counts what the store holds and has done.

        Returns:
            A StoreStats; sizes are in bytes.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> _ = store.put(b"x")
            >>> store.stats().objects
            1
        """
        return StoreStats(*self._base()._census())

    def holders(self, ref_or_name: ObjectRef | str | None = None) -> list[Holder]:
        """Lists the processes that keep objects in memory, and which, largest first.

        Each entry is consistent; the list is not an atomic snapshot.

        Parameters:
            ref_or_name: lists the holders of this object alone. A ref finds its object even when
                it is deleted, as long as it is pinned.

        Returns:
            A Holder for each process and object that it pins or is writing. A live object that
            nobody pins has none.

        Errors:
            ObjectNotFoundError: there is no such object, or its last pin is gone.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(b"x", name="weights")
            >>> with store.get(ref):
            ...     [(holder.name, holder.pins) for holder in store.holders()]
            [('weights', 1)]
        """
        base = self._base()
        found = by_size(base._holders(ref_or_name))
        if self._tracks:
            add_sites(found, base._attachment.uuid, base._processes())
        return found

    def recover(self) -> Recovery:
        """Frees what dead processes held. It also happens by itself, when it is needed.

        Returns:
            A Recovery: what this process recovered since its last recover(), by this call or on
            its own.

        Errors:
            OSError: recovery needs a file descriptor and none is left (ulimit -n); what was
                recovered until then is in the next result.
            StoreBusyError: a process that is stopped has locked what this needs.
            ValueError: the store is closed.

        Example:
            >>> store.recover().processes
            0
        """
        recovery = Recovery(*self._base()._recover_all())
        if recovery:
            _logging.warning("recovered what dead processes held: %s", recovery)
        return recovery

    def check(self) -> list[str]:
        """Checks every invariant of the store, read-only.

        What a dead process still holds is not a problem. A change that is under way may look
        like one, so it checks again, and reports only what stays.

        Returns:
            A sentence for each invariant that fails; an empty list if the store is sound.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.check()
            []
        """
        return lasting(self._base()._problems)


def by_size(rows: Iterable[HolderRow]) -> list[Holder]:
    """The holders, largest first."""
    found = []
    for row in rows:
        holder = Holder(*row[:-1])
        holder.slot = row[-1]
        found.append(holder)
    return sorted(found, key=lambda holder: (-holder.bytes, holder.pid))


def add_sites(holders: list[Holder], uuid: bytes, processes: list[tuple[Any, ...]]) -> None:
    """Adds what those processes tell of the lines behind pins and puts."""
    told = Told(uuid, processes)
    for holder in holders:
        if holder.ref is not None:
            ref = bytes(holder.ref)
            if holder.alive:
                holder.pinned_at = told.pins(holder.pid, ref, holder.pins)
            holder.put_at = told.put(ref)


def with_sites(
    objects: Iterable[ObjectInfo], uuid: bytes, processes: list[tuple[Any, ...]]
) -> Iterator[ObjectInfo]:
    """The objects, with what those processes tell of the lines that put them."""
    told = Told(uuid, processes)
    for one in objects:
        if one.ref is not None and (site := told.put(bytes(one.ref))) is not None:
            object.__setattr__(one, "put_at", site)
        yield one


def lasting(look: Callable[[], set[str]]) -> list[str]:
    """The problems that several looks find, in order."""
    problems = look()
    for _ in range(RETRIES):
        if not problems:
            break
        time.sleep(RETRY_DELAY)
        problems &= look()
    return sorted(problems)
