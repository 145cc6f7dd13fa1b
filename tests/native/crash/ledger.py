"""The unnamed objects that the processes of a trial have put and not begun to delete."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import refstore

_ENTRY = struct.Struct("16sI?3x")  # ref, checksum, whether there is one
_COUNT = struct.Struct("Q")
_NBYTES = 1 << 20


class Entry(NamedTuple):
    """An object that must be there."""

    ref: refstore.ObjectRef
    checksum: int | None  # of its bytes, if it was put as bytes

    def is_of(self, data: bytes) -> bool:
        return self.checksum is None or self.checksum == zlib.crc32(data)


class Ledger:
    """Kept in memory that forked children share, so that it outlives whoever is killed.

    One process at a time writes: the others are stopped, and in the core, not here.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NBYTES)

    def clear(self) -> None:
        _COUNT.pack_into(self._memory, 0, 0)

    def enter(self, ref: refstore.ObjectRef, data: object) -> None:
        """A put has returned."""
        (count,) = _COUNT.unpack_from(self._memory)
        checksum = zlib.crc32(data) if isinstance(data, bytes) else 0
        at = _COUNT.size + count * _ENTRY.size
        _ENTRY.pack_into(self._memory, at, bytes(ref), checksum, isinstance(data, bytes))
        _COUNT.pack_into(self._memory, 0, count + 1)

    def strike(self, ref: refstore.ObjectRef) -> None:
        """A delete is about to begin."""
        (count,) = _COUNT.unpack_from(self._memory)
        at = self._memory.find(bytes(ref), 0, _COUNT.size + count * _ENTRY.size)
        if at >= 0:
            self._memory[at : at + _ENTRY.size] = bytes(_ENTRY.size)

    def __iter__(self) -> Iterator[Entry]:
        (count,) = _COUNT.unpack_from(self._memory)
        for i in range(count):
            raw, checksum, known = _ENTRY.unpack_from(self._memory, _COUNT.size + i * _ENTRY.size)
            if any(raw):
                yield Entry(refstore.ObjectRef(raw), checksum if known else None)


class AccountedStore(refstore.Store):
    """A store whose unnamed puts and deletes by ref are entered into a ledger.

    So is what is disowned by ref: it is nobody's from then on. What may be evicted is not.
    """

    ledger: Ledger

    def put(
        self, obj: object, *, name: str | None = None, owned: bool = False, **terms: Any
    ) -> refstore.ObjectRef:
        ref = super().put(obj, name=name, owned=owned, **terms)
        may_go = terms.get("evictable")
        if may_go is None:
            may_go = self.evict is not None
        if name is None and not owned and not may_go:
            self.ledger.enter(ref, obj)
        return ref

    def put_many(
        self, objs: Iterable[object], *, names: Any = None, owned: bool = False, **terms: Any
    ) -> list[refstore.ObjectRef]:
        asked = list(objs)
        refs = super().put_many(asked, names=names, owned=owned, **terms)
        if names is None and not owned:
            for ref, obj in zip(refs, asked, strict=True):
                self.ledger.enter(ref, obj)
        return refs

    def disown(self, key: refstore.ObjectRef | str) -> None:
        super().disown(key)
        if not isinstance(key, str):
            self.ledger.enter(key, None)

    def delete(self, key: refstore.ObjectRef | str) -> None:
        if not isinstance(key, str):
            self.ledger.strike(key)
        super().delete(key)
