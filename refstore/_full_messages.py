"""The error of a store that is full, as sentences, for both engines.

They say what was asked, what room there is and who holds the rest, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from refstore import _limits, _logging
from refstore._arguments import MAX_SIZE
from refstore._errors import StoreFullError, TopHolder

if TYPE_CHECKING:
    from collections import Counter

NAMED = 4  # holders that a message names
LINES_NAMED = 3


class Room(NamedTuple):
    """The room of a store, in bytes and in objects."""

    capacity: int
    free: int
    largest_free: int
    pinned: int
    pinned_nbytes: int
    condemned: int
    writing_nbytes: int = 0
    kept: Sequence[tuple[int, int]] = ()  # of parents, pid first: for children that have no place
    evicts: bool = False  # whether the store has an eviction policy


def full(
    path: str,
    needed: int,
    why: str,
    room: Room,
    holders: Sequence[TopHolder],
    own: int,
    fd: int,
) -> StoreFullError:
    """`why`, as in "no free extent is large enough"; `holders`: largest first.

    `own`: the number of this process among them, or -1; `fd`: a descriptor of the store's file, or
    -1.
    """
    advice, back = _what_to_do(needed, why), _what_comes_back(room, why)
    if why == NO_MEMORY:
        why, advice = _limits.why_no_memory(path, fd, needed)
    error = StoreFullError(
        f"no room for {_size(needed)} bytes in store {path!r}: {why}. Capacity {room.capacity}, "
        f"free {room.free}, largest free extent {room.largest_free}; {_what_is_pinned(room)}."
        f"{_who_holds(holders, own)}{back} {advice}",
        needed=needed,
        free=room.free,
        largest_free=room.largest_free,
        holders=holders,
    )
    _logging.full(path, str(error))  # a record that is kept must not keep the error's references
    return error


def _size(nbytes: int) -> str:
    return str(nbytes) if nbytes < MAX_SIZE else f"{MAX_SIZE} or more"


def no_slot(max_objects: int) -> str:
    """Why a store is full."""
    return f"all {max_objects} {_OF_MAX_OBJECTS}"


_OF_MAX_OBJECTS = "object slots (max_objects) are in use"
NO_MEMORY = "the system could not provide memory"
NO_EXTENT = "no free extent is large enough"
OVER_CAPACITY = "it is more than the capacity"
OVER_WITH_META = f"in whole blocks, with description and meta, {OVER_CAPACITY}"


def _what_to_do(needed: int, why: str) -> str:
    if why == OVER_CAPACITY:
        return f"Make a store with a capacity of {needed} or more, or put the object in parts"
    if why == OVER_WITH_META:
        return "Make a store with a larger capacity, or put the large parts as separate objects"
    if why.endswith(_OF_MAX_OBJECTS):
        return "Delete objects, or make a store with a larger max_objects"
    return "Delete or release objects, or make a larger store"


def _what_is_pinned(room: Room) -> str:
    if not room.pinned:
        return "no object is pinned"
    others = room.capacity - room.free - room.pinned_nbytes - room.writing_nbytes
    return (
        f"objects pinned: {room.pinned}, of {room.pinned_nbytes} bytes, "
        f"{room.condemned} of them deleted; objects that nobody pins take {max(others, 0)} bytes"
    )


def _who_holds(holders: Sequence[TopHolder], own: int) -> str:
    if not holders:
        return ""
    named = [
        f"{'this process' if number == own else 'process'} {pid} ({command}) {nbytes} bytes"
        for number, (pid, command, nbytes) in enumerate(holders[:NAMED])
    ]
    if len(holders) > NAMED:
        named.append(f"{len(holders) - NAMED} more")
    return f" Pinned or being written: {', '.join(named)}."


def lines_that_fill(verb: str, nbytes_by_site: Counter[str]) -> str:
    """The lines of programs behind most of what fills a store. `verb`: "pinned" or "put"."""
    largest = nbytes_by_site.most_common(LINES_NAMED)
    if not largest:
        return ""
    told = ", ".join(f"{nbytes} bytes {verb} at {site}" for site, nbytes in largest)
    return f". By line: {told}"


def _what_comes_back(room: Room, why: str) -> str:
    """Advice about bytes that no delete frees, or no eviction."""
    told = ""
    if room.writing_nbytes:
        told = (
            f" Objects being written by create() hold {room.writing_nbytes} bytes: abort() frees "
            "them, and so does deleting the objects once seal(), or the end of the `with`, has "
            "published them."
        )
    for pid, nbytes in room.kept:
        told += (
            f" {nbytes} bytes are kept for children of process {pid}, until it has ended or has "
            "closed the store, and they have ended."
        )
    if room.evicts and why not in (OVER_CAPACITY, OVER_WITH_META):
        told += (
            " Eviction does not make enough room: the rest is pinned, being written, or was put "
            "with evictable=False."
        )
    return told
