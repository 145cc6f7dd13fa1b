"""Notifications between processes, of evictions too, and what is left of subscribers."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from typing import Any

import arrow_workers
import helpers
import libraries
import plasmas
import pytest
from children import child_process, child_processes

import refstore

plasma = libraries.Late("refstore.plasma")
pyarrow = libraries.Late("pyarrow")

pytestmark = libraries.needed("pyarrow")

RAW = b"twenty bytes, no more"[:20]
GONE = (-1, -1)
MANY = 600  # notifications: more than a socket takes that nobody reads


@pytest.fixture
def client(store: refstore.Store) -> Any:
    with plasmas.connected(store.path) as client:
        yield client


def told(client: Any, count: int) -> list[tuple[Any, int, int]]:
    return [client.get_next_notification() for _ in range(count)]


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.daemon and one.name == "refstore.plasma"]


def test_all_subscribers_are_told_of_what_all_clients_do(
    store: refstore.Store, client: Any
) -> None:
    client.subscribe()
    client.subscribe()  # does nothing more
    with child_processes(2, store.path) as (first, second):
        for child in (first, second):
            child.do(arrow_workers.connect)
        first.do(arrow_workers.subscribe)
        second.do(arrow_workers.put, RAW, "text")
        client.delete([plasma.ObjectID(RAW)])
        first.do(arrow_workers.begin, RAW, 10)
        first.do(arrow_workers.seal, RAW)
        size = client.get_next_notification()[1]
        assert size > 4
        assert told(client, 2) == [(plasma.ObjectID(RAW), *GONE), (plasma.ObjectID(RAW), 10, 0)]
        expected = [(RAW, size, 0), (RAW, *GONE), (RAW, 10, 0)]
        assert first.do(arrow_workers.next_notifications, 3) == expected


def test_what_was_there_before_is_not_told_of_until_it_is_gone(client: Any) -> None:
    before = client.put(1)
    client.subscribe()
    client.delete([before])
    assert told(client, 1) == [(before, *GONE)]


def test_what_the_store_evicts_is_told_of(store: refstore.Store, client: Any) -> None:
    size = store.capacity // 4
    before = client.put_raw_buffer(bytes(size))
    client.subscribe()
    made = [client.put_raw_buffer(bytes(size)) for _ in range(5)]
    seen = told(client, 5)
    gone = {one for one, *sizes in seen if tuple(sizes) == GONE}
    while len(gone) < 2:
        gone |= {one for one, *sizes in told(client, 1) if tuple(sizes) == GONE}
    assert gone <= {before, *made[:-1]}
    assert not any(client.contains(one) for one in gone)


def test_a_seal_without_room_for_its_notification_can_be_tried_again(
    store: refstore.Store, client: Any
) -> None:
    client.subscribe()
    kept = plasma.ObjectID(RAW)
    client.create(kept, 4)
    filling: list[refstore.ObjectRef] = []
    for size in (1 << 20, 4096, 64):
        filling += helpers.put_until_full(store, itertools.repeat(bytes(size)), evictable=False)
    with pytest.raises(plasma.PlasmaStoreFull):
        client.seal(kept)
    assert not client.contains(kept)
    for ref in filling:
        store.delete(ref)
    client.seal(kept)
    assert told(client, 1) == [(kept, 4, 0)]


def test_a_full_store_is_full_beside_subscribers_too(store: refstore.Store, client: Any) -> None:
    client.subscribe()
    calls: list[Callable[[], Any]] = [
        lambda: client.put(bytes(store.capacity)),
        lambda: client.put_raw_buffer(bytes(store.capacity + 1)),
        lambda: client.create(plasma.ObjectID(RAW), store.capacity + 1),
    ]
    for call in calls:
        with pytest.raises(plasma.PlasmaStoreFull):
            call()
    client.put(1, plasma.ObjectID(RAW))
    assert told(client, 1)[0][0] == plasma.ObjectID(RAW)


def test_there_is_an_end_of_subscribers(
    store: refstore.Store, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refstore.plasma.notifications.MOST_SUBSCRIBERS", 1)
    other = plasma.connect(store.path)
    client.subscribe()
    names = sorted(store.names())
    with pytest.raises(refstore.RefstoreError, match="has 1 subscribers, and no place for more"):
        other.subscribe()
    assert sorted(store.names()) == names
    client.disconnect()
    other.subscribe()
    other.disconnect()
    assert store.names() == []


def test_a_subscriber_that_is_killed_leaves_nothing(store: refstore.Store, client: Any) -> None:
    with child_process(store.path) as child:
        child.do(arrow_workers.connect)
        child.do(arrow_workers.subscribe)
        child.kill()
    client.put(1, plasma.ObjectID(RAW))
    store.recover()
    client.delete([plasma.ObjectID(RAW)])
    assert store.names() == []
    assert store.stats().used == 0


def test_room_of_what_a_dead_subscriber_was_told_is_found(
    store: refstore.Store, client: Any
) -> None:
    """Nobody has changed anything since it died."""
    made = [client.put_raw_buffer(b"x") for _ in range(MANY)]
    with child_process(store.path) as child:
        child.do(arrow_workers.connect)
        child.do(arrow_workers.subscribe)  # and does not read
        client.delete(made[1:])
        assert helpers.eventually(lambda: not store.names("plasma:change"))  # it has those
        client.delete(made[:1])
        assert store.names("plasma:change")
        child.kill()
    with pytest.raises(plasma.PlasmaStoreFull):
        client.create(plasma.ObjectID(RAW), store.capacity + 1)
    assert store.names() == []


def test_one_that_dies_amid_a_change_holds_up_nobody(store: refstore.Store, client: Any) -> None:
    from refstore.plasma.notifications import REGISTRY

    client.subscribe()
    with child_process(store.path) as child:
        child.do(arrow_workers.claim, REGISTRY)
        thread = threading.Thread(target=lambda: client.put(1, plasma.ObjectID(RAW)))
        thread.start()
        child.kill()
        thread.join(helpers.BUSY_TIMEOUT)
        assert not thread.is_alive()
    assert told(client, 1)[0][0] == plasma.ObjectID(RAW)


def test_one_that_is_stopped_amid_a_change_is_named(
    store: refstore.Store, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refstore.plasma import notifications

    monkeypatch.setattr(notifications, "PATIENCE", 0.1)
    client.subscribe()
    with child_process(store.path) as child:
        child.do(arrow_workers.claim, notifications.REGISTRY)
        with pytest.raises(refstore.StoreBusyError, match=f"process {child.pid} is amid") as caught:
            client.put(1)
        assert caught.value.pid == child.pid
        child.kill()
    client.put(2, plasma.ObjectID(RAW))
    assert told(client, 1)[0][0] == plasma.ObjectID(RAW)


def test_disconnecting_ends_the_thread_and_the_registry(store: refstore.Store) -> None:
    first, second = (plasma.connect(store.path) for _ in range(2))
    first.subscribe()
    second.subscribe()
    socket = first.get_notification_socket()
    assert len(threads()) == 2
    first.disconnect()
    assert socket.recv(8) == b""
    socket.close()
    assert len(threads()) == 1
    assert store.names() != []
    second.disconnect()
    assert threads() == []
    assert store.names() == []
    assert store.stats().used == 0


def test_a_client_that_nobody_has_ends_with_the_next_change(
    store: refstore.Store, client: Any
) -> None:
    forgotten = plasma.connect(store.path)
    forgotten.subscribe()
    (thread,) = threads()
    del forgotten
    gc.collect()
    client.put(1)
    client.put(2)
    thread.join(helpers.BUSY_TIMEOUT)
    assert not thread.is_alive()
    client.delete(list(client.list()))
    assert store.names() == []


def test_who_does_not_read_does_not_hold_up_others(client: Any) -> None:
    made = [client.put_raw_buffer(b"") for _ in range(MANY)]
    client.subscribe()
    deaf = plasma.connect(client.store_socket_name)
    deaf.subscribe()
    client.delete(made)
    assert client.list() == {}
    assert [one for one, _, _ in told(client, MANY)] == made
    deaf.disconnect()


def test_who_has_not_subscribed_is_told_so(client: Any) -> None:
    for call in (client.get_next_notification, client.get_notification_socket):
        with pytest.raises(ValueError, match="call subscribe"):
            call()
