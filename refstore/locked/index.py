"""Names: a hash table of chains, in which each name that is published leads to its slot."""

from __future__ import annotations

import hashlib

from refstore.locked.journal import Change
from refstore.locked.layout import HASH, NEXT, SHAPE
from refstore.locked.mapping import Mapping


def hash_of(file: Mapping, utf8: bytes) -> int:
    """The same in all processes, and not to be foreseen by whoever picks the names."""
    key = file.header.seed.to_bytes(8, "little") + file.header.seed_more.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(utf8, digest_size=8, key=key).digest(), "little")


def _bucket(c: Change, hashed: int) -> int:
    return c.file.g.buckets + (hashed & c.file.g.bucket_mask)


def find(c: Change, utf8: bytes) -> int | None:
    """The slot of the live object with this name."""
    file = c.file
    hashed = hash_of(file, utf8)
    link = c[_bucket(c, hashed)]
    steps = 0
    while link:
        at = file.slot(link - 1)
        if c[at + HASH] == hashed and file.name(link - 1, c[at + SHAPE] >> 8 & 0xFFFF) == utf8:
            return link - 1
        link = c[at + NEXT]
        steps += 1
        if steps > file.g.max_objects:
            raise file.damaged()
    return None


def insert(c: Change, slot: int) -> None:
    at = c.file.slot(slot)
    bucket = _bucket(c, c[at + HASH])
    c[at + NEXT] = c[bucket]
    c[bucket] = slot + 1


def remove(c: Change, slot: int) -> None:
    """Takes a slot out of its chain. A chain that does not lead there is damaged."""
    file = c.file
    at = file.slot(slot)
    link_at = _bucket(c, c[at + HASH])
    for _ in range(file.g.max_objects + 1):
        link = c[link_at]
        if link == slot + 1:
            c[link_at] = c[at + NEXT]
            return
        if not link:
            break
        link_at = file.slot(link - 1) + NEXT
    raise file.damaged()
