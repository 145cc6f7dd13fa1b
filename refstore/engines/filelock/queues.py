"""The queues of "s3fifo": two rings of slots in the file, and names that left the first one.

An object that may be evicted enters the small ring, or the main one if its name left the small one
not long ago. Whoever evicts takes the oldest of the small ring while that has a tenth of all, else
of the main one. What was got meanwhile goes to the end of the main ring instead: from the small one
at once, from the main one as often as it was got. So what is asked for once leaves early, and what
is asked for again stays.

All this is hints, written at once and under the change lock. An entry is a slot and the low bits of
its generation: one of what is gone is passed over. A death may leave an entry twice, which does no
harm. One that is lost is found again when the rings are empty, see `eviction`.

    ring    ring_words words; its counters SMALL or MAIN say how many were ever taken out and put in
    ghosts  groups of GHOST_WAYS words: high half of a name's hash 32 bits | GHOSTS at that time 32
"""

from __future__ import annotations

from typing import Final

from refstore.engines.filelock import slots
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    EVICTABLE,
    GHOST_WAYS,
    GHOSTS,
    HASH,
    HIT,
    LOW_64,
    MAIN,
    MOST_HITS,
    SEALED,
    SMALL,
    USE,
    WORD,
)

__all__ = ["admit", "has_memory", "is_empty", "next_victim", "push"]

SKIP_LIMIT: Final = 64  # pinned objects that are passed over for one that goes

_SHARE: Final = 10  # the small ring has one part in so many
_LOW_32: Final = (1 << 32) - 1


# --- rings


def _length(c: Change, ring: int) -> int:
    """Entries of a ring, those of what is gone among them."""
    n = c.words[ring + 1] - c.words[ring] & LOW_64
    return n if n <= c.file.g.ring_words else 0


def is_empty(c: Change) -> bool:
    return not _length(c, SMALL) + _length(c, MAIN)


def _place(c: Change, ring: int, count: int) -> int:
    g = c.file.g
    return g.rings + (g.ring_words if ring == MAIN else 0) + (count & g.ring_words - 1)


def has_memory(c: Change) -> bool:
    """Whether the next entries of both rings have memory, which they get here if there is any."""
    return all(
        c.file.commit_word(_place(c, ring, c.words[ring + 1] + more))
        for ring in (SMALL, MAIN)
        for more in (0, 1)
    )


def push(c: Change, ring: int, slot: int, generation: int) -> None:
    """Puts an entry in, if there is memory for it."""
    words = c.words
    if _length(c, ring) == c.file.g.ring_words:
        _compact(c, ring)
    elif not _length(c, ring):
        words[ring] = words[ring + 1]  # whatever they were
    at = _place(c, ring, words[ring + 1])
    if c.file.commit_word(at):
        words[at] = slot | (generation & _LOW_32) << 32
        words[ring + 1] = words[ring + 1] + 1 & LOW_64


def _compact(c: Change, ring: int) -> None:
    """Drops the entries of what is gone: a full ring has twice as many as there are slots."""
    words, first = c.words, c.words[ring]
    kept = {}
    for k in range(_length(c, ring)):
        entry = words[_place(c, ring, first + k)]
        if _resident(c, entry) is not None:
            kept[entry] = True  # once
    for k, entry in enumerate(kept):
        words[_place(c, ring, first + k)] = entry
    words[ring + 1] = first + len(kept) & LOW_64


def _resident(c: Change, entry: int) -> tuple[int, int] | None:
    """Slot and generation of an entry; None if it is of what is gone."""
    slot = entry & _LOW_32
    if slot >= slots.slots_used(c):
        return None
    at = c.file.slot(slot)
    word = c[at + WORD]
    if word & 0xFF != SEALED or word >> 8 & _LOW_32 != entry >> 32 or not c[at + USE] & EVICTABLE:
        return None
    return slot, word >> 8


# --- what comes in, and what goes out


def admit(c: Change, slot: int, generation: int, hashed: int) -> None:
    """Enters what is about to be published; `hashed`: of its name, 0 if it has none."""
    push(c, MAIN if hashed and _was_here(c, hashed) else SMALL, slot, generation)


def next_victim(c: Change) -> int | None:
    """The slot that is the next to go, which nobody pins. It stays where it is until it went."""
    skipped = 0
    while not is_empty(c) and skipped < SKIP_LIMIT:
        small, main = _length(c, SMALL), _length(c, MAIN)
        ring = SMALL if small * _SHARE >= small + main or not main else MAIN
        place = _place(c, ring, c.words[ring])
        found = _resident(c, c.words[place]) if c.file.commit_word(place) else None
        if found is not None:
            slot, generation = found
            if not _moves_on(c, ring, slot):
                return slot
            skipped += slots.is_pinned(c, slot)
            push(c, MAIN, slot, generation)
        c.words[ring] = c.words[ring] + 1 & LOW_64
    return None


def _moves_on(c: Change, ring: int, slot: int) -> bool:
    """Whether the oldest entry of a ring stays in the store for now. If not, and it is of the small
    ring, its name is remembered."""
    at = c.file.slot(slot)
    use = c.words[at + USE]
    hits = use // HIT & MOST_HITS
    if hits:
        c.words[at + USE] = use - HIT * (hits if ring == SMALL else 1)
    elif not slots.is_pinned(c, slot):
        if ring == SMALL:
            _remember(c, c[at + HASH])
        return False
    return True


def _group(c: Change, hashed: int) -> int | None:
    """The place where the name is remembered; None if there is no memory for that."""
    at = c.file.g.ghosts + (hashed & c.file.g.ghost_mask) * GHOST_WAYS
    return at if hashed and c.file.commit_word(at) else None


def _remember(c: Change, hashed: int) -> None:
    at = _group(c, hashed)
    if at is None:
        return
    words = c.words
    now = words[GHOSTS] + 1 & _LOW_32
    words[GHOSTS] = now
    ghosts = words[at : at + GHOST_WAYS].tolist()
    same = [k for k, ghost in enumerate(ghosts) if ghost >> 32 == hashed >> 32]
    ages = [_LOW_32 + 1 if not ghost else now - ghost & _LOW_32 for ghost in ghosts]
    words[at + (same[0] if same else ages.index(max(ages)))] = hashed >> 32 << 32 | now


def _was_here(c: Change, hashed: int) -> bool:
    """Whether a name left the small ring not long ago; from here on it did not."""
    at = _group(c, hashed)
    if at is None:
        return False
    words = c.words
    most = (_length(c, SMALL) + _length(c, MAIN)) * (_SHARE - 1) // _SHARE
    for k, ghost in enumerate(words[at : at + GHOST_WAYS].tolist()):
        if ghost and ghost >> 32 == hashed >> 32:
            words[at + k] = 0
            return (words[GHOSTS] - ghost & _LOW_32) < most
    return False
