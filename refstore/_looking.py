"""Looks at a store without taking part in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from refstore._reports import Holder, ObjectInfo, PastRecovery, ProcessInfo, StoreStats
from refstore._store import Store, attached

if TYPE_CHECKING:
    from typing_extensions import Self

    from refstore._refs import ObjectRef

__all__ = ["Look"]

PAGE = 4096


class Look:
    """A look at the store at `path`."""

    def __init__(self, path: str, foreign: bool = False) -> None:
        self._store = attached(Store, path, foreign=foreign)
        self.path = path
        self.name = os.path.basename(path)
        self.uuid = self._store._attachment.uuid
        self.backend: Literal["native", "filelock"] = self._store.backend
        self.capacity = self._store.capacity
        self.max_objects = self._store.max_objects
        self.evict = self._store.evict
        self.made_at = os.stat(path).st_ctime

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def stats(self) -> StoreStats:
        return self._store.stats()

    def objects(self, prefix: str | None = None) -> Iterator[ObjectInfo]:
        return self._store.objects(prefix)

    def holders(self, key: ObjectRef | str | None = None) -> list[Holder]:
        return self._store.holders(key)

    def problems(self) -> list[str]:
        return self._store.check()

    def processes(self) -> list[ProcessInfo]:
        found: dict[int, ProcessInfo] = {}
        for one in self.holders():
            old = found.get(one.pid)
            pins, nbytes = (old.pins, old.bytes) if old else (0, 0)
            found[one.pid] = ProcessInfo(
                one.pid,
                one.command,
                "",
                one.alive,
                False,
                0,
                pins + one.pins,
                nbytes + one.bytes,
                0,
                0,
                0,
                0,
                0,
            )
        return list(found.values())

    def recoveries(self) -> list[PastRecovery]:
        return []

    def page_states(self) -> bytes:
        states = bytearray(self.capacity // PAGE)
        at = 0
        for one in self.objects():
            pages = -(-one.block_nbytes // PAGE)
            state = {"live": 3 if one.pins else 2, "pending delete": 4}.get(one.state, 5)
            states[at : at + pages] = bytes([state]) * pages
            at += pages
        return bytes(states[: self.capacity // PAGE])
