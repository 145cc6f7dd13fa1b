"""The calls of a store that wait, for coroutines: none of them blocks the event loop.

    buf = await aio.wait(store, "weights", newer_than=ref)

However many coroutines wait, one thread more sleeps for all of them, see `_watching`; each looks
and pins in its own loop. A coroutine that is cancelled pins nothing and waits for nothing. What is
at hand is returned without giving way to other tasks.

The calls work in every event loop that has call_soon_threadsafe(), such as uvloop's, and in several
loops at once. A forked child uses them in a loop of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import SupportsIndex, TypeVar

from refstore import _waiting_messages
from refstore._arguments import checked_count, deadline_of, listed_names
from refstore._buffers import PinnedBuffer
from refstore._copying import Draft, turn
from refstore._errors import GetTimeoutError, ObjectNotFoundError, StoreFullError
from refstore._making import Attempt, Maker
from refstore._paths import open_store
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore._watching import NAP, watching

__all__ = ["get", "get_or_put", "put", "wait", "wait_any"]

LARGE = 1 << 20  # bytes; what has fewer is copied by the event loop itself
SLICE = 0.25  # seconds that a thread waits for space before it looks whether it should
CLAIM_NAP = 0.05  # seconds between two looks whether another process still makes an object
GLANCE = 0.001  # seconds: the shortest wait in which an engine sees that nobody can end it

T = TypeVar("T")


async def get(
    store: Store, key: ObjectRef | str, *, timeout: float | None = 0, writable: bool = False
) -> PinnedBuffer:
    """Pins an object, as `store.get()`, without blocking the event loop while it waits.

    Parameters:
        store: the store.
        key: a ref, which is never waited for, or a name.
        timeout: seconds to wait for the name to be published; None: for ever.
        writable: whether the buffer is a private copy-on-write view.

    Returns:
        The PinnedBuffer.

    Errors:
        ObjectNotFoundError: nothing has the name, and the timeout is 0, or the ref is of no object.
        GetTimeoutError: the name was not published in that time.
        RefstoreError: the store's file was removed, and no other process is attached.
        TypeError, ValueError: an argument is invalid, or the store is closed, also meanwhile.

    Example:
        >>> import asyncio
        >>> from refstore import aio
        >>> _ = store.put(b"abc", name="letters")
        >>> with asyncio.run(aio.get(store, "letters", timeout=1)) as buf:
        ...     bytes(buf)
        b'abc'
    """
    end = _end_of(timeout)
    if timeout == 0 or isinstance(key, ObjectRef):
        return store.get(key, writable=writable)

    def look(seconds: float) -> PinnedBuffer:
        return store.get(key, timeout=seconds, writable=writable)

    found = await _until_found(store, [key], look, end)
    if found is None:
        assert timeout is not None
        raise _not_published(store, key, timeout)
    return found


async def wait(
    store: Store, name: str, *, newer_than: ObjectRef | None = None, timeout: float | None = None
) -> PinnedBuffer:
    """Waits until a name has an object other than the one that the caller knows, as `store.wait()`.

    Parameters:
        store: the store.
        name: the name.
        newer_than: the ref of the object that is known; None waits for any object.
        timeout: seconds to wait; None: for ever.

    Returns:
        A PinnedBuffer over the object that has the name.

    Errors:
        GetTimeoutError: the name has no object, or still that one.
        RefstoreError: the store's file was removed, and no other process is attached.
        TypeError, ValueError: an argument is invalid, or the store is closed, also meanwhile.

    Example:
        >>> import asyncio
        >>> from refstore import aio
        >>> first = store.put(b"1", name="weights")
        >>> _ = store.put(b"2", name="weights", replace=True)
        >>> with asyncio.run(aio.wait(store, "weights", newer_than=first)) as buf:
        ...     bytes(buf)
        b'2'
    """
    end = _end_of(timeout)

    def look(seconds: float) -> PinnedBuffer:
        return store.wait(name, newer_than=newer_than, timeout=seconds)

    found = await _until_found(store, [name], look, end)
    if found is not None:
        return found
    assert timeout is not None
    if newer_than is not None and name in store:
        raise _waiting_messages.not_replaced(store.path, name, timeout)
    raise _not_published(store, name, timeout)


async def wait_any(
    store: Store, names: Iterable[str], *, count: SupportsIndex = 1, timeout: float | None = None
) -> list[str]:
    """Waits until some of several names have objects, as `store.wait_any()`.

    Parameters:
        store: the store.
        names: the names, any number of them.
        count: how many of them must have objects; 1 to len(names).
        timeout: seconds to wait; None: for ever.

    Returns:
        Those that have objects, at least `count`, in the order given.

    Errors:
        GetTimeoutError: fewer have; `ready` lists those that do.
        RefstoreError: the store's file was removed, and no other process is attached.
        TypeError, ValueError: an argument is invalid, or the store is closed, also meanwhile.

    Example:
        >>> import asyncio
        >>> from refstore import aio
        >>> _ = store.put(b"x", name="b")
        >>> asyncio.run(aio.wait_any(store, ["a", "b"]))
        ['b']
    """
    end, asked, ready = _end_of(timeout), listed_names(names), list[str]()
    wanted = checked_count(count, asked)

    def look(seconds: float) -> list[str]:
        try:
            return store.wait_any(asked, count=wanted, timeout=seconds)
        except GetTimeoutError as error:
            ready[:] = error.ready
            raise

    found = await _until_found(store, asked, look, end)
    if found is None:
        assert timeout is not None
        raise _waiting_messages.not_enough(store.path, ready, wanted, len(asked), timeout)
    return found


async def put(
    store: Store,
    obj: object,
    *,
    name: str | None = None,
    replace: bool = False,
    timeout: float | None = 0,
    owned: bool = False,
    evictable: bool | None = None,
    meta: bytes = b"",
) -> ObjectRef:
    """Stores a copy of an object, as `store.put()`, without blocking the event loop.

    It is pickled in the event loop. If it is large, a thread of the loop's executor copies it, so
    do not change it meanwhile; and such a thread waits for space, for one after the other. It is
    published when all is copied, by the event loop: a put that is cancelled leaves nothing.

    Parameters:
        store: the store.
        obj: the object.
        name: publishes the object under this name.
        replace: an object that has the name is deleted, in one step with the publication.
        timeout: seconds to wait for space; None: for ever.
        owned: the object is deleted when this process closes the store, exits or dies.
        evictable: whether the object may be deleted when others need its space; None is what the
            store's `evict` says.
        meta: up to 65,536 bytes of the caller's own, which `buf.meta` shows.

    Returns:
        The object's ref.

    Errors:
        StoreFullError: no free extent is large enough, or max_objects are stored.
        ObjectExistsError: the name is taken, and `replace` is False.
        StoreBusyError: a process that is stopped has locked what this needs.
        TypeError, pickle.PicklingError: the object cannot be pickled.
        TypeError, ValueError: an argument is invalid, or the store is closed, also meanwhile.

    Example:
        >>> import asyncio
        >>> from refstore import aio
        >>> asyncio.run(aio.put(store, b"abc", name="letters")) == store.ref("letters")
        True
    """
    end = _end_of(timeout)
    draft = Draft(
        store,
        obj,
        name=name,
        replace=replace,
        owned=owned,
        evictable=evictable,
        meta=meta,
    )
    try:
        if draft.nbytes < LARGE:
            return draft.written(0).seal()
        return (await draft.written_in_thread(0)).seal()
    except StoreFullError as error:
        if not _may_fit(store, error, end):
            raise
    async with turn(store, _left(end)):
        while True:
            seconds = min(SLICE, _left(end))
            try:
                return (await draft.written_in_thread(seconds)).seal()
            except StoreFullError as error:
                if not _may_fit(store, error, end):
                    raise


def _may_fit(store: Store, error: StoreFullError, end: float) -> bool:
    """Whether to wait for the space that there was not."""
    return error.needed <= store.capacity and _left(end) > 0


async def get_or_put(
    store: Store,
    name: str,
    factory: Callable[[], object] | Callable[[], Awaitable[object]],
    *,
    timeout: float | None = None,
    owned: bool = False,
    evictable: bool | None = None,
) -> PinnedBuffer:
    """Returns the object that has a name, which one caller on the machine makes if need be.

    As `store.get_or_put()`, whose callers it waits for and who wait for it. A factory that is a
    coroutine function, or returns an awaitable, runs in the event loop as a task of its own; any
    other runs in a thread. If this call is cancelled, such a task is, too, and another caller's
    factory may run; a thread goes on, and what it makes is dropped.

    Within a task of this loop call this, not `store.get_or_put()`: that would block the loop, and
    the factory that it waits for may be a task of it.

    The object needs a slot beside that of the claim: one of the store's `max_objects` must be free
    for each of the two.

    Parameters:
        store: the store.
        name: the name.
        factory: makes the object; called without arguments, and without any lock held.
        timeout: seconds to wait for another caller's factory, and for space; None: for ever.
        owned: as of put(), if this caller makes the object.
        evictable: the same.

    Returns:
        A PinnedBuffer over the object that has the name.

    Errors:
        GetTimeoutError: another caller's factory has not finished; `pid` is its process.
        RefstoreError: a factory asks for its own name, or for one whose factory in this process
            waits for this one.
        StoreFullError: there is no space for what the factory returned.
        Exception: whatever the factory raises, or what put() raises of what it returned.
        TypeError, ValueError: an argument is invalid, or the store is closed, also meanwhile.

    Example:
        >>> import asyncio
        >>> from refstore import aio
        >>> async def download():
        ...     return b"abc"
        >>> with asyncio.run(aio.get_or_put(store, "letters", download)) as buf:
        ...     bytes(buf)
        b'abc'
    """
    end = _end_of(timeout)
    if not callable(factory):
        raise _waiting_messages.no_factory(factory)
    while True:
        with contextlib.suppress(ObjectNotFoundError):
            return store.get(name)
        maker = Maker.of(store, name)
        if maker is None:
            with Maker(store, name) as maker:
                attempt = Attempt(store, name, factory, end, owned=owned, evictable=evictable)
                return await _make(store, name, maker, attempt, end, timeout)
        if not await maker.has_ended(_left(end)):
            assert timeout is not None
            raise _waiting_messages.not_made(store.path, name, maker.pid, timeout)


async def _make(
    store: Store,
    name: str,
    maker: Maker,
    attempt: Attempt,
    end: float,
    timeout: float | None,
) -> PinnedBuffer:
    """Tries to make the object until somebody has; of one task in this loop."""
    found = await attempt.outcome(maker)
    if isinstance(found, PinnedBuffer):
        return found
    with watching(store, [name], for_objects=False) as request:
        while _left(end) > 0:
            await request.changed(min(CLAIM_NAP, _left(end)))
            found = await attempt.outcome(maker)
            if isinstance(found, PinnedBuffer):
                return found
    if isinstance(found, StoreFullError):
        raise found
    assert timeout is not None
    raise _waiting_messages.not_made(store.path, name, maker.pid, timeout)


def _end_of(timeout: float | None) -> float:
    """End of a call that begins here, by time.monotonic(). Errors: TypeError, ValueError."""
    deadline = deadline_of(timeout)
    return math.inf if deadline is None else deadline


def _not_published(store: Store, name: str, seconds: float) -> GetTimeoutError:
    """Nothing has the name after a wait, but maybe a claim."""
    maker = None
    try:
        store.wait(name, timeout=0).release()
    except GetTimeoutError as error:
        maker = error.pid
    return _waiting_messages.not_published(store.path, name, seconds, maker)


def _left(end: float) -> float:
    return end - time.monotonic()


async def _until_found(
    store: Store, names: Sequence[str], look: Callable[[float], T], end: float
) -> T | None:
    """Result of `look`, once it finds something; None if it does not before the deadline.

    `look(seconds)` raises ObjectNotFoundError or GetTimeoutError if there is nothing.
    """

    def found(seconds: float = 0) -> T | None:
        with contextlib.suppress(ObjectNotFoundError, GetTimeoutError):
            return look(seconds)
        return None

    result = found()
    if result is not None or _left(end) <= 0:
        return result
    with watching(store, names) as request:
        next_check = time.monotonic() + NAP
        while result is None and _left(end) > 0:
            await request.changed(_left(end))
            result = found()
            if result is None and time.monotonic() >= next_check:
                next_check = time.monotonic() + NAP
                if not _is_there(store):
                    result = found(GLANCE)  # raises if no process can publish any more
    return result


def _is_there(store: Store) -> bool:
    """Whether the store's file has its path still, so that others can attach."""
    attachment = store._attachment
    try:
        with open_store(attachment.path, os.O_RDONLY) as file:
            return attachment.is_of(file.fileno())
    except OSError:
        return False
