"""A process's part in the objects that travel: they are put, sent, and deleted when nobody looks.

Every such object is owned by a process, so that it goes with it however that ends. While all live,
an object goes when no process pins it, neither to read it nor on behalf of a message on its way:
whoever has had to do with it looks from time to time and deletes it then. So a process may pass on
what it received as long as it lives, whatever became of its maker's own copy.

A message on its way has a token: an empty object that the sender puts and the receiver deletes once
it has pinned what the message is about. Till then the sender pins it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import refstore
from refstore._byte_objects import octets_of
from refstore._comparing import are_equal
from refstore.payload.frames import aligned, base_address

__all__ = ["Keeper", "Placed"]

PAUSE = 0.25  # seconds between looks, or more if they take long
SHARE = 20  # of the time at most one part of so many is spent looking
RECOVERY = 2.0  # seconds after which others' deaths are noticed
GRACE = 10.0  # seconds in which a receiver may still read from a connection that is closed
PATIENCE = 300.0  # seconds for a receiver that has an open connection and says nothing

logger = logging.getLogger("refstore.dask")


class Placed(NamedTuple):
    """Place of a frame: a pin on its object, and at which of its bytes."""

    buf: refstore.PinnedBuffer
    offset: int


class _Flight:
    """A message on its way, by a connection of which `is_open` knows."""

    def __init__(self, pins: list[refstore.PinnedBuffer], is_open: Callable[[], bool]) -> None:
        self._pins, self._is_open = pins, is_open
        self._begun = time.monotonic()
        self._closed: float | None = None

    def is_lost(self, now: float) -> bool:
        if self._closed is None and not self._is_open():
            self._closed = now
        if self._closed is not None:
            return now - self._closed > GRACE
        return now - self._begun > PATIENCE

    def end(self) -> None:
        for pin in self._pins:
            pin.release()


class Keeper:
    """The objects of one store with which this process has to do."""

    def __init__(self, store: refstore.Store) -> None:
        self._store = store
        # Frames of this process's own that lie in the object as well, by address and size.
        self._tracked: dict[refstore.ObjectRef, list[tuple[int, int]]] = {}
        self._copies: dict[tuple[int, int], tuple[refstore.ObjectRef, int]] = {}
        self._flights: dict[refstore.ObjectRef, _Flight] = {}
        self._lock = threading.Lock()  # nothing is deleted between being found and being pinned
        self._stop = threading.Event()
        self._recovered = time.monotonic()
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._stop), name="refstore.dask", daemon=True
        )
        self._thread.start()

    @property
    def store(self) -> refstore.Store:
        return self._store

    # --- where frames lie

    def has(self, view: memoryview) -> bool:
        """Whether a view is of memory of the store."""
        try:
            return self._store.ref_of(view) is not None
        except ValueError:  # it is closed
            return False

    def place(self, views: Sequence[memoryview]) -> tuple[list[Placed], refstore.ObjectRef | None]:
        """Find each view in the store, or a copy; put those that are not there, as one object.

        Returns: where they are, and the ref of that object, if there had to be one.

        Errors: StoreFullError.
        """
        found: list[Placed | None] = []
        for view in views:
            # of the last one most often: the frames of a value were put together
            found.append(self._within(found[-1] if found else None, view) or self._find(view))
        fresh = [k for k, each in enumerate(found) if each is None]
        new = self._put([views[k] for k in fresh]) if fresh else []
        for k, placed in zip(fresh, new, strict=True):
            found[k] = placed
        return [each for each in found if each is not None], new[0].buf.ref if new else None

    def _within(self, placed: Placed | None, view: memoryview) -> Placed | None:
        """A view of an object that is pinned already."""
        if placed is None:
            return None
        offset = base_address(view) - base_address(octets_of(placed.buf))
        is_inside = 0 <= offset <= placed.buf.nbytes - view.nbytes
        return Placed(placed.buf, offset) if is_inside else None

    def _find(self, view: memoryview) -> Placed | None:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            ref = self._store.ref_of(view)
            if ref is not None:
                return self._within(Placed(self._store.get(ref), 0), view)
        return self._find_copy(view)

    def _find_copy(self, view: memoryview) -> Placed | None:
        copy = self._copies.get((base_address(view), view.nbytes))
        if copy is None:
            return None
        ref, offset = copy
        try:
            with self._lock:
                buf = self._store.get(ref)
        except refstore.ObjectNotFoundError:
            return None
        # The memory may have been changed since it was copied, or be another value's by now. And
        # another process may have seen the object unpinned just before it was pinned here.
        same = are_equal(view, octets_of(buf)[offset : offset + view.nbytes])
        if same and ref in self._store:
            return Placed(buf, offset)
        buf.release()
        return None

    def _put(self, views: Sequence[memoryview]) -> list[Placed]:
        offsets, end = [], 0
        for view in views:
            offsets.append(end)
            end += aligned(view.nbytes)
        try:
            writer = self._store.create(end, owned=True)
        except refstore.StoreFullError:
            self.sweep()
            writer = self._store.create(end, owned=True)
        with writer:
            for offset, view in zip(offsets, views, strict=True):
                writer.write_at(offset, view)
        ref = writer.ref
        buf = self._store.get(ref)
        self.track(ref)
        placed = [Placed(buf, offset) for offset in offsets]
        for view, each in zip(views, placed, strict=True):
            self.note_copy(view, each)
        return placed

    def note_copy(self, view: memoryview, placed: Placed) -> None:
        """Memory of this process's own has what lies in an object, as long as nobody changes it."""
        keys = self._tracked.get(placed.buf.ref)
        if keys is not None:
            key = base_address(view), view.nbytes
            self._copies[key] = placed.buf.ref, placed.offset
            keys.append(key)

    # --- messages

    def send(self, placed: Sequence[Placed], is_open: Callable[[], bool]) -> refstore.ObjectRef:
        """Pins what a message is about until it has arrived or is lost; returns its token."""
        token = self._store.put(b"", owned=True)
        self._flights[token] = _Flight([each.buf for each in placed], is_open)
        return token

    def has_arrived(self, token: refstore.ObjectRef) -> None:
        """The receiver has pinned what the message with this token is about."""
        with contextlib.suppress(refstore.ObjectNotFoundError):
            self._store.delete(token)

    def tracks(self, ref: refstore.ObjectRef) -> bool:
        return ref in self._tracked

    def track(self, ref: refstore.ObjectRef) -> None:
        """Deletes an object that this process pins, when nobody does any more."""
        self._tracked.setdefault(ref, [])

    # --- the end of objects

    def sweep(self) -> None:
        """Ends what has arrived or is lost, and deletes what nobody pins."""
        now = time.monotonic()
        for token, flight in list(self._flights.items()):
            lost = flight.is_lost(now)
            if token not in self._store or lost:
                if lost:
                    self.has_arrived(token)
                self._flights.pop(token, None)
                flight.end()
        for ref in list(self._tracked):
            with self._lock:
                if self._is_gone(ref):
                    for key in self._tracked.pop(ref, ()):
                        if self._copies.get(key, (None, 0))[0] == ref:
                            del self._copies[key]
        if now - self._recovered > RECOVERY:
            self._recovered = now
            self._store.recover()

    def _is_gone(self, ref: refstore.ObjectRef) -> bool:
        try:
            if self._store.refcount(ref) > 1:
                return False
            self._store.delete(ref)
        except refstore.ObjectNotFoundError:
            pass
        return True

    def close(self) -> None:
        """Looks no more. What this process owns goes as the store is closed."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        while self._flights:
            token, flight = self._flights.popitem()
            self.has_arrived(token)
            flight.end()


def _run(keeper_ref: Any, stop: threading.Event) -> None:
    """Look at what a keeper has, while there is a keeper."""
    pause = PAUSE
    while not stop.wait(pause):
        keeper = keeper_ref()
        if keeper is None:
            return
        begun = time.monotonic()
        try:
            keeper.sweep()
        except ValueError:  # the store is closed
            return
        except refstore.RefstoreError as error:
            logger.warning("looking for what nobody needs any more failed: %s", error)
        pause = max(PAUSE, SHARE * (time.monotonic() - begun))
        del keeper
