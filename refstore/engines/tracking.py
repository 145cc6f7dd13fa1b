"""An engine's calls, each with a note of the line that made it: those of `Store(track=True)`.

A class of its own, so that a store that does not track takes no step for it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from refstore import _full_messages
from refstore._errors import ObjectNotFoundError, RefstoreError, StoreFullError
from refstore._refs import ObjectRef
from refstore._sites import Told, Tracker, call_site, tracker_of

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer, Writer
    from refstore.engines.interface import Engine, HolderRow

__all__ = ["tracked"]


def tracked(engine: type[Engine]) -> type[Engine]:
    """The engine's class, with notes."""
    return cast("type[Engine]", type("Tracked", (TrackedCalls, engine), {"__slots__": ()}))


class TrackedCalls:
    """The calls that put objects, or pin them."""

    __slots__ = ()

    def _calls(self) -> Engine:
        return cast("Engine", super())

    def _tracker(self) -> Tracker:
        return tracker_of(cast("Any", self)._attachment)

    def _own_pins(self, ref: bytes) -> int:
        try:
            rows = self._calls()._holders(ObjectRef(ref))
        except ObjectNotFoundError:
            return 0
        return sum(row[4] for row in rows if row[0] == os.getpid())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A full store is told with the lines behind what fills it."""
        try:
            yield
        except StoreFullError as error:
            with contextlib.suppress(RefstoreError, OSError, ValueError):
                told = _full_messages.lines_that_fill(*self._lines(bool(error.holders)))
                error.args = (f"{error.args[0]}{told}", *error.args[1:])
            raise

    def _lines(self, are_pinned: bool) -> tuple[str, Counter[str]]:
        """Bytes by the lines that pinned them; if nobody pins, by those that put what is live."""
        calls = self._calls()
        told = Told(calls._attachment.uuid, calls._processes())
        sums: Counter[str] = Counter()
        if are_pinned:
            for pid, _, ref, _, pins, nbytes, alive, _ in self._holders(None):
                if ref is not None and alive:
                    for site in set(told.pins(pid, bytes(ref), pins)):
                        sums[site] += nbytes
            return "pinned", sums
        for row in calls._objects(None):
            if row[0] is not None and (put_at := told.put(bytes(row[0]))) is not None:
                sums[put_at] += row[4]
        return "put", sums

    def _holders(self, key: ObjectRef | str | None) -> list[HolderRow]:
        self._tracker().sweep(self._own_pins)
        return self._calls()._holders(key)

    def put(self, obj: object, **options: Any) -> ObjectRef:
        with self._told():
            ref = self._calls().put(obj, **options)
        self._tracker().put(ref, call_site())
        return ref

    def create(self, nbytes: Any = None, **options: Any) -> Writer:
        with self._told():
            writer = self._calls().create(nbytes, **options)
        self._tracker().put(cast("Any", writer)._ref, call_site())
        return writer

    def put_many(self, objs: Iterable[object], **options: Any) -> list[ObjectRef]:
        with self._told():
            refs = self._calls().put_many(objs, **options)
        tracker, site = self._tracker(), call_site()
        for ref in refs:
            tracker.put(ref, site)
        return refs

    def get(self, key: ObjectRef | str, **options: Any) -> PinnedBuffer:
        return self._noted([self._calls().get(key, **options)])[0]

    def wait(self, name: str, **options: Any) -> PinnedBuffer:
        return self._noted([self._calls().wait(name, **options)])[0]

    def get_many(self, keys: Iterable[ObjectRef | str], **options: Any) -> list[PinnedBuffer]:
        return self._noted(self._calls().get_many(keys, **options))

    def get_or_put(self, name: str, factory: Callable[[], object], **options: Any) -> PinnedBuffer:
        made: list[None] = []

        def noting() -> object:
            result = factory()
            made.append(None)
            return result

        given = noting if callable(factory) else factory
        with self._told():
            found = self._calls().get_or_put(name, given, **options)
        (buf,) = self._noted([found])
        if made:
            self._tracker().put(buf.ref, call_site())
        return buf

    def _noted(self, bufs: Sequence[PinnedBuffer]) -> list[PinnedBuffer]:
        tracker, site = self._tracker(), call_site()
        for buf in bufs:
            tracker.pin(buf, site, self._own_pins)
        return list(bufs)
