"""Descriptions of objects, and of who holds them, as info(), objects() and holders() give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from refstore import _children, _messages
from refstore._refs import ObjectRef, make_ref
from refstore.engines.filelock import check, lookups, origins, process_table, recovery, slots
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.call import Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    CLAIMED,
    CONDEMNED,
    CREATED_PER_SECOND,
    EVICTABLE,
    KINDS,
    NBYTES,
    OFFSET,
    ORIGIN,
    OWNED_BY,
    SEALED,
    SHAPE,
    UNIT,
    UNITS,
    UNKNOWN,
    UNSEALED,
    USE,
    WORD,
    WRITING,
)
from refstore.engines.filelock.lookups import Parsed, required
from refstore.engines.filelock.opened import Key, Opened
from refstore.payload.frames import base_address

if TYPE_CHECKING:
    from refstore.engines.interface import HolderRow

__all__ = ["ListingCalls", "Of", "described", "holders", "info_of"]

TURN: Final = 1000  # slots that are looked at under one lock

STATES: Final = {
    WRITING: "writing",
    CLAIMED: "claimed",
    SEALED: "live",
    CONDEMNED: "pending delete",
}

Info = tuple[Any, ...]  # the fields of ObjectInfo, in its order
Person = tuple[int, str, bool, bool]  # pid, command, whether it lives, and only by children


class Of(Protocol):
    """The store that is listed."""

    path: str
    folder: str
    tag: int
    max_objects: int


def holders(
    of: Of, key: lookups.Key | None, run: Callable[..., Any], own: int | None
) -> list[HolderRow]:
    """Holders of one object, or of any if the key is None. `run` runs an operation; `own`: the row
    of who asks. Errors: those of lookups.required()."""
    if key is None:
        found: list[HolderRow] = run("holders()", _holders, of, own, None)
        return found
    return lookups.required(of, key, run, "holders()", _holders, of, own)


# --- operations, under the change lock


def info_of(c: Change, of: Of, key: Parsed) -> Info | None:
    """Describes a live object."""
    found = lookups.locate(c, key)
    return None if found is None else _describe(c, of, found[0], {})


def described(c: Change, of: Of, first: int, prefix: str | None) -> list[Info]:
    """Describes the next TURN slots."""
    found, processes = [], dict[int, tuple[int, str]]()
    for slot in range(first, min(first + TURN, slots.slots_used(c))):
        if c[c.file.slot(slot) + WORD] & 0xFF in STATES:
            info = _describe(c, of, slot, processes)
            if prefix is None or (info[1] is not None and info[1].startswith(prefix)):
                found.append(info)
    return found


def _describe(c: Change, of: Of, slot: int, processes: dict[int, tuple[int, str]]) -> Info:
    """`processes`: pid and command by origin, as far as they were looked up."""
    at = c.file.slot(slot)
    word, use, shape, origin = c[at + WORD], c[at + USE], c[at + SHAPE], c[at + ORIGIN]
    ref = kind = None
    if not slots.is_half_made(word) and not use & UNSEALED:
        if shape & 0xFF >= len(KINDS):
            raise _messages.damaged_object(of.path, _messages.KIND_OF_OBJECT, slot)
        ref, kind = make_ref(slot, slots.generation_of(c, slot), of.tag), KINDS[shape & 0xFF]
    number = origin & UNKNOWN
    if number not in processes:
        processes[number] = origins.pid_of(c, number), origins.command_of(c, number)
    return (
        *(ref, lookups.name_of(c, slot), kind, c[at + NBYTES], c[at + UNITS] * UNIT),
        sum(slots.pins_of(c, row, slot) for row in slots.pinning_rows(c, slot)),
        *processes[number],
        (c.file.header.made_at + (origin >> 32)) / CREATED_PER_SECOND,
        *(c[at + OWNED_BY] != 0, use & EVICTABLE != 0),
        STATES[word & 0xFF],
    )


def _holders(
    c: Change, of: Of, own: int | None, key: tuple[int, int] | bytes | None
) -> list[HolderRow] | None:
    """The fields of Holder, in its order, and its slot, of each holder of one object or of any;
    None if there is no such object. `own`: the row of who asks."""
    if key is None:
        seen = check.holdings(c)
    else:
        found = key if isinstance(key, tuple) else lookups.locate(c, key)
        if found is None or found[0] >= of.max_objects:
            return None
        seen = [one for one in check.holdings(c, found[0]) if one.generation == found[1]]
        if not seen and not slots.is_live(c, *found):
            return None
    people = {row: _person(c, of, row, own) for row in {one.row for one in seen}}
    return [_as_holder(one, people[one.row], of.tag) for one in seen]


def _person(c: Change, of: Of, row: int, own: int | None) -> Person:
    alive = check.is_live_row(c, of.folder, row, own)
    ended = alive and recovery.has_ended(c, row)
    return process_table.pid_of(c, row), process_table.command_of(c, row), alive, ended


def _as_holder(one: check.Holding, person: Person, tag: int) -> HolderRow:
    pid, command, alive, ended = person
    command = _children.holder(command, one.kept, ended)
    ref = None if one.generation is None else make_ref(one.slot, one.generation, tag)
    return pid, command, ref, one.name, one.pins, one.nbytes, alive, one.row


def _pinned_at(c: Change, att: Attachment, start: int, end: int) -> tuple[int, int] | None:
    """Slot and generation of the object that we pin in whose block these bytes of the file lie."""
    for slot in recovery.pinned_slots(c, att.own):
        at = c.file.slot(slot)
        block = c.file.block_at(c[at + OFFSET])
        if (
            block <= start
            and end <= block + c[at + UNITS] * UNIT
            and c[at + WORD] & 0xFF in (SEALED, CONDEMNED)
            and not c[at + USE] & UNSEALED
            and slots.views_of(c, att.own, slot)
        ):
            return slot, slots.generation_of(c, slot)
    return None


# --- of one open store


class ListingCalls(Opened):
    """The calls that describe objects."""

    __slots__ = ()

    def _info(self, key: Key) -> Info:
        call = self._call
        return required(call.att, key, call.run, "info()", info_of, call.att)

    def _objects(self, prefix: str | None) -> Iterator[Info]:
        return self._each(self._call, prefix)

    def _each(self, call: Call, prefix: str | None) -> Iterator[Info]:
        first = 0
        while first < call.run("objects()", slots.slots_used):
            yield from call.run("objects()", described, call.att, first, prefix)
            first += TURN
            call = self._call  # the store may be closed by now, or this a forked child

    def _ref_at(self, address: int, nbytes: int) -> ObjectRef | None:
        call = self._call
        att = call.att
        for memory in (att.readable, att.writable):
            start = address - base_address(memoryview(memory))
            if att.file.g.data <= start <= att.file.g.file_size - nbytes:
                found = call.run("ref_of()", _pinned_at, att, start, start + nbytes)
                return None if found is None else make_ref(*found, att.tag)
        return None
