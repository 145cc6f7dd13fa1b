"""put(timeout=) and create(timeout=): they wait for room, take turns, and say who holds it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import helpers
import pytest
import signals
import workers
from children import child_process

import refstore

MakeStore = Callable[..., refstore.Store]
LONG = helpers.BUSY_TIMEOUT
MIB = 1 << 20

PUTS: dict[str, Callable[..., refstore.ObjectRef]] = {
    "put": lambda store, size, timeout=LONG: store.put(bytes(size), timeout=timeout),
    "put with a name": lambda store, size, timeout=LONG: store.put(
        bytes(size), name="n", timeout=timeout
    ),
    "create": lambda store, size, timeout=LONG: store.create(size, timeout=timeout).seal(),
    "claim": lambda store, size, timeout=LONG: store.create(
        size, name="n", claim=True, timeout=timeout
    ).seal(),
    "put many": lambda store, size, timeout=LONG: store.put_many([bytes(size)], timeout=timeout)[0],
    "get_or_put": lambda store, size, timeout=LONG: (
        store.get_or_put("n", lambda: bytes(size), timeout=timeout).ref
    ),
}
puts = pytest.mark.parametrize("put", PUTS.values(), ids=PUTS.keys())


@puts
@pytest.mark.parametrize("size", [1, 4 * MIB], ids=["small", "large"])
def test_a_put_waits_for_room(make_store: MakeStore, put: Any, size: int) -> None:
    store = make_store(4 * MIB)
    ref = store.put(bytes(4 * MIB))
    with signals.done_while_waiting(lambda: store.delete(ref)):
        new = put(store, size)
    assert list(store) == [new]


def test_a_batch_waits_for_room_that_is_in_one_piece_only_then(make_store: MakeStore) -> None:
    store = make_store(MIB)
    ref = store.put(bytes(600_000))  # beside it is room for one of three
    with signals.done_while_waiting(lambda: store.delete(ref)):
        refs = store.put_many([bytes(300_000)] * 3, timeout=LONG)
    assert set(store) == set(refs)


def test_a_batch_that_waits_leaves_the_processor_alone(make_store: MakeStore) -> None:
    store = make_store(MIB)
    store.put(bytes(600_000))
    other = threading.Event()  # another thread could make room: it waits
    thread = threading.Thread(target=other.wait)
    thread.start()
    began = time.thread_time()
    with pytest.raises(refstore.StoreFullError):
        store.put_many([bytes(300_000)] * 3, timeout=1)
    used = time.thread_time() - began
    other.set()
    thread.join()
    assert used < 0.5, "a sleeper whom its own steps wake takes nearly all of that second"


@puts
def test_a_put_waits_for_a_slot(make_store: MakeStore, put: Any) -> None:
    store = make_store(4 * MIB, max_objects=4)
    refs = [store.put(b"x") for _ in range(4)]
    with signals.done_while_waiting(lambda: store.delete_many(refs[:2])):
        put(store, 1)
    assert len(store) == 3


@puts
def test_a_put_waits_for_the_last_pin(make_store: MakeStore, put: Any) -> None:
    store = make_store(4 * MIB)
    ref = store.put(bytes(4 * MIB))
    buf = store.get(ref)
    store.delete(ref)
    with signals.done_while_waiting(buf.release):
        put(store, 4 * MIB)


@puts
def test_a_put_that_finds_room_does_not_wait(store: refstore.Store, put: Any) -> None:
    assert put(store, 100, None) in store


@puts
def test_a_wait_for_room_ends_with_its_time(make_store: MakeStore, put: Any) -> None:
    store = make_store(4 * MIB)
    store.put(bytes(4 * MIB))
    used = helpers.usage(store)
    began = time.monotonic()
    with pytest.raises(refstore.StoreFullError, match="no room for"):
        put(store, 4 * MIB, 0.2)
    assert 0.2 <= time.monotonic() - began < LONG
    assert helpers.usage(store) == used
    assert [row.state for row in store.objects()] == ["live"]


@puts
def test_what_can_never_fit_is_not_waited_for(store: refstore.Store, put: Any) -> None:
    with pytest.raises(refstore.StoreFullError, match="more than the capacity"):
        put(store, store.capacity + 1, None)
    assert list(store.objects()) == []


def test_a_name_that_is_taken_is_not_waited_for(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    store.put(bytes(4 * MIB), name="n")
    for use in (store.put, lambda obj, **more: store.create(len(obj), **more)):
        with pytest.raises(refstore.ObjectExistsError):
            use(b"x", name="n", timeout=None)


def test_the_caller_is_the_first_of_the_holders(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    large, small = store.put(bytes(3 * MIB)), store.put(bytes(MIB))
    with child_process(store) as child, store.get(small):
        child.do(workers.hold, large)
        with pytest.raises(refstore.StoreFullError) as caught:
            store.put(bytes(MIB), timeout=0.05)
        assert [holder.pid for holder in caught.value.holders] == [os.getpid(), child.pid]
        with pytest.raises(refstore.StoreFullError) as caught:
            store.put(bytes(MIB))
        assert [holder.pid for holder in caught.value.holders] == [child.pid, os.getpid()]


# --- who alone could make room

ALONE = """
    import sys, threading, time, refstore
    store = refstore.Store(sys.argv[1], create=False)
    refs = [store.put(bytes(1 << 20)) for _ in range(4)]
    pinned = [store.get(ref) for ref in refs]

    def ends(timeout, size=1 << 20, objects=1):
        began = time.monotonic()
        try:
            store.put_many([bytes(size)] * objects, timeout=timeout)
            return "there is room"
        except refstore.StoreFullError:
            return time.monotonic() - began
