"""Reports of a store: counts, holders, and the result of a recovery."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from refstore._refs import ObjectRef

__all__ = ["Holder", "ObjectInfo", "PastRecovery", "ProcessInfo", "Recovery", "StoreStats"]


@dataclass(frozen=True)
class StoreStats:
    """Counts of a store. Sizes are in bytes; exact when nobody is at work on the store.

    The first seven are counted from the slots. `puts` to `recoveries` are kept per process and
    added up.

    Parameters:
        capacity: bytes of payload that fit.
        used: bytes of blocks being written, live, or deleted and still pinned, as allocated.
        free: bytes that are not used.
        largest_free: bytes of the largest object that fits now.
        objects: live objects.
        pinned: objects that are pinned, live or deleted.
        condemned: objects that are deleted, and kept by pins.
        resident: bytes that the file takes of the memory, or of the disk, on which it lies: its
            tables, and blocks that were used and have not been given back by trim().
        file_system_free: bytes that are left there for this user; 2**62 where there is no limit.
            It does not count when two are compared.
        waiting: processes that wait in a call, for a name or for room.
        puts: objects published so far.
        gets: calls of get() so far.
        deletes: objects deleted so far, by delete() or replaced.
        evictions: objects deleted so far to make room for others.
        recoveries: processes that died attached, and were cleaned up after.
        processes: attached and alive.

    Example:
        >>> ref = store.put(bytes(100))
        >>> with store.get(ref):
        ...     store.stats().pinned
        1
    """

    capacity: int
    used: int
    free: int
    largest_free: int
    objects: int
    pinned: int
    condemned: int
    resident: int
    file_system_free: int = field(compare=False)  # of the system, and not of the store
    waiting: int
    puts: int
    gets: int
    deletes: int
    evictions: int
    recoveries: int
    processes: int


@dataclass(frozen=True)
class Recovery:
    """Counts of what one process freed of what dead processes held. True if any had died.

    Parameters:
        processes: dead ones that were cleaned up after.
        pids: theirs, as far as known; of very many, the last.
        pins: pins that were dropped.
        unfinished: objects that were never sealed, and are gone.
        published: named puts that were past the point of no return and have been completed.
        locks: locks that were released.
        nbytes: bytes of blocks that came free, as allocated.

    Example:
        >>> bool(store.recover())
        False
    """

    processes: int
    pids: tuple[int, ...]
    pins: int
    unfinished: int
    published: int
    locks: int
    nbytes: int

    def __bool__(self) -> bool:
        return self.processes > 0


@dataclass(frozen=True)
class ProcessInfo:
    """A description of one process that is attached, or died attached and was not cleaned up after.

    Parameters:
        pid: of the process; 0 while it is not known.
        command: how it was started: the script or module and its arguments, cut short.
        label: what it calls itself by `refstore.label`; empty if it has none.
        alive: whether it, or a child that it keeps something for, is alive.
        ended: whether it has ended, and a child keeps its place.
        waiting: threads of it that wait in a call.
        waits_for: the call that began to wait last, as in "get('weights')", cut short; empty if
            none waits.
        pins: on all objects.
        bytes: of the blocks that it pins or is writing, as allocated.
        owned: objects that go with it.
        puts: objects that it published.
        gets: calls of get().
        deletes: objects that it deleted, or replaced.
        evictions: objects that it deleted to make room.
        slot: its place in the store's process table, which tells processes of one pid apart: each
            container may count pids for itself.
    """

    pid: int
    command: str
    label: str
    alive: bool
    ended: bool
    waiting: int
    waits_for: str
    pins: int
    bytes: int
    owned: int
    puts: int
    gets: int
    deletes: int
    evictions: int
    slot: int


@dataclass(frozen=True)
class PastRecovery:
    """A process that died attached, and was cleaned up after.

    Parameters:
        at: when it was, in seconds since the epoch.
        pid: of the dead process; 0 if it died before it could say.
        command: how it was started, cut short, after its label if it had one.
        nbytes: bytes of blocks that came free, as allocated.
    """

    at: float
    pid: int
    command: str
    nbytes: int


class _Holder(NamedTuple):
    pid: int
    command: str
    ref: ObjectRef | None
    name: str | None
    pins: int
    bytes: int
    alive: bool


class Holder(_Holder):
    """One process and one object that it keeps in memory, by pins or because it is writing it.

    Parameters:
        pid: of the process; 0 while it is not known.
        command: how it was started, cut short; and whether this is kept for its children.
        ref: of the object; None while it is being written.
        name: that it is published under, or None.
        pins: of this process on it.
        bytes: of the object's block, as allocated.
        alive: whether the process, or a child that it keeps this for, is alive; what a dead one
            holds is freed when it is needed.

    Beside the seven, `pinned_at` has the line of the program behind each pin, and `put_at` the one
    that put the object, if the process that did it was made to track: see `Store(track=True)`.
    `slot` is the process's place in the store's process table, which tells processes of one pid
    apart: each container may count pids for itself.

    Example:
        >>> ref = store.put(b"x")
        >>> with store.get(ref):
        ...     store.holders(ref)[0].pid == os.getpid()
        True
    """

    pinned_at: tuple[str, ...] = ()
    put_at: str | None = None
    slot: int = -1


class _Told:
    put_at: str | None = None


@dataclass(frozen=True)
class ObjectInfo(_Told):
    """A description of one object. Sizes are in bytes.

    Parameters:
        ref: of the object; None while it is being written, and of a claim.
        name: that it is published under, or claimed; None if it has none.
        kind: "bytes", "array" or "object"; None while it is being written, and of a claim.
        nbytes: of the payload.
        block_nbytes: of its block, as allocated.
        pins: in all processes.
        pid: of the process that put it; 0 if that is not known any more.
        command: how that process was started, cut short.
        created: when it was put, in seconds since the epoch, to a sixteenth of a second.
        owned: whether it goes with its owner.
        evictable: whether it may go when other objects need its space.
        state: "live", "pending delete" (deleted, and kept by pins), "writing" or "claimed".

    Beside these, `put_at` has the line of the program that put the object, where `objects()` of a
    store that tracks finds it: the process that put it was made to track, too, and is alive.

    Example:
        >>> info = store.info(store.put(b"abc"))
        >>> info.kind, info.nbytes, info.pid == os.getpid(), info.state
        ('bytes', 3, True, 'live')
    """

    ref: ObjectRef | None
    name: str | None
    kind: Literal["bytes", "array", "object"] | None
    nbytes: int
    block_nbytes: int
    pins: int
    pid: int
    command: str
    created: float
    owned: bool
    evictable: bool
    state: Literal["live", "pending delete", "writing", "claimed"]
