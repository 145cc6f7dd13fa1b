"""Reports of a store: counts, holders, and the result of a recovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from refstore._refs import ObjectRef

__all__ = ["Holder", "Recovery", "StoreStats"]


@dataclass(frozen=True)
class StoreStats:
    """What a store holds. Sizes in bytes; exact when nobody is at work on the store.

    The first seven are counted from the slots; the counters are kept per process and added up.
    """

    capacity: int
    used: int  # blocks being written, live or deleted and still pinned, as allocated
    free: int
    largest_free: int  # the largest object that fits now
    objects: int  # live
    pinned: int  # live or deleted
    condemned: int  # deleted, and kept by pins
    puts: int
    gets: int
    deletes: int
    evictions: int
    recoveries: int  # processes that died attached, and were cleaned up after
    processes: int  # attached and alive


@dataclass(frozen=True)
class Recovery:
    """What one process gave back of what dead processes held. True if any had died."""

    processes: int  # dead ones that were cleaned up after
    pids: tuple[int, ...]  # theirs, as far as known; of very many, the last
    pins: int
    unfinished: int  # objects that were never sealed, and are gone
    published: int  # objects that lacked the last steps of their publication, and are whole
    locks: int
    nbytes: int  # of blocks that came free, as allocated

    def __bool__(self) -> bool:
        return self.processes > 0


class Holder(NamedTuple):
    """One process and one object that it keeps in memory, by pins or because it is writing it."""

    pid: int  # 0 while it is not known
    command: (
        str  # how the process was started, cut short; and whether this is kept for its children
    )
    ref: ObjectRef | None  # None: it is being written
    name: str | None
    pins: int
    bytes: int  # of the object's block, as allocated
    alive: bool  # the process, or a child it keeps this for; what a dead one holds comes back
