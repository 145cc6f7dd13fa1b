"""Room for blocks: free extents in bins by size, merged with their neighbours at once.

A free extent's first and last unit have a tag with its size, so whoever frees the extent beside it
finds it; no other unit has one. Tags lie outside the payload, hence what is written there before a
change is committed, or by somebody who kept a view too long, cannot break them. The first unit's
two words hold the links of the bin's list, too:

    word 0    size 40 bits | low 24 bits of previous
    word 1    next 40 bits | high 16 bits of previous         links are unit + 1; 0: none

To take: the best fit among the first extents of the size's own bin, then whatever is first in the
next bin that has any, where each extent is large enough.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator

from refstore import _limits
from refstore._signals import is_from_handler
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import BITMAP, BITMAP_WORDS, TRIMS, UNIT, bin_of
from refstore.engines.filelock.life import here
from refstore.engines.filelock.targets import pieces

SCAN_LIMIT = 32  # extents of a bin that are compared before a larger bin is tried

_LOW_40 = (1 << 40) - 1
_LOW_24 = (1 << 24) - 1


def _tag(c: Change, unit: int) -> int:
    """The first word of a unit's tag."""
    if not 0 <= unit < c.file.g.units:
        raise c.file.damaged(f"a free extent or a block touches unit {unit} of {c.file.g.units}")
    return c.file.g.tags + 2 * unit


def _write(c: Change, unit: int, size: int, before: int, after: int) -> None:
    at = _tag(c, unit)
    c[at] = size | (before & _LOW_24) << 40
    c[at + 1] = after | before >> 24 << 40


def _read(c: Change, unit: int) -> tuple[int, int, int]:
    """(size, previous, next) of the free extent at `unit`."""
    at = _tag(c, unit)
    one, two = c[at], c[at + 1]
    size = one & _LOW_40
    if not 0 < size <= c.file.g.units - unit:
        raise c.file.damaged(f"the tag of unit {unit} has {size} units")
    return size, one >> 40 | two >> 40 << 24, two & _LOW_40


