"""One thread that sleeps for all coroutines of this process that wait on one store, for `aio`.

A coroutine registers the names that it waits for, and looks each time it is told that one of them
may have changed. The thread reads the numbers of all names, tells those whose numbers are others
than before, and sleeps on these very numbers: so what is published after it read them ends its
sleep, and what was published before is there when the coroutine looks. It never pins or looks
itself, and calls no method of a store.

The thread starts with the first waiter and ends a second after the last one. What it is to do comes
by a deque, so that no lock is held while Python may run: the collector closes forgotten coroutines
anywhere. A forked child has no such thread, and finds none of its parent's registrations.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from refstore._errors import GetTimeoutError
from refstore._store import Store
from refstore._threads import HELPERS
from refstore.engines.interface import Attachment, Watch

__all__ = ["Request", "watching"]

THREAD_NAME: Final = f"{HELPERS}.aio"
NAP: Final = 1.0  # seconds: of a waiter between two looks, if nothing tells it, and of the thread
IDLE: Final = 1.0  # seconds that the thread stays with nobody to wait for
LOOKS: Final = 200  # a second that all waiters of a store may take together for those
MANY: Final = 16  # told at once: then the thread lets them look before it tells them again
SHORT: Final = 0.001  # seconds
LOOK_DELAY: Final = 0.05  # seconds between two looks when nothing seems to have changed


class Request:
    """One coroutine that waits for changes of names."""

    __slots__ = ("_future", "_has_changed", "_watcher", "is_told", "loop", "names", "store")

    def __init__(self, watcher: Watcher, names: Sequence[str], store: Store | None) -> None:
        """`store`: which must have an object of one of the names for this to be of use."""
        self.names, self.store = names, store
        self.loop = asyncio.get_running_loop()
        self._watcher = watcher
        self._future: asyncio.Future[None] | None = None
        self.is_told = self._has_changed = False

    async def changed(self, seconds: float) -> None:
        """Returns when a name may have changed, and after so many seconds at the latest."""
        if not self._has_changed:
            future = self._future = self.loop.create_future()
            timer = self.loop.call_later(min(seconds, self._watcher.nap()), _end, future)
            try:
                await future
            finally:
                timer.cancel()
        self._has_changed = False

    def wake(self) -> None:
        """Lets it look; in its loop."""
        self._has_changed = True
        if self._future is not None:
            _end(self._future)


def tell(requests: Iterable[Request]) -> None:
    """Lets them look, each in its loop; of the thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    for request in requests:
        if not request.is_told:
            request.is_told = True
            by_loop.setdefault(request.loop, []).append(request)
    for loop, some in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits there
            loop.call_soon_threadsafe(_wake, some)


def _wake(requests: list[Request]) -> None:
    for request in requests:
        request.is_told = False  # before it looks: what changes from here on is told again
    for request in _with_objects(requests) if len(requests) > MANY else requests:
        request.wake()


