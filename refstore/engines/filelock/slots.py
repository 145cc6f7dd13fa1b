"""The life of an object, as changes that are yet to be committed.

    from -> to              operation                           in one change with
    FREE -> WRITING         create, a large put                 its block leaves the free extents
    FREE -> SEALED          a small put, copied before          the same, and its name
    WRITING -> SEALED       seal                                its name; what it replaces goes
    WRITING -> WRITING      truncate                            the rest of its block is free again
    WRITING -> FREE         abort, recovery                     its block is free again
    WRITING -> CONDEMNED    abort or recovery, while pinned
    WRITING -> CLAIMED      a name to be made, or create(claim) its name comes into its chain
    CLAIMED -> SEALED       seal                                what it replaces goes
    CLAIMED -> WRITING      others publish under the name       its name leaves the chain
    CLAIMED -> FREE         its maker fails or dies             its name goes, and its block
    CLAIMED -> CONDEMNED    the same, while pinned              its name goes
    SEALED -> FREE          delete, replace, evict              its name goes, its block is free
    SEALED -> CONDEMNED     delete, replace, while pinned       its name goes
    CONDEMNED -> FREE       the last pin goes                   that pin; its block is free again
    -> RETIRED              instead of FREE, at the last generation

Each is one change, and a pin that is taken or given back is one too. So whoever dies leaves an
object in one of these states, never between two; what the dead held is theirs until recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from refstore import _full_messages
from refstore.engines.filelock import extents, names
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    CHANGES,
    CLAIMED,
    CONDEMNED,
    FREE,
    FREE_SLOT,
    GENERATION_LAST,
    HARD_CLAIM,
    HASH,
    KEPT,
    LABEL_NBYTES,
    LABEL_TEXT,
    LOW_64,
    MAKER,
    MASK,
    MAX_ROWS,
    META,
    META_INLINE,
    NAME_AT,
    NBYTES,
    NEXT,
    OFFSET,
    ORIGIN,
    OWNED_BY,
    PAGE,
    PIN_LIMIT,
    RETIRED,
    SEALED,
    SHAPE,
    SLOT_WORDS,
    SLOTS_USED,
    TEXT_AT,
    UNIT,
    UNITS,
    UNSEALED,
    USE,
    WAITS_FOR,
    WORD,
    WRITING,
)

OF_NAME = HARD_CLAIM | 0xFFFF00  # bits of SHAPE
_LOW_32 = (1 << 32) - 1


class NoRoomError(Exception):
    """There is no slot, extent or memory; `why` is the end of a sentence that says which.

    `units`: of a block that had room, and a slot, if others went; None if that is no help.
    `lot`: of each of several blocks that did.
    """

    def __init__(self, why: str, units: int | None = None, lot: Sequence[int] = ()) -> None:
        super().__init__(why)
        self.units = units
        self.lot = lot or (units or 0,)

    def arguments(self) -> tuple[str, int | None, Sequence[int]]:
        """Arguments of an equal one, to be raised later and without this one's traceback."""
        return str(self), self.units, self.lot


class TooManyPinsError(Exception):
    """A process cannot count more on one object."""


# --- what a slot says of itself


def slots_used(c: Change) -> int:
    """Slots from here on were never used."""
    n = c[SLOTS_USED]
    if n > c.file.g.max_objects:
        raise c.file.damaged(f"{n} slots are used of {c.file.g.max_objects}")
    return n


def generation_of(c: Change, slot: int) -> int:
    generation = c[c.file.slot(slot) + WORD] >> 8
    if generation > GENERATION_LAST:
        raise c.file.damaged(f"the word of slot {slot} has the generation {generation}")
    return generation


def is_half_made(word: int) -> bool:
    """Whether a slot with this word is its maker's."""
    return word & 0xFF in (WRITING, CLAIMED)


def name(c: Change, slot: int) -> bytes:
    """Empty if it has none."""
    return c.file.name(slot, c[c.file.slot(slot) + SHAPE] >> 8 & 0xFFFF)


# --- claiming


