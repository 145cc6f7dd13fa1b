"""get_or_put(): one factory for all who ask at the same time, and nothing left of what fails."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest
import signals
from making import LONG, Making, assert_nothing_left, never

import refstore

MakeStore = Callable[..., refstore.Store]


@pytest.mark.parametrize("size", [0, 100, 40_000, 3_000_000])
def test_what_is_not_there_is_made_once(store: refstore.Store, size: int) -> None:
    data = helpers.pattern(1, size)
    made = store.get_or_put("n", lambda: data)
    with made, store.get_or_put("n", never) as again:
        assert made.ref == again.ref == store.ref("n")
        assert bytes(made) == bytes(again) == data
        assert store.refcount("n") == 3
    assert store.stats().pinned == 0
    assert store.check() == []


def test_objects_of_each_kind_are_made(store: refstore.Store) -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(store.get_or_put("array", lambda: array).array, array)
    assert store.get_or_put("object", lambda: {"a": [1]}).value == {"a": [1]}


def test_what_is_there_is_not_made(store: refstore.Store) -> None:
    ref = store.put(b"there", name="n")
    assert store.get_or_put("n", never, timeout=0).ref == ref
    assert store.stats().puts == 1


def test_what_was_deleted_is_made_anew(store: refstore.Store) -> None:
    first = store.get_or_put("n", lambda: b"1")
    store.delete("n")
    second = store.get_or_put("n", lambda: b"2")
    assert (bytes(first), bytes(second)) == (b"1", b"2")


def test_an_object_made_for_an_owner_is_owned(store: refstore.Store) -> None:
    assert store.info(store.get_or_put("own", lambda: b"x", owned=True).ref).owned
    assert not store.info(store.get_or_put("other", lambda: b"x").ref).owned


def test_an_object_made_may_be_evictable(store: refstore.Store) -> None:
    for evictable in (True, False):
        buf = store.get_or_put(f"{evictable}", lambda: b"x", evictable=evictable)
        assert store.info(buf.ref).evictable is evictable


# --- failures


class ExpectedError(Exception):
    pass


def test_what_a_factory_raises_comes_out_and_leaves_nothing(store: refstore.Store) -> None:
    def fail() -> object:
        raise ExpectedError

    with pytest.raises(ExpectedError):
        store.get_or_put("n", fail)
    assert_nothing_left(store)
    assert bytes(store.get_or_put("n", lambda: b"x")) == b"x"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exit_from_a_factory_leaves_nothing(
    store: refstore.Store, error: type[BaseException]
) -> None:
    def fail() -> object:
        raise error

    with pytest.raises(error):
        store.get_or_put("n", fail)
    assert_nothing_left(store)


def test_what_cannot_be_stored_leaves_nothing(store: refstore.Store) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        store.get_or_put("n", lambda: lambda: 1)
    with pytest.raises(TypeError, match="cannot pickle"):
        store.get_or_put("n", threading.Lock)
    assert_nothing_left(store)


def test_what_is_too_large_leaves_nothing(store: refstore.Store) -> None:
    with pytest.raises(refstore.StoreFullError):
        store.get_or_put("n", lambda: bytes(store.capacity + 1))
    assert_nothing_left(store)


MADE = {"none": b"", "small": b"x" * 100, "large": b"x" * 100_000, "array": np.ones(9), "list": [1]}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
def test_the_last_slot_is_enough(make_store: MakeStore, made: Any) -> None:
    store = make_store(max_objects=1)
    for _ in range(3):
        with store.get_or_put("n", lambda: made) as buf:
            assert pickle.dumps(buf.value if buf.kind != "bytes" else bytes(buf)) == pickle.dumps(
                made
            )
            assert store.ref("n") == buf.ref
            assert store.check() == []
        store.delete("n")
    assert_nothing_left(store)


@pytest.mark.parametrize("evict", ["lru", "s3fifo", None])
def test_nothing_is_evicted_for_a_claim_that_has_a_slot(make_store: MakeStore, evict: Any) -> None:
    store = make_store(max_objects=4, evict=evict)
    for name in [*"abcd"] * 3:
        store.get_or_put(name, lambda: b"x" * 100, evictable=True)
    stats = store.stats()
    assert (stats.puts, stats.objects, stats.evictions) == (4, 4, 0)


def test_what_fails_in_the_last_slot_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store(max_objects=1)
    with pytest.raises(refstore.StoreFullError):
        store.get_or_put("n", lambda: bytes(store.capacity + 1))
    with pytest.raises(TypeError, match="cannot pickle"):
        store.get_or_put("n", threading.Lock)
    assert_nothing_left(store)
    assert store.check() == []


@pytest.mark.parametrize("factory", [None, b"x", 1])
def test_a_factory_can_be_called(store: refstore.Store, factory: Any) -> None:
    with pytest.raises(TypeError, match=r"factory is .*: give a function"):
        store.get_or_put("n", factory)
    store.put(b"x", name="n")
    with pytest.raises(TypeError, match=r"factory is .*: give a function"):
        store.get_or_put("n", factory)


def test_names_and_timeouts_are_checked_before_anything_is_made(store: refstore.Store) -> None:
    get_or_put: Any = store.get_or_put
    for name, error in (
        ("", ValueError),
        (b"n", TypeError),
        (None, TypeError),
        (store.put(b"x"), TypeError),
    ):
        with pytest.raises(error):
            get_or_put(name, never)
    for timeout, error in ((-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout is"):
            get_or_put("n", never, timeout=timeout)


def test_what_finds_no_room_is_said_to_be_held_by_nobody(store: refstore.Store) -> None:
    with pytest.raises(refstore.StoreFullError) as caught:
        store.get_or_put("n", lambda: bytes(2 * store.capacity))
    assert caught.value.holders == ()
    assert_nothing_left(store)


def test_a_factory_that_closes_the_store_leaves_nothing(store: refstore.Store, path: str) -> None:
    with refstore.Store(path, create=False) as other:
        with pytest.raises(ValueError, match="this store is closed"):
            other.get_or_put("n", lambda: other.close() or b"x")  # type: ignore[func-returns-value]
        assert_nothing_left(store)


def test_a_child_forked_in_a_factory_does_not_go_on(store: refstore.Store) -> None:
    children: list[int] = []

    def fork() -> object:
        with helpers.forking_on_purpose():
            children.append(os.fork())
        return b"the parent's"

    status = 1
    try:
        buf = store.get_or_put("n", fork)
    except refstore.RefstoreError as error:
        status = 0 if "in the middle of its parent's call" in str(error) else 2
    finally:
        if children == [0]:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert bytes(buf) == b"the parent's"
    buf.release()
    store.delete("n")
    assert_nothing_left(store)


# --- while it is made


def test_a_name_in_the_making_has_no_object(store: refstore.Store) -> None:
    with Making(store, "n") as making:
        assert "n" not in store
        assert (store.names(), list(store), len(store)) == ([], [], 0)
        for look in (store.get, store.ref, store.refcount, store.delete, store.info):
            with pytest.raises(refstore.ObjectNotFoundError):
                look("n")
        assert store.clear() == store.clear("n") == store.delete_many(["n"]) == 0
        with pytest.raises(refstore.GetTimeoutError):
            store.get("n", timeout=0.01)
        (row,) = store.objects()
        assert (row.ref, row.kind, row.name, row.state) == (None, None, "n", "claimed")
        assert row.pid == os.getpid()
        assert store.check() == []
    assert making.outcome == b"made"
    assert [row.state for row in store.objects()] == ["live"]


def test_a_wait_for_a_name_ends_when_it_is_made(store: refstore.Store) -> None:
    with Making(store, "n") as making, signals.done_while_waiting(making.may_end.set):
        assert bytes(store.wait("n", timeout=LONG)) == b"made"


def test_the_second_one_waits_for_the_first(store: refstore.Store) -> None:
    with Making(store, "n") as making, signals.done_while_waiting(making.may_end.set):
        assert bytes(store.get_or_put("n", never, timeout=LONG)) == b"made"
    assert making.outcome == b"made"


def test_the_second_one_takes_over_from_one_that_fails(store: refstore.Store) -> None:
    with (
        Making(store, "n", ExpectedError()) as making,
        signals.done_while_waiting(making.may_end.set),
    ):
        assert bytes(store.get_or_put("n", lambda: b"by another", timeout=LONG)) == b"by another"
    assert isinstance(making.outcome, ExpectedError)


def test_many_who_ask_at_once_get_one_object(store: refstore.Store) -> None:
    made, refs, barrier = [], set(), threading.Barrier(16)

    def factory() -> bytes:
        made.append(threading.get_ident())
        return bytes(100_000)

    def ask() -> None:
        barrier.wait(LONG)
        for turn in range(5):
            with store.get_or_put(f"n{turn}", factory) as buf:
                refs.add(buf.ref)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert (len(made), len(refs), len(store)) == (5, 5, 5)


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_timeout_says_who_is_making_it(store: refstore.Store, timeout: float) -> None:
    with Making(store, "n"):
        began = time.monotonic()
        with pytest.raises(refstore.GetTimeoutError, match="is making 'n'") as caught:
            store.get_or_put("n", never, timeout=timeout)
        assert timeout <= time.monotonic() - began < LONG
    assert caught.value.pid == os.getpid()
    assert pickle.loads(pickle.dumps(caught.value)).pid == os.getpid()


def test_a_signal_whose_handler_raises_ends_the_wait_for_another(store: refstore.Store) -> None:
    def interrupt(*_: object) -> None:
        raise ExpectedError

    with Making(store, "n") as making:
        with (
            signals.handler(signal.SIGUSR1, interrupt),
            pytest.raises(ExpectedError),
            signals.sent_while_waiting(),
        ):
            store.get_or_put("n", never)
        assert store.stats().pinned == 0
    assert making.outcome == b"made"


def test_others_work_while_a_factory_runs(store: refstore.Store) -> None:
    def factory() -> bytes:
        ref = store.put(b"x", name="inside")
        thread = threading.Thread(target=lambda: store.delete(ref))
        thread.start()
        thread.join(LONG)
        assert ref not in store
        return b"made"

    assert bytes(store.get_or_put("n", factory)) == b"made"


# --- the name is taken meanwhile


@pytest.mark.parametrize("size", [100, 3_000_000])
@pytest.mark.parametrize("way", ["put", "create"])
def test_whoever_puts_first_is_what_all_get(store: refstore.Store, way: str, size: int) -> None:
    with Making(store, "n", bytes(size)) as making:
        if way == "put":
            ref = store.put(b"first", name="n")
        else:
            with store.create(5, name="n") as writer:
                memoryview(writer)[:] = b"first"
            ref = writer.ref
        assert bytes(store.get_or_put("n", never)) == b"first"
    assert making.outcome == b"first"
    assert store.ref("n") == ref
    store.delete("n")
    assert_nothing_left(store)


def test_a_factory_may_put_the_object_itself(store: refstore.Store) -> None:
    def factory() -> bytes:
        store.put(b"by the factory", name="n")
        return b"in vain"

    assert bytes(store.get_or_put("n", factory)) == b"by the factory"
    assert store.stats().objects == 1
    assert store.check() == []


def test_what_is_put_and_deleted_meanwhile_is_in_nobodys_way(store: refstore.Store) -> None:
    with Making(store, "n") as making:
        store.delete(store.put(b"first", name="n"))
    assert making.outcome == b"made"
    assert bytes(store["n"]) == b"made"


def put_and_delete(store: refstore.Store) -> None:
    store.put(b"put over it", name="n")
    store.delete("n")


def claim_and_give_up(store: refstore.Store) -> None:
    store.create(1, name="n", claim=True).abort()


def claim_and_delete(store: refstore.Store) -> None:
    with store.create(1, name="n", claim=True):
        pass
    store.delete("n")


@pytest.mark.parametrize("others", [put_and_delete, claim_and_give_up, claim_and_delete])
def test_no_second_maker_begins_when_what_others_put_is_gone(
    store: refstore.Store, others: Callable[[refstore.Store], None]
) -> None:
    with Making(store, "n") as maker:
        others(store)
        with pytest.raises(refstore.GetTimeoutError, match="is making 'n'"):
            store.get_or_put("n", never, timeout=0.1)
        assert store.check() == []
    assert maker.outcome == b"made"
    store.delete("n")
    assert_nothing_left(store)


def test_a_writer_that_claims_a_name_is_waited_for(store: refstore.Store) -> None:
    with Making(store, "n") as making, store.create(5, name="n", claim=True) as writer:
        memoryview(writer)[:] = b"first"
        making.may_end.set()
    assert making.outcome == b"first"


def test_a_writer_that_gives_up_its_claim_leaves_the_name(store: refstore.Store) -> None:
    with Making(store, "n") as making:
        writer = store.create(5, name="n", claim=True)
        making.may_end.set()
        writer.abort()
    assert making.outcome == b"made"