def _enlist(c: Change, unit: int, size: int) -> None:
    b = bin_of(size)
    head = c.file.g.bins + b
    first = c[head]
    if first:
        of_first, _, after = _read(c, first - 1)
        _write(c, first - 1, of_first, unit + 1, after)
    else:
        c[BITMAP + b // 64] |= 1 << b % 64
    c[head] = unit + 1
    c[_tag(c, unit + size - 1)] = size
    _write(c, unit, size, 0, first)


def _delist(c: Change, unit: int) -> int:
    """Takes a free extent out of its list and its tags away; returns its size."""
    size, before, after = _read(c, unit)
    b = bin_of(size)
    if after:
        of_after, _, beyond = _read(c, after - 1)
        _write(c, after - 1, of_after, before, beyond)
    if before:
        of_before, earlier, _ = _read(c, before - 1)
        _write(c, before - 1, of_before, earlier, after)
    else:
        if c[c.file.g.bins + b] != unit + 1:
            raise c.file.damaged(f"the extent at unit {unit} is not the first in bin {b}")
        c[c.file.g.bins + b] = after
        if not after:
            c[BITMAP + b // 64] &= ~(1 << b % 64)
    c[_tag(c, unit + size - 1)] = 0
    at = _tag(c, unit)
    c[at] = c[at + 1] = 0
    return size


def _next_bin(c: Change, b: int) -> int | None:
    """The first bin from `b` on that has extents."""
    for k in range(b // 64, BITMAP_WORDS):
        bits = c[BITMAP + k]
        if k == b // 64:
            bits = bits >> b % 64 << b % 64
        if bits:
            return 64 * k + (bits & -bits).bit_length() - 1
    return None


def _listed(c: Change, b: int) -> Iterator[tuple[int, int]]:
    """(first unit, units) of each free extent in a bin. A list that leads back is damaged."""
    link = c[c.file.g.bins + b]
    before, steps, seen = 0, 0, 0
    while link:
        size, previous, after = _read(c, link - 1)
        if link == seen or previous != before or bin_of(size) != b:
            raise c.file.damaged(f"the list of bin {b} leads to unit {link - 1}, which is invalid")
        steps += 1
        if steps & (steps - 1) == 0:
            seen = link  # at each power of two: a loop comes back here within its length
        yield link - 1, size
        before, link = link, after


def _best_of(c: Change, b: int, units: int, limit: int | None) -> int | None:
    """The smallest of a bin's first extents that is large enough."""
    best, best_size = None, 0
    for unit, size in itertools.islice(_listed(c, b), limit):
        if size >= units and (best is None or size < best_size):
            best, best_size = unit, size
            if size == units:
                break
    return best


def find(c: Change, units: int) -> int | None:
    """The first unit of a free extent that has room for a block; None if no free extent is large
    enough. 0 units need none."""
    if not units:
        return 0
    own = bin_of(units)
    found = _best_of(c, own, units, SCAN_LIMIT)
    if found is not None:
        return found
    larger = _next_bin(c, own + 1)
    if larger is not None:
        found = _best_of(c, larger, units, SCAN_LIMIT)
        if found is None:
            raise c.file.damaged(f"the bitmap says that bin {larger} has an extent")
        return found
    return _best_of(c, own, units, None)


def take(c: Change, unit: int, units: int) -> None:
    """A block of what `find` found, and for which there is memory."""
    if not units:
        return
    size = _delist(c, unit)
    if size > units:
        _enlist(c, unit + units, size - units)


def hole(c: Change, unit: int, units: int) -> int:
    """Units of the free extent that a block would be part of if it were given back."""
    end = unit + units
    if end < c.file.g.units:
        units += c[_tag(c, end)] & _LOW_40
    return units + (c[_tag(c, unit - 1)] & _LOW_40 if unit else 0)


def give(c: Change, unit: int, units: int) -> None:
    """A block is free again."""
    if not units:
        return
    total = c.file.g.units
    if unit + units > total:
        raise c.file.damaged(f"a block has {units} units from unit {unit} on")
    if unit + units < total and c[_tag(c, unit + units)]:
        units += _delist(c, unit + units)
    if unit:
        below = c[_tag(c, unit - 1)] & _LOW_40
        if below:
            if _delist(c, unit - below) != below:
                raise c.file.damaged(f"the tag of unit {unit - 1} is not that of its extent")
            unit, units = unit - below, units + below
    _enlist(c, unit, units)


def commit(c: Change, unit: int, units: int) -> bool:
    """Memory for a block that is about to be taken, and for its tags and its neighbours'."""
    file = c.file
    if not units:
        return True
    tags, end = file.g.tags * 8, unit + units
    first, last = tags + 16 * max(unit - 1, 0), tags + 16 * (end - 1)
    return file.commit(first, tags + 16 * (unit + 1)) and file.commit(
        last, tags + 16 * min(end + 1, file.g.units)
    )


def extents(c: Change) -> list[tuple[int, int]]:
    """(first unit, units) of each free extent, bin by bin."""
    found: list[tuple[int, int]] = []
    b = _next_bin(c, 0)
    while b is not None:
        found.extend(_listed(c, b))
        b = _next_bin(c, b + 1)
    return found


def largest(c: Change) -> int:
    """Bytes of the largest free extent."""
    for k in reversed(range(BITMAP_WORDS)):
        bits = c[BITMAP + k]
        if bits:
            sizes = [size for _, size in _listed(c, 64 * k + bits.bit_length() - 1)]
            return max(sizes, default=0) * UNIT
    return 0


def trim(c: Change) -> int:
    """Gives the memory of free extents back to the system; returns how many bytes."""
    if not hasattr(mmap, "MADV_REMOVE"):
        return 0
    file = c.file
    c.words[TRIMS] = c.words[TRIMS] + 1 & 0xFFFFFFFF  # first: from here on nothing is near
    before = _limits.resident(c.file.descriptor_or_none())
    life = here()
    for unit, units in extents(c):
        start = -(-file.block_at(unit) // mmap.PAGESIZE) * mmap.PAGESIZE
        end = file.block_at(unit + units) // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            for first, last in pieces(max(end - start, 0)):  # other threads run between two
                file.remove(start + first, start + last, life)
        except OSError as error:  # a file system that cannot
            if is_from_handler(error):
                raise
            break
    return max(before - _limits.resident(c.file.descriptor_or_none()), 0)
