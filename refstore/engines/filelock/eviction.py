"""Eviction: objects that go since others need their room.

Whoever finds no room, and has the change lock, evicts one object if that makes enough room: the
oldest of SAMPLES that are drawn, or the one whose turn it is in the `queues`. Where no single one
does, it evicts a window: neighbours that together leave enough room, of SAMPLES windows the one
whose most recently used object was used longest ago. Nothing goes if no window is large enough, and
nothing that is pinned. Here they are chosen; to evict is to delete.

When an object was last used is written at once by whoever gets it under the lock; after a death it
may be older than it was.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from refstore._arguments import POLICIES
from refstore.engines.filelock import extents, queues, recovery, slots
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    EVICTABLE,
    FREE,
    HASH,
    HIT,
    MASK,
    MAX_ROWS,
    MOST_HITS,
    OFFSET,
    SEALED,
    SMALL,
    TICK,
    TICKS,
    UNITS,
    USE,
    WORD,
)

__all__ = ["admit", "all_that_may_go", "gaps_hold", "lot_fits", "note_use", "use_word", "victims"]

SAMPLES: Final = 10  # objects or windows that are compared
DRAWS: Final = 64  # slots that are looked at for these

_S3FIFO: Final = POLICIES.index("s3fifo")

_dice = random.Random()


# --- use


def use_word(c: Change, evictable: bool) -> int:
    """The use of an object that is put."""
    return (EVICTABLE | _tick(c)) if evictable else 0


def note_use(c: Change, slot: int) -> None:
    """An object is got."""
    at = c.file.slot(slot) + USE
    use = c.words[at]
    if use & EVICTABLE:
        more = HIT if use // HIT & MOST_HITS < MOST_HITS else 0
        c.words[at] = (use & ~TICKS | _tick(c)) + more


def _tick(c: Change) -> int:
    now = c.words[TICK] + 1 & TICKS
    c.words[TICK] = now
    return now


def admit(c: Change, slot: int) -> None:
    """Enters what is about to be published into the queues, where there are any."""
    at = c.file.slot(slot)
    if _has_queues(c) and c[at + USE] & EVICTABLE:
        queues.admit(c, slot, c[at + WORD] >> 8, c[at + HASH])


# --- room


def victims(c: Change, units: int) -> list[int] | None:
    """The slots of objects that leave enough room for a block of so many units, and a slot; None
    if there are none."""
    if not slots.has_slot(c) and extents.find(c, units) is not None:
        units = 0
    one = queues.next_victim(c) if _has_queues(c) else _oldest(c, units)
    if one is not None and _leaves(c, one) >= units:
        return [one]
    blocks = _Blocks(c)
    if _has_queues(c) and queues.is_empty(c):
        for slot in blocks.evictable:
            queues.push(c, SMALL, slot, slots.generation_of(c, slot))
    return blocks.window(units)


def lacks_memory(c: Change) -> bool:
    """Whether there is none for what it is to remember."""
    return _has_queues(c) and not queues.has_memory(c)


def all_that_may_go(c: Change) -> list[int]:
    """The slots of all objects that may go."""
    return _Blocks(c).evictable


def lot_fits(c: Change, units: Sequence[int]) -> bool:
    """Whether there is room for all these blocks, one after the other, if all goes that may."""
    blocks = _Blocks(c)
    return len(units) <= blocks.n_slots and gaps_hold(blocks.stretches(), units)


def gaps_hold(gaps: Iterable[int], units: Sequence[int]) -> bool:
    """Whether gaps of so many units each have room for blocks of so many, one after the other, as
    space is given out: in the smallest gap that will do."""
    gaps = sorted(gaps)
    if sum(units) > sum(gaps):
        return False
    for wanted in filter(None, units):
        best = bisect.bisect_left(gaps, wanted)
        if best == len(gaps):
            return False
        bisect.insort(gaps, gaps.pop(best) - wanted)
    return True


def _has_queues(c: Change) -> bool:
    return c.file.header.evict == _S3FIFO


def _leaves(c: Change, slot: int) -> int:
    """Units of the free extent that is left when an object goes."""
    at = c.file.slot(slot)
    units = c[at + UNITS]
    return extents.hole(c, c[at + OFFSET], units) if units else 0


def _oldest(c: Change, units: int) -> int | None:
    """The oldest of some objects, each of which leaves enough room."""
    used, found = slots.slots_used(c), dict[int, int]()
    for _ in range(DRAWS if used else 0):
        slot = int(_dice.random() * used)
        at = c.file.slot(slot)
        use = c[at + USE]
        if (
            use & EVICTABLE
            and c[at + WORD] & 0xFF == SEALED
            and not slots.is_pinned(c, slot)
            and _leaves(c, slot) >= units
        ):
            found[slot] = use & TICKS
            if len(found) == SAMPLES:
                break
    return min(found, key=found.__getitem__) if found else None


class _Blocks:
    """Units that may go, and free ones, by place in the file."""

    def __init__(self, c: Change) -> None:
        word, use = recovery.column(c, WORD), recovery.column(c, USE)
        pinned: Any = sum(recovery.column(c, MASK + k) != 0 for k in range(MAX_ROWS // 64))
        may_go = np.nonzero((word & 0xFF == SEALED) & (use & EVICTABLE != 0) & (pinned == 0))[0]
        free = np.array(extents.extents(c), np.uint64).reshape(-1, 2)
        starts = np.concatenate([recovery.column(c, OFFSET)[may_go], free[:, 0]])
        units = np.concatenate([recovery.column(c, UNITS)[may_go], free[:, 1]])
        order = [i for i in np.argsort(starts, kind="stable").tolist() if units[i]]
        self.evictable: list[int] = may_go.tolist()
        n_free = int(np.count_nonzero(word & 0xFF == FREE)) + c.file.g.max_objects - len(word)
        self.n_slots = n_free + len(may_go)
        self._slots = [self.evictable[i] if i < len(may_go) else None for i in order]
        starts, units = starts[order], units[order]
        # Units before each, and in all; the first of each stretch in which all lie side by side.
        self._before: list[int] = [0, *np.cumsum(units).tolist()]
        has_gap = starts[1:] != (starts + units)[:-1]
        firsts = (np.nonzero(has_gap)[0] + 1).tolist()
        self._firsts: list[int] = [0, *firsts, len(order)] if order else [0]
        self._use = use
        self._of_use = HIT * (MOST_HITS + 1) - 1 if _has_queues(c) else TICKS  # bits that compare

    def stretches(self) -> Iterator[int]:
        """The units of each stretch in which nothing lies that stays."""
        for first, end in itertools.pairwise(self._firsts):
            yield self._before[end] - self._before[first]

    def window(self, units: int) -> list[int] | None:
        """The slots of neighbours whose blocks, with what is free between them, have so many units;
        None if there are none."""
        if not self.evictable:
            return None
        if not units:
            return [_dice.choice(self.evictable)]
        blocks = [i for i, slot in enumerate(self._slots) if slot is not None]
        drawn = [self._around(_dice.choice(blocks), units) for _ in range(SAMPLES if blocks else 0)]
        found = [window for window in drawn if window is not None]
        if found:
            return min(found, key=self._last_use)
        return next((w for i in blocks if (w := self._around(i, units)) is not None), None)

    def _last_use(self, window: list[int]) -> int:
        return max(int(self._use[slot]) & self._of_use for slot in window)

    def _around(self, i: int, units: int) -> list[int] | None:
        """The same, of those that lie next to a given one."""
        before = self._before
        turn = bisect.bisect_right(self._firsts, i)
        lowest, end = self._firsts[turn - 1], self._firsts[turn]
        if before[end] - before[lowest] < units:
            return None
        first = i - 1 if i > lowest and self._slots[i - 1] is None else i
        after = bisect.bisect_left(before, before[first] + units, i + 1, end + 1)
        if after > end:
            after = end
            first = bisect.bisect_right(before, before[end] - units, lowest, first + 1) - 1
        return [slot for slot in self._slots[first:after] if slot is not None]
