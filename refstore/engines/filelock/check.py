"""Contents and holders of a store, and a check of its invariants.

Called under the change lock; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from refstore import _children, _full_messages, _limits, _problems
from refstore._errors import StoreCorruptedError, TopHolder
from refstore.engines.filelock import extents, names, origins, process_table, recovery, slots
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    CLAIMED,
    CONDEMNED,
    COUNT,
    COUNTERS,
    FREE,
    FREE_SLOT,
    HASH,
    KINDS,
    MAKER,
    MASK,
    META,
    NBYTES,
    NEXT,
    OFFSET,
    ORIGIN,
    OWNED_BY,
    RETIRED,
    ROW_COUNTERS,
    SEALED,
    SHAPE,
    SLOTS_USED,
    TOTALS,
    TRIMS,
    TURN,
    UNIT,
    UNITS,
    UNKNOWN,
    WAITS_FOR,
    WORD,
    WRITING,
)

HAVE_BLOCKS: Final = (WRITING, SEALED, CONDEMNED, CLAIMED)


class Held(NamedTuple):
    """A slot that has a block."""

    slot: int
    generation: int
    state: int
    nbytes: int  # of the block
    pinned: bool


def block(c: Change, slot: int) -> Held | None:
    """Reads the block of one slot; None if it has none."""
    at = c.file.slot(slot)
    if slot >= slots.slots_used(c):
        return None
    word = c[at + WORD]
    if word & 0xFF not in HAVE_BLOCKS:
        return None
    pinned = bool(slots.pinning_rows(c, slot))
    return Held(slot, word >> 8, word & 0xFF, c[at + UNITS] * UNIT, pinned)


def blocks(c: Change) -> Iterator[Held]:
    words = recovery.used_slots(c, WORD)
    units = recovery.used_slots(c, UNITS)
    masks = [recovery.used_slots(c, MASK + k) for k in range(4)]
    for slot, word in enumerate(words):
        if word & 0xFF in HAVE_BLOCKS:
            pinned = any(mask[slot] for mask in masks)
            yield Held(slot, word >> 8, word & 0xFF, units[slot] * UNIT, pinned)


class Census(NamedTuple):
    room: _full_messages.Room
    used: int
    objects: int


class Columns(NamedTuple):
    """The same of all slots that have a block, by fields."""

    slots: npt.NDArray[np.intp]
    states: npt.NDArray[np.uint64]
    units: npt.NDArray[np.uint64]  # first one
    nbytes: npt.NDArray[np.uint64]
    pinned: npt.NDArray[np.bool_]

    @property
    def half_made(self) -> npt.NDArray[np.bool_]:
        return np.isin(self.states, (WRITING, CLAIMED))


def columns(c: Change) -> Columns:
    states = recovery.column(c, WORD) & np.uint64(0xFF)
    masks = [recovery.column(c, MASK + k) != 0 for k in range(4)]
    found = np.flatnonzero(np.isin(states, HAVE_BLOCKS))
    return Columns(
        found,
        states[found],
        recovery.column(c, OFFSET)[found],
        recovery.column(c, UNITS)[found] * np.uint64(UNIT),
        np.logical_or.reduce(masks)[found],
    )


def _held(c: Change) -> Iterator[Held]:
    """The blocks that processes hold."""
    found = columns(c)
    is_held = found.pinned | found.half_made
    for slot in found.slots[is_held].tolist():
        one = block(c, slot)
        if one is not None:
            yield one


def census(c: Change) -> Census:
    found = columns(c)
    _, states, _, nbytes, is_pinned = found
    used, pinned_nbytes = int(nbytes.sum()), int(nbytes[is_pinned].sum())
    objects, condemned = int((states == SEALED).sum()), int((states == CONDEMNED).sum())
    capacity = c.file.header.capacity
    free, largest = capacity - min(used, capacity), extents.largest(c)
    spare = _limits.spare_memory(c.file.descriptor_or_none())
    if spare < free:
        free, largest = _bounded(c, free, largest, spare)
    room = _full_messages.Room(
        capacity=capacity,
        free=free,
        largest_free=min(largest, free),
        pinned=int(is_pinned.sum()),
        pinned_nbytes=pinned_nbytes,
        condemned=condemned,
        writing_nbytes=int(nbytes[found.half_made].sum()),
    )
    return Census(room, used, objects)


def _bounded(c: Change, free: int, largest: int, spare: int) -> tuple[int, int]:
    """The same, less what the file system can no longer provide: it has `spare` bytes.

    A put takes the extent that fits best, whether that has memory or not.
    """
    fd, file = c.file.descriptor_or_none(), c.file
    total = longest = 0
    for unit, units in extents.extents(c):
        parts = _limits.committed(fd, file.block_at(unit), file.block_at(unit + units))
        sizes = [end - start for start, end in parts]
        total += sum(sizes)
        longest = max(longest, min(max(sizes, default=0) + spare, units * UNIT))
    return min(free, total + spare), min(largest, spare if c[TRIMS] else longest)


def stats(c: Change, folder: str, own: int | None) -> tuple[int, ...]:
    """The fields of StoreStats, in order."""
    counted = census(c)
    room, fd = counted.room, c.file.descriptor_or_none()
    rows = process_table.used_rows(c)
    alive = [row for row in rows if is_live_row(c, folder, row, own)]
    counters = [
        c[TOTALS + k] + sum(c[process_table.row_at(c.file, row) + ROW_COUNTERS + k] for row in rows)
        for k in range(COUNTERS)
    ]
    return (
        *(room.capacity, counted.used, room.free, room.largest_free),
        *(counted.objects, room.pinned, room.condemned),
        *(_limits.resident(fd), _limits.free_on(fd)),
        sum(process_table.waiting_of(c, row) != 0 for row in alive),
        *counters,
        sum(not recovery.has_left(c, row) for row in alive),
    )


def is_live_row(c: Change, folder: str, row: int, own: int | None) -> bool:
    """`own`: the row of the caller, if it has one."""
    return row == own or not process_table.row_is_dead(c, folder, row)


# --- holders


class Holding(NamedTuple):
    """A row and a slot that it keeps in memory; it has no pins if it is writing it."""

    row: int
    slot: int
    generation: int | None  # None: it is being written
    name: str | None
    pins: int
    nbytes: int
    kept: bool  # for children of the row's process


def name_of(c: Change, slot: int) -> str | None:
    """Decodes a name for display, whatever the label holds."""
    utf8 = slots.name(c, slot)
    return utf8.decode("utf-8", "replace") if utf8 else None


def holdings(c: Change, only: int | None = None) -> list[Holding]:
    """Lists the holdings of all slots, or of one."""
    found = []
    one = None if only is None else block(c, only)
    for held in _held(c) if only is None else [one] if one is not None else []:
        at = c.file.slot(held.slot)
        rows = {row: slots.pins_of(c, row, held.slot) for row in slots.pinning_rows(c, held.slot)}
        generation, name = None, name_of(c, held.slot)
        if slots.is_half_made(held.state):
            rows.setdefault(c[at + MAKER], 0)
        else:
            generation = held.generation
        for row, pins in rows.items():
            kept = pins != 0 and slots.is_kept(c, row, held.slot)
            found.append(Holding(row, held.slot, generation, name, pins, held.nbytes, kept))
    return found


def kept(c: Change, held: Iterable[Holding]) -> list[tuple[int, int]]:
    """Lists the processes that keep anything for children: pid and bytes."""
    nbytes: dict[int, int] = {}
    for one in held:
        if one.kept:
            nbytes[one.row] = nbytes.get(one.row, 0) + one.nbytes
    return [(process_table.pid_of(c, row), nbytes[row]) for row in sorted(nbytes)]


def top_holders(c: Change, held: Iterable[Holding]) -> list[tuple[int, TopHolder]]:
    """The processes that hold memory, with their rows, largest first."""
    nbytes: dict[int, int] = {}
    for one in held:
        if not one.nbytes:  # a claim on a name
            continue
        nbytes[one.row] = nbytes.get(one.row, 0) + one.nbytes
    people = []
    for row, n in nbytes.items():
        command = _children.keeper(process_table.command_of(c, row), recovery.has_ended(c, row))
        people.append((row, TopHolder(process_table.pid_of(c, row), command, n)))
    return sorted(people, key=lambda pair: (-pair[1].bytes, pair[1].pid))


# --- invariants. A problem is a sentence that begins with the invariant's name.


def find_problems(c: Change) -> set[str]:
    found: set[str] = set()
    for check in (_check_slots, _check_space, _check_free_slots, _check_names, _check_pins):
        found.update(_told_by(check, c))
    turn = c[TURN]
    if turn and turn - 1 not in process_table.used_rows(c):
        found.add(_problems.turn_of_free_row(turn - 1))
    if c.words[COUNT]:
        found.add(f"journal: {c.words[COUNT]} words of a change are still to be applied")
    return found


def _told_by(check: Callable[[Change], Iterator[str]], c: Change) -> set[str]:
    found = set()
    try:
        for problem in check(c):
            found.add(problem)
    except StoreCorruptedError as error:  # it cannot even be traversed
        found.add(f"damage: {error}")
    return found


def _check_slots(c: Change) -> Iterator[str]:
    file = c.file
    in_use = set(process_table.used_rows(c))
    for row in in_use:
        if not origins.is_known(c, origins.origin_of(c, row)):
            yield f"origin: row {row} names origin {origins.origin_of(c, row)}, which is unknown"
    for slot, word in enumerate(recovery.used_slots(c, WORD)):
        at, state = file.slot(slot), word & 0xFF
        if state > RETIRED or word >> 56:
            yield _problems.unknown_state(slot, word & 0xFF | word >> 56 << 8)
            continue
        yield from _check_owner(c, slot, state, in_use)
        if state not in HAVE_BLOCKS:
            continue
        if not origins.is_known(c, c[at + ORIGIN] & UNKNOWN):
            yield f"origin: slot {slot} names origin {c[at + ORIGIN] & UNKNOWN}, which is unknown"
        spill = slots.text_spill(c[at + SHAPE] >> 32) + slots.meta_spill(c[at + META])
        needed = c[at + NBYTES] + spill
        if needed > c[at + UNITS] * UNIT:
            yield f"size: slot {slot} holds {needed} bytes in a block of {c[at + UNITS]} units"
        if state == CLAIMED and not c[at + UNITS]:
            if c[at + WAITS_FOR] > slots.slots_used(c):
                yield f"offset: the claim in slot {slot} waits for slot {c[at + WAITS_FOR] - 1}"
        elif c[at + OFFSET] + c[at + UNITS] > file.g.units:
            yield f"offset: the block of slot {slot} ends after the last unit"
        if c[at + SHAPE] & 0xFF >= len(KINDS):
            yield _problems.unknown_kind(slot, c[at + SHAPE] & 0xFF)


def _check_owner(c: Change, slot: int, state: int, in_use: set[int]) -> Iterator[str]:
    at = c.file.slot(slot)
    maker, owner = c[at + MAKER], c[at + OWNED_BY]
    if slots.is_half_made(state) and maker not in in_use:
        yield f"owner: slot {slot} is being written by row {maker}, which is free"
    if owner and (state != SEALED or owner - 1 not in in_use):
        yield f"owned: slot {slot} in state {state} is owned by row {owner - 1}"


def _check_space(c: Change) -> Iterator[str]:
    taken = [(unit, units, "free") for unit, units in extents.extents(c)]
    taken += [
        (c[c.file.slot(held.slot) + OFFSET], held.nbytes // UNIT, f"slot {held.slot}")
        for held in blocks(c)
        if held.nbytes
    ]
    end, last = 0, "start"
    for unit, units, whose in [*sorted(taken), (c.file.g.units, 0, "end")]:
        if unit < end:
            yield f"overlap: unit {unit} belongs to {whose} and {last}"
        elif unit > end:
            yield f"lost units: {end} to {unit} are neither free nor part of a block"
        elif whose == last == "free":
            yield f"split: the free extents before and after unit {unit} are not merged"
        end, last = unit + units, whose


def _check_free_slots(c: Change) -> Iterator[str]:
    listed: set[int] = set()
    link = c[FREE_SLOT]
    while link:
        if link - 1 in listed or link > c[SLOTS_USED]:
            yield f"free slots: the list leads to slot {link - 1}, which is invalid"
            return
        listed.add(link - 1)
        link = c[c.file.slot(link - 1) + NEXT]
    for slot, word in enumerate(recovery.used_slots(c, WORD)):
        if (word & 0xFF == FREE) != (slot in listed):
            yield f"free slots: slot {slot} is in state {word & 0xFF}, but the list says otherwise"


def _check_names(c: Change) -> Iterator[str]:
    file = c.file
    chained: set[int] = set()
    first = file.g.buckets
    for link in filter(None, c.words[first : first + file.g.bucket_mask + 1].tolist()):
        while link:
            if link - 1 in chained or link > c[SLOTS_USED]:
                yield f"index: a chain leads to slot {link - 1}, which is invalid"
                break
            chained.add(link - 1)
            link = c[file.slot(link - 1) + NEXT]
    for slot, word in enumerate(recovery.used_slots(c, WORD)):
        state = word & 0xFF
        named = state == CLAIMED or (state == SEALED and slots.has_name(c, slot))
        if named != (slot in chained):
            yield f"index: slot {slot} is in state {word & 0xFF}, but the chains say otherwise"
        elif named:
            at = file.slot(slot)
            utf8 = file.name(slot, c[at + SHAPE] >> 8 & 0xFFFF)
            if names.name_hash(file, utf8) != c[at + HASH]:
                yield _problems.wrong_hash(slot)
            elif slot not in names.look(c, utf8):
                yield f"index: {utf8!r} leads to another slot than {slot}"


def _check_pins(c: Change) -> Iterator[str]:
    in_use = set(process_table.used_rows(c))
    states = recovery.used_slots(c, WORD)
    for slot, word in enumerate(states):
        state = word & 0xFF
        rows = slots.pinning_rows(c, slot)
        for row in rows:
            if row not in in_use:
                yield _problems.pins_of_free_row(row, slot)
            elif not slots.pins_of(c, row, slot):
                yield f"pins: row {row} has its bit in the mask of slot {slot}, but no pins on it"
        if rows and state not in HAVE_BLOCKS:
            yield f"pins: slot {slot} in state {state} is pinned"
        if state == CONDEMNED and not rows:
            yield _problems.lost_reap(slot)