class Wanted(NamedTuple):
    """The contents of a block to come."""

    nbytes: int  # of payload
    kind: int
    text: bytes = b""  # an array's description
    meta: bytes = b""

    @property
    def units(self) -> int:
        """Units of the block."""
        spill = text_spill(len(self.text)) + meta_spill(len(self.meta))
        return -(-(self.nbytes + spill) // UNIT)


def text_spill(nbytes: int) -> int:
    """Bytes behind the payload that so many of a description take."""
    return nbytes if nbytes > LABEL_TEXT else 0


def meta_spill(nbytes: int) -> int:
    """Bytes at the end of the block that so many of meta take."""
    return nbytes if nbytes > META_INLINE else 0


class By(NamedTuple):
    """Words of a slot: its maker, and the time."""

    maker: int
    origin: int
    use: int


def has_slot(c: Change) -> bool:
    """Whether one can be claimed."""
    return bool(c[FREE_SLOT]) or slots_used(c) < c.file.g.max_objects


def _find_slot(c: Change) -> int:
    """A slot that can be claimed."""
    file = c.file
    link = c[FREE_SLOT]
    if link:
        if link > slots_used(c) or c[file.slot(link - 1) + WORD] & 0xFF != FREE:
            raise file.damaged(
                f"the list of free slots leads to slot {link - 1}, which is not free"
            )
        return link - 1
    slot = slots_used(c)
    at, label = file.slot(slot) * 8, file.label(slot)
    if not file.commit(at, at + SLOT_WORDS * 8) or not file.commit(label, label + LABEL_NBYTES):
        raise NoRoomError(_full_messages.NO_MEMORY)
    return slot


def _take_slot(c: Change, slot: int) -> int:
    """It is in the list of free ones no longer, and in WRITING; returns its generation."""
    at = c.file.slot(slot)
    before = generation_of(c, slot)
    if before == GENERATION_LAST:
        raise c.file.damaged(f"slot {slot} is free, and had its last generation")
    if c[FREE_SLOT]:
        c[FREE_SLOT] = c[at + NEXT]
    else:
        c[SLOTS_USED] = slot + 1
    c[at + WORD] = before + 1 << 8 | WRITING
    c[at + SHAPE] = c[at + HASH] = c[at + NEXT] = 0
    return before + 1


def claim(c: Change, wanted: Wanted, by: By, near: bool, own: int | None = None) -> tuple[int, int]:
    """A slot in WRITING, with a block, its description and its meta as far as they lie outside of
    the block; returns it and its generation.

    `near`: the block's memory is committed, too. Its maker can pin it without any more memory.
    `own`: a slot of the maker's that has no block, and may be claimed, instead of a new one. If it
    raises, the change has nothing of it.
    """
    file, units = c.file, wanted.units
    if wanted.nbytes > file.header.capacity or units > file.g.units:
        is_over = wanted.nbytes > file.header.capacity
        raise NoRoomError(
            _full_messages.OVER_CAPACITY if is_over else _full_messages.OVER_WITH_META
        )
    if own is None and not has_slot(c):
        raise NoRoomError(_full_messages.no_slot(file.g.max_objects), units)
    unit = extents.find(c, units)
    if unit is None:
        raise NoRoomError(_full_messages.NO_EXTENT, units)
    slot = _find_slot(c) if own is None else own
    at, block, meta = file.slot(slot), file.block_at(unit), file.meta(slot)
    if (
        not extents.commit(c, unit, units)
        or (near and units and not file.commit(block, block + units * UNIT))
        or not file.commit_word(_cell(c, by.maker, slot)[0])
        or (wanted.meta and not file.commit_word(meta // 8))
    ):
        raise NoRoomError(_full_messages.NO_MEMORY)
    generation = _take_slot(c, slot) if own is None else generation_of(c, slot)
    extents.take(c, unit, units)
    c[at + OFFSET] = unit
    c[at + UNITS] = units
    c[at + NBYTES] = wanted.nbytes
    c[at + SHAPE] = c[at + SHAPE] & OF_NAME | wanted.kind | len(wanted.text) << 32
    c[at + MAKER], c[at + ORIGIN], c[at + USE] = by
    c[at + META] = len(wanted.meta)
    # nobody reads the label of a slot that is free
    if wanted.text and not text_spill(len(wanted.text)):
        label = file.label(slot) + TEXT_AT
        file.octets[label : label + len(wanted.text)] = wanted.text
    if wanted.meta and not meta_spill(len(wanted.meta)):
        file.octets[meta : meta + len(wanted.meta)] = wanted.meta
    return slot, generation


def fit(c: Change, slot: int) -> int | None:
    """A slot that is being written gives back what its block has too much; the unit at which the
    block ends then, or None if that stays.

    The meta at the end of the block is to be written anew.
    """
    at = c.file.slot(slot)
    unit, units = c[at + OFFSET], c[at + UNITS]
    spill = text_spill(c[at + SHAPE] >> 32) + meta_spill(c[at + META])
    needed = -(-(c[at + NBYTES] + spill) // UNIT)
    if needed >= units or not extents.commit(c, unit + needed, units - needed):
        return None
    extents.give(c, unit + needed, units - needed)
    c[at + UNITS] = needed
    return unit + needed


def free_slot(c: Change, slot: int) -> None:
    """A slot without pins or name gives its block back."""
    at = c.file.slot(slot)
    extents.give(c, c[at + OFFSET], c[at + UNITS])
    c[at + UNITS] = c[at + NBYTES] = c[at + HASH] = 0
    generation = c[at + WORD] >> 8
    if generation >= GENERATION_LAST:
        c[at + WORD] = generation << 8 | RETIRED
        return
    c[at + WORD] = generation << 8 | FREE
    c[at + NEXT] = c[FREE_SLOT]
    c[FREE_SLOT] = slot + 1


def condemn(c: Change, slot: int) -> None:
    """Nobody finds it any more; it is freed at once, or with its last pin."""
    at = c.file.slot(slot)
    if c[at + WORD] & 0xFF == CLAIMED:
        unclaim(c, slot)
    if c[at + OWNED_BY]:
        c[at + OWNED_BY] = 0
    if is_pinned(c, slot):
        if c[at + WORD] & 0xFF == WRITING:
            c[at + USE] |= UNSEALED
        c[at + WORD] = c[at + WORD] & ~0xFF | CONDEMNED
        c[at + HASH] = 0
    else:
        free_slot(c, slot)


# --- publishing and deleting


def _announce(c: Change) -> None:
    """Lets those who wait for names look again."""
    c[CHANGES] = c[CHANGES] + 1 & LOW_64


def write_name(c: Change, slot: int, utf8: bytes) -> None:
    """Writes a name into the label of a slot that nobody reads yet; it counts from `publish` on."""
    at = c.file.label(slot) + NAME_AT
    c.file.octets[at : at + len(utf8)] = utf8


def publish(c: Change, slot: int, utf8: bytes | None, replaced: int | None) -> None:
    """A slot whose payload, and name in the label, are written becomes an object.

    `replaced`: the slot that has its name now.
    """
    at = c.file.slot(slot)
    was_claimed = c[at + WORD] & 0xFF == CLAIMED
    c[at + WORD] = c[at + WORD] & ~0xFF | SEALED
    if utf8 is None:
        return
    if replaced is not None:
        remove(c, replaced)
    if was_claimed:
        c[at + SHAPE] &= ~HARD_CLAIM
    else:
        _insert(c, slot, utf8)
    _announce(c)


def _insert(c: Change, slot: int, utf8: bytes) -> None:
    at = c.file.slot(slot)
    c[at + HASH] = names.name_hash(c.file, utf8)
    c[at + SHAPE] = c[at + SHAPE] & ~0xFFFF00 | len(utf8) << 8
    names.index(c, slot)


def claim_name(c: Change, slot: int, utf8: bytes, is_hard: bool) -> None:
    """A slot in WRITING, with the name in its label, has that name for itself.

    `is_hard`: nobody else publishes under it meanwhile.
    """
    at = c.file.slot(slot)
    c[at + WORD] = c[at + WORD] & ~0xFF | CLAIMED
    _insert(c, slot, utf8)
    if is_hard:
        c[at + SHAPE] |= HARD_CLAIM


def unclaim(c: Change, slot: int) -> None:
    """A claim is a slot in WRITING again, and others may have its name."""
    at = c.file.slot(slot)
    names.unindex(c, slot)
    c[at + WORD] = c[at + WORD] & ~0xFF | WRITING
    c[at + SHAPE] &= ~OF_NAME
    c[at + HASH] = 0
    if not has_block(c, slot):
        c[at + WAITS_FOR] = 0
    _announce(c)


def has_block(c: Change, slot: int) -> bool:
    return c[c.file.slot(slot) + UNITS] != 0


def is_hard(c: Change, claim: int) -> bool:
    return c[c.file.slot(claim) + SHAPE] & HARD_CLAIM != 0


def is_soft_claim(c: Change, slot: int) -> bool:
    return c[c.file.slot(slot) + WORD] & 0xFF == CLAIMED and not is_hard(c, slot)


def remove(c: Change, slot: int) -> None:
    """The end of a live object."""
    if has_name(c, slot):
        names.unindex(c, slot)
        _announce(c)
    condemn(c, slot)


def has_name(c: Change, slot: int) -> bool:
    return c[c.file.slot(slot) + SHAPE] >> 8 & 0xFFFF != 0


def is_live(c: Change, slot: int, generation: int) -> bool:
    """Whether an object can be found by this ref."""
    if slot >= slots_used(c):
        return False
    return c[c.file.slot(slot) + WORD] == generation << 8 | SEALED


# --- pins


def _cell(c: Change, row: int, slot: int) -> tuple[int, int]:
    """The word that has the count, and how far up in it."""
    return c.file.g.pins + row * c.file.g.pin_words + (slot >> 1), (slot & 1) * 32


def pins_of(c: Change, row: int, slot: int) -> int:
    """Counts the pins of a row whose bit is set; else its cell may not be there. What is kept for
    children has a pin, though nobody else holds one."""
    cell = _count(c, row, slot)
    return max(cell & ~KEPT, cell // KEPT)


def _count(c: Change, row: int, slot: int) -> int:
    at, shift = _cell(c, row, slot)
    return c[at] >> shift & _LOW_32


def views_of(c: Change, row: int, slot: int) -> int:
    """Counts the pins that something in the row's process will give back. The row's bit is set."""
    return _count(c, row, slot) & ~KEPT


def is_kept(c: Change, row: int, slot: int) -> bool:
    """Whether a block is kept for children of a row's process. The row's bit is set."""
    return _count(c, row, slot) & KEPT != 0


def keep(c: Change, slot: int, row: int) -> None:
    """Keeps what a row pins, or its process is writing, as long as the row."""
    at, shift = _cell(c, row, slot)
    mask, bit = c.file.slot(slot) + MASK + row // 64, 1 << row % 64
    if c[mask] & bit:
        c[at] |= KEPT << shift
    elif is_half_made(c[c.file.slot(slot) + WORD]) and c[c.file.slot(slot) + MAKER] == row:
        c[mask] |= bit
        c[at] = c[at] & ~(_LOW_32 << shift) | KEPT << shift


def is_pinned(c: Change, slot: int) -> bool:
    mask = c.file.slot(slot) + MASK
    return bool(c[mask] or c[mask + 1] or c[mask + 2] or c[mask + 3])


def pinning_rows(c: Change, slot: int) -> list[int]:
    mask = c.file.slot(slot) + MASK
    rows = []
    for k in range(MAX_ROWS // 64):
        bits = c[mask + k]
        while bits:
            rows.append(64 * k + (bits & -bits).bit_length() - 1)
            bits &= bits - 1
    return rows


def prepare_pins(c: Change, row: int) -> None:
    """Memory for pins on all there is, as far as there is any."""
    last = min(slots_used(c), c.file.g.max_objects - 1)
    words = PAGE // 8
    first = _cell(c, row, 0)[0] // words * words
    for at in range(first, _cell(c, row, last)[0] + 1, words):
        if not c.file.commit_word(at):
            return


def pin(c: Change, slot: int, row: int, pins: int = 1) -> None:
    at, shift = _cell(c, row, slot)
    mask, bit = c.file.slot(slot) + MASK + row // 64, 1 << row % 64
    if c[mask] & bit:
        if (c[at] >> shift & ~KEPT & _LOW_32) + pins > PIN_LIMIT:
            raise TooManyPinsError
        c[at] += pins << shift
        return
    if not c.file.commit_word(at):
        raise NoRoomError(_full_messages.NO_MEMORY)
    c[mask] |= bit
    c[at] = c[at] & ~(_LOW_32 << shift) | pins << shift


def unpin(c: Change, slot: int, row: int, pins: int | None = 1, *, keeps: bool = True) -> int:
    """Gives back some pins of a row, or all; with the last one of all rows the block of a deleted
    object. Returns how many it gave. `keeps`: what is kept for children stays so."""
    mask, bit = c.file.slot(slot) + MASK + row // 64, 1 << row % 64
    if not c[mask] & bit:
        return 0
    at, shift = _cell(c, row, slot)
    cell = _count(c, row, slot)
    had = cell & ~KEPT
    given = had if pins is None else min(pins, had)
    left = cell - given if keeps else had - given
    c[at] = c[at] & ~(_LOW_32 << shift) | left << shift
    if not left:
        c[mask] &= ~bit
        if c[c.file.slot(slot) + WORD] & 0xFF == CONDEMNED and not is_pinned(c, slot):
            free_slot(c, slot)
    return given


def is_condemned(c: Change, slot: int) -> bool:
    return c[c.file.slot(slot) + WORD] & 0xFF == CONDEMNED


def is_written_by(c: Change, slot: int, generation: int, row: int) -> bool:
    at = c.file.slot(slot)
    word = c[at + WORD]
    return is_half_made(word) and word >> 8 == generation and c[at + MAKER] == row
