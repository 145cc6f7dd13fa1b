"""The errors that both engines raise, as sentences: what was asked, what is the case, what to do.

Each function makes an exception and leaves it to its caller to raise it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from refstore.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    StoreBusyError,
    StoreCorruptedError,
    StoreFullError,
    StoreVersionError,
    TopHolder,
)

NAMED = 4  # holders that a message names


class Room(NamedTuple):
    """What a store holds, in bytes and in objects."""

    capacity: int
    free: int
    largest_free: int
    pinned: int
    pinned_nbytes: int
    condemned: int


# --- of operations


def busy(path: str, pid: int, what: str) -> StoreBusyError:
    """`what` waits, as in "a put of 5 bytes"."""
    return StoreBusyError(
        f"{what} waits for process {pid}, which is stopped in the middle of a change to store "
        f"{path!r}: resume it (kill -CONT {pid}) or kill it",
        pid=pid,
    )


def full(
    path: str, needed: int, why: str, room: Room, holders: Sequence[TopHolder]
) -> StoreFullError:
    """`why`, as in "no free extent is large enough"; `holders`: largest first."""
    return StoreFullError(
        f"no room for {needed} bytes in store {path!r}: {why}. Capacity {room.capacity}, free "
        f"{room.free}, largest free extent {room.largest_free}; {_what_is_pinned(room)}."
        f"{_who_holds(holders)} Delete or release objects, or make a larger store",
        needed=needed,
        free=room.free,
        largest_free=room.largest_free,
        holders=holders,
    )


def no_slot(max_objects: int) -> str:
    """Why a store is full."""
    return f"all {max_objects} objects of max_objects are there"


NO_MEMORY = "the file system has no memory left"
NO_EXTENT = "no free extent is large enough"
OVER_CAPACITY = "it is more than the capacity"


def _what_is_pinned(room: Room) -> str:
    if not room.pinned:
        return "no object is pinned"
    return (
        f"objects pinned: {room.pinned}, of {room.pinned_nbytes} bytes, "
        f"{room.condemned} of them deleted"
    )


def _who_holds(holders: Sequence[TopHolder]) -> str:
    if not holders:
        return ""
    named = [
        f"process {pid} ({command}) {nbytes} bytes" for pid, command, nbytes in holders[:NAMED]
    ]
    if len(holders) > NAMED:
        named.append(f"{len(holders) - NAMED} more")
    return f" Pinned or being written: {', '.join(named)}."


def exists(path: str, name: str) -> ObjectExistsError:
    return ObjectExistsError(
        f"store {path!r} has an object named {name!r}: delete it, or put with replace=True"
    )


def not_found(path: str, key: object, *, of_other_store: bool) -> ObjectNotFoundError:
    """`key`: the ref or name that was asked for."""
    if of_other_store:
        return ObjectNotFoundError(f"{key!r} is a ref of another store than {path!r}")
    what = f"object named {key!r}" if isinstance(key, str) else f"object {key!r}"
    return ObjectNotFoundError(
        f"there is no {what} in store {path!r}: it was never put here, or it was deleted"
    )


def no_waiting() -> NotImplementedError:
    return NotImplementedError("this version of refstore does not wait yet: timeout must be 0")


def closed() -> ValueError:
    return ValueError("this store is closed")


def forked(path: str) -> str:
    """Why a child cannot use the store that it inherited."""
    return (
        f"this process was forked from one that has store {path!r} open, by a raw system call or "
        "without a free row or descriptor: open the store anew"
    )


# --- of files


def damaged_file(path: str) -> StoreCorruptedError:
    """Something in an attached store contradicts itself."""
    return StoreCorruptedError(
        f"store {path!r} is damaged: what it says of its space or its locks cannot be; something "
        "else wrote to the file. Remove it, or see what check() finds"
    )


def no_store(path: str, why: str) -> StoreCorruptedError:
    """`why`, as in "is truncated"."""
    return StoreCorruptedError(
        f"{path!r} {why}: it was not made by refstore, or something else wrote to it; remove it, "
        "or give another name"
    )


def other_engine(path: str, owner: str, asked: str) -> StoreVersionError:
    """`owner`, `asked`: names of engines, as `backend=` has them."""
    return StoreVersionError(
        f"store {path!r} belongs to the {owner} engine, and this is the {asked} one: open it with "
        f"backend={owner!r}"
    )


def other_version(path: str, has: int, writes: int) -> StoreVersionError:
    return StoreVersionError(
        f"store {path!r} has format {has}, this refstore writes {writes}: use one version in all "
        "processes, or remove the store"
    )


def other_user(path: str, uid: int) -> PermissionError:
    return PermissionError(
        errno.EACCES,
        f"the store belongs to user {uid}, and objects are unpickled: pass foreign=True if you "
        "trust that user",
        path,
    )


def no_rows(path: str, rows: int) -> str:
    """Why a process cannot attach."""
    return f"all {rows} rows of store {path!r} are taken: no more processes can attach"
