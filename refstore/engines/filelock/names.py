"""Names: a hash table of chains, in which each name that is published or claimed leads to its slot.

Called under the change lock; `slots` alone changes chains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    CLAIMED,
    HARD_CLAIM,
    HASH,
    NEXT,
    SEALED,
    SHAPE,
    SLOTS_USED,
    WORD,
)
from refstore.engines.filelock.mapping import Mapping

_IN_CHAINS = (SEALED, CLAIMED)


def name_hash(file: Mapping, utf8: bytes) -> int:
    """The same in all processes, and not to be foreseen by whoever picks the names."""
    key = file.header.seed.to_bytes(8, "little") + file.header.seed_more.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(utf8, digest_size=8, key=key).digest(), "little")


def _bucket(c: Change, hashed: int) -> int:
    return c.file.g.buckets + (hashed & c.file.g.bucket_mask)


def find(c: Change, utf8: bytes) -> int | None:
    """The slot of the live object with this name."""
    for slot in _named(c, utf8):
        if c[c.file.slot(slot) + WORD] & 0xFF == SEALED:
            return slot
    return None


def look(c: Change, utf8: bytes) -> tuple[int | None, int | None]:
    """The same, and the slot of the claim on this name: of two the hard one, see `claims`."""
    sealed = claim = None
    for slot in _named(c, utf8):
        at = c.file.slot(slot)
        if c[at + WORD] & 0xFF == SEALED:
            sealed = slot
        elif claim is None or c[at + SHAPE] & HARD_CLAIM:
            claim = slot
    return sealed, claim


def _named(c: Change, utf8: bytes) -> Iterator[int]:
    """The slots that have this name."""
    file = c.file
    hashed = name_hash(file, utf8)
    for slot in chain(c, _bucket(c, hashed)):
        at = file.slot(slot)
        if c[at + HASH] == hashed and file.name(slot, c[at + SHAPE] >> 8 & 0xFFFF) == utf8:
            yield slot


def chain(c: Change, bucket: int) -> Iterator[int]:
    """The slots of a chain. One that leads to what has no name, or back, is damaged."""
    file, used = c.file, c[SLOTS_USED]
    link, steps, seen = c[bucket], 0, 0
    while link:
        slot = link - 1
        if slot >= used or c[file.slot(slot) + WORD] & 0xFF not in _IN_CHAINS or link == seen:
            raise file.damaged(f"a chain of the index leads to slot {slot}, which is invalid")
        steps += 1
        if steps & (steps - 1) == 0:
            seen = link  # at each power of two: a loop comes back here within its length
        yield slot
        link = c[file.slot(slot) + NEXT]


def index(c: Change, slot: int) -> None:
    at = c.file.slot(slot)
    bucket = _bucket(c, c[at + HASH])
    c[at + NEXT] = c[bucket]
    c[bucket] = slot + 1


def unindex(c: Change, slot: int) -> None:
    """Takes a slot out of its chain. A chain that does not lead there is damaged."""
    file = c.file
    at = file.slot(slot)
    link_at = bucket = _bucket(c, c[at + HASH])
    for found in chain(c, bucket):
        if found == slot:
            c[link_at] = c[at + NEXT]
            return
        link_at = file.slot(found) + NEXT
    raise file.damaged(f"no chain of the index leads to slot {slot}, which has a name")