def _with_objects(requests: list[Request]) -> list[Request]:
    """Requests that may find something: one look for all of them."""
    stores = [request.store for request in requests if request.store is not None]
    if not stores:
        return requests
    asked = {name for request in requests for name in request.names}
    try:
        ready = set(stores[0].wait_any(asked, timeout=0))
    except GetTimeoutError as error:
        ready = set(error.ready)
    except Exception:  # each finds out by itself, such as that the store is closed
        return requests
    return [one for one in requests if one.store is None or not ready.isdisjoint(one.names)]


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Watcher:
    """The thread of one store, and who waits."""

    def __init__(self, attachment: Attachment, watch: Watch) -> None:
        self.attachment = weakref.ref(attachment)  # which this must not keep open
        self._watch = watch
        self._inbox: deque[tuple[bool, Request]] = deque()  # True: it begins to wait
        self._is_running = threading.Lock()  # never waited for
        self.requests: set[Request] = set()  # of the thread, as all below
        self._by_name: dict[str, set[Request]] = {}
        self._new: list[Request] = []
        self._told: dict[str, object] = {}  # numbers of names, as they were when they were told
        self._next_look = 0.0  # by time.monotonic()

    def nap(self) -> float:
        """Seconds between two looks of a waiter that nothing tells."""
        return max(NAP, len(self.requests) / LOOKS)

    def add(self, request: Request) -> None:
        """Errors: RuntimeError if no thread can be started."""
        self._inbox.append((True, request))
        if self._is_running.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()
            except BaseException:
                self._is_running.release()
                self.remove(request)
                raise
        self._watch.poke()

    def remove(self, request: Request) -> None:
        self._inbox.append((False, request))
        self._watch.poke()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._is_running.release()
        if self._inbox and self._is_running.acquire(blocking=False):
            self._run()  # somebody came after the last look, and saw the thread run

    def _serve(self) -> None:
        idle_since = time.monotonic()
        while True:
            self._take_requests()
            if self.requests:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= IDLE:
                break
            names = list(self._by_name)
            seen = self._watch.seen(names)
            self._tell(names, seen)
            began = time.monotonic()
            self._watch.sleep(names, seen, NAP if names else IDLE)
            if names and time.monotonic() - began < NAP and not self._inbox:
                self._tell_one_if_same(names, seen)

    def _take_requests(self) -> None:
        while self._inbox:
            begins, request = self._inbox.popleft()
            if begins:
                self._new.append(request)
                self.requests.add(request)
                for name in request.names:
                    self._by_name.setdefault(name, set()).add(request)
            else:
                self._drop(request)
        for request in [one for one in self.requests if one.loop.is_closed()]:
            self._drop(request)

    def _drop(self, request: Request) -> None:
        self.requests.discard(request)
        for name in request.names:
            waiting = self._by_name.get(name, set())
            waiting.discard(request)
            if not waiting:
                self._by_name.pop(name, None)

    def _tell(self, names: Sequence[str], seen: Sequence[int]) -> None:
        numbers: Sequence[object] = seen
        is_of_each = len(seen) == len(names)
        if not is_of_each:
            numbers = [tuple(seen)] * len(names)
        told, self._told = self._told, dict(zip(names, numbers, strict=True))
        waiting = set(self._new)
        self._new.clear()
        for name, number in self._told.items():
            if told.get(name, number) != number:
                waiting |= self._by_name[name]
        tell(waiting)
        if len(waiting) > MANY and not is_of_each:
            time.sleep(min(len(waiting) * SHORT / 8, NAP / 4))  # any change tells all of them

    def _tell_one_if_same(self, names: Sequence[str], seen: Sequence[int]) -> None:
        """Lets one look if a sleep ended early without a change: a process that died in the middle
        of a change leaves it to the next look."""
        if list(self._watch.seen(names)) == list(seen):
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + LOOK_DELAY
                tell(list(self.requests)[:1])
            time.sleep(SHORT)


_watchers: weakref.WeakValueDictionary[tuple[int, bytes], Watcher] = weakref.WeakValueDictionary()


def _watcher_of(store: Store) -> Watcher:
    """The one of this process and store; its thread and its waiters keep it."""
    attachment = store._attachment
    key = os.getpid(), attachment.uuid
    watcher = _watchers.get(key)
    if watcher is None or watcher.attachment() is not attachment:
        made = Watcher(attachment, store._base()._watch())
        if watcher is not None:  # of an attachment that is closed
            _watchers.pop(key, None)
        watcher = _watchers.setdefault(key, made)
    return watcher


@contextlib.contextmanager
def watching(store: Store, names: Sequence[str], *, for_objects: bool = True) -> Iterator[Request]:
    """A request of the coroutine that runs. It is told at once, and may look only then.

    `for_objects`: it need not be told while no name has an object.
    """
    watcher = _watcher_of(store)
    request = Request(watcher, names, store if for_objects else None)
    watcher.add(request)
    try:
        yield request
    finally:
        watcher.remove(request)
