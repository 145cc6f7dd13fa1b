"""Notifications of new and deleted objects, as objects of the store: no server sends them.

    plasma:subscribers      the registry: a count of changes, and who has subscribed
    plasma:subscriber:ID    there as long as that subscriber's process lives, which owns it
    plasma:change:ID:N      what change number N was, for that subscriber, who deletes it

There is a registry while somebody has subscribed; without one, a change costs a look for it. With
one, whoever changes an object claims it meanwhile. So changes have an order, which is that of
their notifications; and one that finds no room for these does not begin. The registry is published
after the change, and each subscriber has a thread that waits for that.

Nobody announces what the store itself evicts. So the registry has the store's count of evictions,
too: when it has grown, a subscriber looks which objects are gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from refstore._buffers import Writer
from refstore._errors import (
    GetTimeoutError,
    ObjectExistsError,
    ObjectNotFoundError,
    RefstoreError,
    StoreBusyError,
)
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.plasma.ids import ID_NBYTES, ObjectID

__all__ = [
    "IS_ID",
    "Notification",
    "Subscription",
    "announced",
    "decoded",
    "drop_dead_subscribers",
    "received",
]

REGISTRY = "plasma:subscribers"
MOST_SUBSCRIBERS = 128
MOST = 4096  # bytes of the registry that has them
NAP = 0.02  # seconds: whoever claims the registry publishes it, unless it dies
PATIENCE = 30.0  # seconds in which nobody publishes it; a copy of a large object may take as long
LOOK = 1024  # changes between two looks whether a subscriber is dead
GONE = -1  # both sizes of an object that was deleted

IS_ID = re.compile(rf"[0-9a-f]{{{2 * ID_NBYTES}}}").fullmatch
LENGTH = struct.Struct("L")
RECORD = struct.Struct(f"={ID_NBYTES}sqq")


class Notification(NamedTuple):
    """An object that is new, or is gone: then both sizes are -1."""

    object_id: bytes
    data_size: int = GONE
    metadata_size: int = GONE


class _Registry(NamedTuple):
    changes: int
    evictions: int  # of the store, when it was written
    subscribers: list[str]


# --- of those who change objects


@contextlib.contextmanager
def announced(store: Store, count: int) -> Iterator[list[Notification] | None]:
    """Tells subscribers what the body adds to the list, `count` at most. None: there are none."""
    if REGISTRY not in store:
        yield None
        return
    made: list[Notification] = []
    with _claimed(store) as (registry, publish):
        if registry.changes % LOOK == 0:
            store.recover()
        alive = [one for one in registry.subscribers if _mark(one) in store]
        for dead in set(registry.subscribers) - set(alive):
            store.clear(_change(dead, ""))
        number = registry.changes
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(_room(store, _change(one, number), RECORD.size * count))
                for one in alive
            ]
            yield made
            records = b"".join(RECORD.pack(*one) for one in made)
            for writer in writers:
                writer.write_at(0, records)
                writer.truncate(len(records))
        if alive:
            publish(_Registry(number + 1, store.stats().evictions, alive))
        else:
            store.delete(REGISTRY)


def drop_dead_subscribers(store: Store) -> bool:
    """Gives back the room of what nobody will read; whether there may have been any."""
    if REGISTRY not in store:
        return False
    store.recover()
    with announced(store, 0):
        pass
    return True


def _mark(subscriber: str) -> str:
    return f"plasma:subscriber:{subscriber}"


def _change(subscriber: str, number: int | str) -> str:
    return f"plasma:change:{subscriber}:{number}"


def _room(store: Store, name: str, nbytes: int) -> Writer:
    return store.create(nbytes, name=name, replace=True, evictable=False)


@contextlib.contextmanager
def _claimed(store: Store) -> Iterator[tuple[_Registry, Callable[[_Registry], None]]]:
    """The registry, which nobody else reads or writes meanwhile, and a call that publishes it."""
    writer = _claim(store)

    def publish(registry: _Registry) -> None:
        text = json.dumps(registry).encode()
        writer.write_at(0, text)
        writer.truncate(len(text))
        writer.seal()

    try:
        yield _read(store), publish
    finally:
        writer.abort()  # does nothing if it is published


def _claim(store: Store) -> Writer:
    known, end = None, time.monotonic() + PATIENCE
    while True:
        try:
            return store.create(MOST, name=REGISTRY, claim=True, replace=True, evictable=False)
        except ObjectExistsError as error:
            before = known
            with contextlib.suppress(ObjectNotFoundError):
                known = store.ref(REGISTRY)
            if known != before:
                end = time.monotonic() + PATIENCE
            elif time.monotonic() > end:
                raise StoreBusyError(
                    f"process {error.pid} is amid a change of store {store.path!r} that it would "
                    f"notify subscribers of, and has not gone on for {PATIENCE:g} seconds: resume "
                    "it (kill -CONT) or kill it",
                    pid=error.pid or 0,
                ) from None
        with contextlib.suppress(GetTimeoutError):
            store.wait(REGISTRY, newer_than=known, timeout=NAP).release()


def _read(store: Store) -> _Registry:
    with contextlib.suppress(ObjectNotFoundError), store.get(REGISTRY) as buf:
        return _Registry(*json.loads(bytes(buf)))
    return _Registry(0, store.stats().evictions, [])


# --- of those who are told


class Subscription:
    """A thread that waits for changes, and writes them into a socket until nobody reads any more.

    It has a Store of its own, so that it can end after the client that began it.
    """

    def __init__(self, store: Store) -> None:
        self._id, self._pid = secrets.token_hex(8), os.getpid()
        own = Store(store.path, create=False)
        try:
            own.put(self._id.encode(), name=_mark(self._id), owned=True, evictable=False)
            known = set(own.names())
            with _claimed(own) as (registry, publish):
                if len(registry.subscribers) >= MOST_SUBSCRIBERS:
                    raise RefstoreError(
                        f"store {own.path!r} has {MOST_SUBSCRIBERS} subscribers, and no place for "
                        "more: disconnect() some"
                    )
                publish(registry._replace(subscribers=[*registry.subscribers, self._id]))
            known.update(own.names())  # others may have changed something without telling
        except BaseException:
            own.clear(_mark(self._id))
            own.close()
            raise
        self.socket, end = socket.socketpair()
        weakref.finalize(self, self.socket.close)  # which the thread sees with the next change
        arguments = (own, self._id, end, registry, known)
        self._thread = threading.Thread(
            target=_serve, args=arguments, name="refstore.plasma", daemon=True
        )
        self._thread.start()

    def close(self, store: Store) -> None:
        """End the thread; what was not read is dropped. A forked child has no thread to end."""
        if os.getpid() != self._pid:
            return
        self.socket.close()  # the thread may be waiting for somebody to read
        with contextlib.suppress(ObjectNotFoundError):
            store.delete(_mark(self._id))
        with _claimed(store) as (registry, publish):
            publish(registry)  # which the thread waits for
        self._thread.join()
        with announced(store, 0):
            pass  # the last one takes the registry along


def _serve(
    store: Store, mine: str, end: socket.socket, registry: _Registry, known: set[str]
) -> None:
    # Nobody reads any more, or the store is gone and no change can come.
    with store, end, contextlib.suppress(OSError, RefstoreError):
        try:
            _follow(store, mine, end, registry, known)
        finally:
            store.clear(_mark(mine))
            store.clear(_change(mine, ""))


def _follow(
    store: Store, mine: str, end: socket.socket, registry: _Registry, known: set[str]
) -> None:
    """Write each change into the socket, until there is no subscriber `mine` any more."""
    seen: ObjectRef | None = None
    number, evictions = registry.changes, registry.evictions
    while _mark(mine) in store:
        with store.wait(REGISTRY, newer_than=seen) as buf:
            seen, now = buf.ref, _Registry(*json.loads(bytes(buf)))
        told = [
            each for n in range(number, now.changes) for each in _taken(store, _change(mine, n))
        ]
        for each in told:
            if each.data_size != GONE:
                known.add(each.object_id.hex())
        if now.evictions != evictions:  # of what came with these changes, too
            told += _gone(store, known)
        number, evictions = now.changes, now.evictions
        for each in told:
            name = each.object_id.hex()
            if each.data_size == GONE:
                if name not in known:
                    continue  # it was told of as evicted
                known.discard(name)
            else:
                known.add(name)
            end.sendall(LENGTH.pack(RECORD.size) + RECORD.pack(*each))


def _gone(store: Store, known: Collection[str]) -> list[Notification]:
    left = set(known).difference(store.names())
    return [Notification(bytes.fromhex(name)) for name in left if IS_ID(name)]


def _taken(store: Store, name: str) -> list[Notification]:
    try:
        with store.get(name) as buf:
            records = [Notification(*fields) for fields in RECORD.iter_unpack(bytes(buf))]
    except ObjectNotFoundError:
        return []  # of a change that came before this subscriber, or whose process died amid it
    store.delete(name)
    return records


def received(end: socket.socket) -> bytes:
    """The next message, without its length."""
    return _exactly(end, *LENGTH.unpack(_exactly(end, LENGTH.size)))


def _exactly(end: socket.socket, nbytes: int) -> bytes:
    data = end.recv(nbytes, socket.MSG_WAITALL)
    if len(data) < nbytes:
        raise EOFError("the client is disconnected: there are no more notifications")
    return data


def decoded(message: bytes) -> tuple[list[ObjectID], list[int], list[int]]:
    """Ids, sizes and sizes of the metadata of what a message tells of."""
    rows = [Notification(*fields) for fields in RECORD.iter_unpack(message)]
    return (
        [ObjectID(one.object_id) for one in rows],
        [one.data_size for one in rows],
        [one.metadata_size for one in rows],
    )
