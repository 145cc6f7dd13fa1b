"""Parts of large objects on their way: each is exported once, and its handle handed on.

At the source a part is exported when the first node asks for it. A node in the middle hands on the
handles as its own pull receives them, before it has the whole object. Handles are dropped when
`Cluster.delete` deletes the object, or 2 s after the last node asked.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from refstore import ObjectRef, Store
from refstore._byte_objects import octets_of
from refstore.ray._transport import Transport
from refstore.ray._values import ClusterRef

__all__ = ["PART", "PATIENCE", "Flight", "Parts", "part_count"]

PART = 32 << 20  # bytes; in halves of it 100 MB took a tenth longer
KEPT = 2.0  # seconds after the last use
PATIENCE = 1.0  # seconds that one question waits for a part that is on its way


def part_count(nbytes: int) -> int:
    return -(-nbytes // PART)


class Flight:
    """The handles of one object's parts that are known on this node."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.handles: dict[int, Any] = {}
        self.making: set[int] = set()
        self.is_coming = False  # this node is pulling the object
        self.used = time.monotonic()

    def is_over(self) -> bool:
        """Whether nobody is at work on it."""
        return not self.is_coming and not self.making

    def add(self, index: int, handle: Any) -> None:
        with self.changed:
            self.handles[index] = handle
            self.making.discard(index)
            self.changed.notify_all()

    def give_up(self, index: int) -> None:
        with self.changed:
            self.making.discard(index)
            self.changed.notify_all()

    def land(self) -> None:
        """The pull has ended."""
        with self.changed:
            self.is_coming = False
            self.changed.notify_all()


class Parts:
    """All objects that pass through this node."""

    def __init__(self, store: Store, transport: Transport) -> None:
        self.transport = transport
        self._store = store
        self._lock = threading.Lock()
        self._flights: dict[ClusterRef, Flight] = {}

    def flight(self, ref: ClusterRef) -> Flight:
        with self._lock:
            flight = self._flights.setdefault(ref, Flight())
            flight.used = time.monotonic()
            return flight

    def begin(self, ref: ClusterRef) -> Flight:
        """The flight of an object that this node pulls from here on, until land()."""
        flight = self.flight(ref)
        with flight.changed:
            flight.is_coming = True
        return flight

    def is_coming(self, ref: ClusterRef) -> bool:
        with self._lock:
            return ref in self._flights and self._flights[ref].is_coming

    def land(self, ref: ClusterRef) -> None:
        """The pull of an object has ended, if there was one."""
        with self._lock:
            flight = self._flights.get(ref)
        if flight is not None:
            flight.land()

    def handle(self, ref: ClusterRef, key: ObjectRef | str, index: int) -> Any:
        """The handle of one part; None if it is on its way still: ask again.

        `key`: the object's ref or name in this node's store.

        Errors: ObjectNotFoundError if it is neither here nor on its way.
        """
        flight = self.flight(ref)
        end = time.monotonic() + PATIENCE
        with flight.changed:
            while index not in flight.handles:
                if not flight.is_coming and index not in flight.making:
                    flight.making.add(index)
                    break
                if not flight.changed.wait(end - time.monotonic()):
                    return None
            else:
                return flight.handles[index]
        try:
            with self._store.get(key) as buf:
                handle = self.transport.export(octets_of(buf)[index * PART : (index + 1) * PART])
        except BaseException:
            flight.give_up(index)
            raise
        flight.add(index, handle)
        return handle

    def forget(self, ref: ClusterRef) -> None:
        """Drops the handles of an object that is deleted, unless it is on its way: expire() does
        then."""
        with self._lock:
            flight = self._flights.get(ref)
            if flight is not None and flight.is_over():
                del self._flights[ref]

    def expire(self) -> None:
        """Drops the handles that nobody has asked for in a while."""
        now = time.monotonic()
        with self._lock:
            for ref, flight in list(self._flights.items()):
                if flight.is_over() and now - flight.used > KEPT:
                    del self._flights[ref]