"""


def run_alone(make_store: MakeStore, source: str) -> None:
    store = make_store(4 * MIB)
    path = store.path
    store.close()
    helpers.run_warm_clean(ALONE + source, path)


def test_who_is_alone_does_not_wait_for_itself(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    assert ends(None) < 30
    pinned[1].release()
    assert ends(None, 2 << 20) < 30     # the holes that others could make are too small
    pinned[3].release()
    assert ends(None, 2 << 20) < 30
    pinned.clear()
    for ref in refs:
        store.delete(ref)
    writer = store.create(4 << 20)
    assert ends(None) < 30
    """,
    )


def test_who_is_alone_and_pins_nothing_waits(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    assert ends(0.3) < 0.3
    pinned[0].release()
    assert ends(0.3) >= 0.3             # somebody may come and delete that one
    assert ends(0.3, 2 << 20) < 0.3
    pinned[1].release()
    assert ends(0.3, 2 << 20) >= 0.3
    pinned.clear()
    assert ends(0.3, 4 << 20) >= 0.3
    """,
    )


def test_a_batch_waits_for_itself_object_by_object(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    pinned[1].release()
    pinned[3].release()
    assert ends(0.3, 1 << 20, 2) >= 0.3     # each in a hole that somebody may come and make
    assert ends(None, 1 << 20, 3) < 30
    assert ends(None, 2 << 20, 1) < 30
    """,
    )


def test_who_has_another_thread_waits(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    assert ends(0.3) >= 0.3
    event.set()
    thread.join()
    assert ends(0.3) < 0.3
    """,
    )


def test_a_helper_of_the_package_is_no_other_thread(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    from refstore import _threads
    event = threading.Event()
    thread = threading.Thread(target=event.wait, name=_threads.HELPERS + ".some")
    thread.start()
    try:
        assert ends(0.3) < 0.3
    finally:
        event.set()
        thread.join()
    """,
    )


def test_who_shares_the_store_waits(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)  # which this process keeps open
    helpers.run_warm_clean(ALONE + "    assert ends(0.3) >= 0.3\n", store.path)


def test_nobody_waits_for_room_in_a_store_that_nobody_can_reach(make_store: MakeStore) -> None:
    run_alone(
        make_store,
        """
    pinned.clear()
    assert ends(0.3) >= 0.3
    store.unlink()
    assert ends(None) < 30
    """,
    )


# --- what may come in the way


class Interrupt(Exception):
    pass


@puts
def test_a_signal_whose_handler_raises_ends_a_wait_for_room(
    make_store: MakeStore, put: Any
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    store = make_store(4 * MIB)
    ref = store.put(bytes(4 * MIB))
    with (
        signals.handler(signal.SIGUSR1, interrupt),
        pytest.raises(Interrupt),
        signals.sent_while_waiting(),
    ):
        put(store, 4 * MIB, None)
    store.delete(ref)
    assert list(store.objects()) == []
    assert store.stats().used == 0


def test_a_store_that_is_closed_waits_for_no_room(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    store.put(bytes(4 * MIB))
    with (
        refstore.Store(store.path, create=False) as other,
        pytest.raises(ValueError, match="this store is closed"),
        signals.done_while_waiting(other.close),
    ):
        other.put(b"x", timeout=None)


# --- turns


@pytest.mark.parametrize("objects", [1, 8], ids=["one large object", "a batch"])
def test_a_large_request_comes_in_behind_many_small_ones(
    make_store: MakeStore, objects: int
) -> None:
    store = make_store(8 * MIB)
    large = [bytes(8 * MIB // objects)] * objects
    is_over, errors = threading.Event(), list[BaseException]()
    all_have_one = threading.Barrier(9)

    def churn() -> None:
        """Hold one nearly always: so there is never room for all of them at once by chance."""
        try:
            ref = store.put(bytes(MIB), timeout=LONG)
            all_have_one.wait(LONG)
            while not is_over.wait(0.02):
                store.delete(ref)
                ref = store.put(bytes(MIB), timeout=LONG)
            store.delete(ref)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=churn) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        all_have_one.wait(LONG)
        store.delete_many(store.put_many(large, timeout=20))
    finally:
        is_over.set()
        for thread in threads:
            thread.join(LONG)
    assert errors == []
    assert store.stats().used == 0
    assert store.check() == []


def test_a_small_request_comes_in_beside_a_large_one(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    kept = store.put(bytes(4 * MIB))
    refs: list[refstore.ObjectRef] = []
    large = threading.Thread(target=lambda: refs.append(store.put(bytes(8 * MIB), timeout=LONG)))
    large.start()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 1.0:  # by then the large one has long had its turn
            store.delete(store.put(bytes(MIB), timeout=LONG))
        assert time.monotonic() - began < LONG / 2
    finally:
        store.delete(kept)
        large.join(LONG)
    assert list(store) == refs


def test_all_who_wait_get_their_turn(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    kept = store.put(bytes(4 * MIB))
    done: list[int] = []

    def put(size: int) -> None:
        store.delete(store.put(bytes(size), timeout=LONG))
        done.append(size)

    sizes = [MIB * (1 + i % 4) for i in range(8)]
    threads = [threading.Thread(target=put, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    store.delete(kept)
    for thread in threads:
        thread.join(LONG)
    assert sorted(done) == sorted(sizes)
    assert store.stats().used == 0
    assert store.check() == []
