"""`put_many`, `get_many`, `delete_many`: as many calls, but all or none where that is promised."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import helpers
import numpy as np
import pytest
import signals
import workers
from children import child_processes

import refstore

MakeStore = Callable[..., refstore.Store]
LONG_TYPE = np.dtype([(f"field {i}", "i4") for i in range(300)])  # a long description
MIXED: list[Any] = [
    *(b"bytes", b"", bytearray(b"more"), memoryview(b"of them"), np.arange(12.0).reshape(3, 4)),
    *(np.asfortranarray(np.ones((5, 6))), np.zeros((0, 3)), {"a": np.arange(1000)}, None, "text"),
    *(bytes(100_000), np.ones(300_000)),
]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (bytes, bytearray, memoryview)):
        return bytes(one) == bytes(other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    return bool(one == other)


# -- put_many ---------------------------------------------------------------------------------


def test_objects_of_all_kinds_are_put_in_their_order(store: refstore.Store) -> None:
    refs = store.put_many(MIXED)
    assert len(set(refs)) == len(MIXED)
    for ref, obj in zip(refs, MIXED, strict=True):
        with store.get(ref) as buf:
            assert same(obj, buf.value)
    assert store.stats().puts == len(MIXED)


def test_names_are_published(store: refstore.Store) -> None:
    refs = store.put_many([b"1", b"2"], names=["one", "two"])
    assert [store.ref("one"), store.ref("two")] == refs
    assert store.put_many(iter([b"3"]), names=iter(["three"])) == [store.ref("three")]


def test_none_is_a_batch_too(store: refstore.Store) -> None:
    assert store.put_many([]) == store.put_many([], names=[]) == store.get_many([]) == []
    assert store.delete_many([]) == 0


def test_more_objects_than_one_turn_has(store: refstore.Store) -> None:
    refs = store.put_many([b"%d" % i for i in range(2345)], names=[f"{i}" for i in range(2345)])
    held = store.get_many(refs)
    assert [bytes(buf) for buf in held] == [b"%d" % i for i in range(2345)]
    assert store.stats().pinned == 2345
    del held
    assert store.stats().pinned == 0
    assert store.delete_many(refs) == 2345
    assert (len(store), store.stats().used) == (0, 0)


def test_a_batch_replaces(store: refstore.Store) -> None:
    old = store.put_many([b"old 1", b"old 2"], names=["a", "b"])
    with store.get(old[1]) as buf:
        refs = store.put_many([b"1", b"2", b"3"], names=["a", "b", "c"], replace=True)
        assert bytes(buf) == b"old 2"
        assert store.stats().condemned == 1
    assert [store.ref(name) for name in "abc"] == refs
    assert not any(ref in store for ref in old)


def test_a_name_that_is_taken_leaves_those_before_it(store: refstore.Store) -> None:
    store.put(b"taken", name="c")
    with pytest.raises(refstore.ObjectExistsError, match="'c'") as caught:
        store.put_many([b"1", b"2", b"3", b"4"], names=["a", "b", "c", "d"])
    assert caught.value.key == "c"
    assert caught.value.refs == [store.ref("a"), store.ref("b")]
    assert sorted(store.names()) == ["a", "b", "c"]
    assert len(store) == 3
    assert bytes(store["c"]) == b"taken"
    assert store.stats().used == sum(info.block_nbytes for info in store.objects())


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("not this one")


@pytest.mark.parametrize("bad", [Unpicklable(), lambda: None], ids=["raises", "local"])
def test_what_cannot_be_stored_leaves_nothing(store: refstore.Store, bad: object) -> None:
    before = helpers.usage(store)
    with pytest.raises(Exception, match=r"not this one|pickle"):
        store.put_many([b"1", np.ones(100_000), bad], names=["a", "b", "c"])
    assert helpers.usage(store) == before


def test_a_batch_without_room_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    store.put(bytes(300_000))
    before = helpers.usage(store)
    with pytest.raises(refstore.StoreFullError) as caught:
        store.put_many([bytes(100_000)] * 9, names=[f"{i}" for i in range(9)])
    assert caught.value.needed >= 100_000
    assert helpers.usage(store) == before
    assert len(store.put_many([bytes(100_000)] * 7)) == 7


def test_a_batch_without_slots_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=20)
    with pytest.raises(refstore.StoreFullError, match="max_objects"):
        store.put_many([b"x"] * 21)
    assert helpers.usage(store) == (0, 0, 0, 0)
    assert len(store.put_many([b"x"] * 20)) == 20


@pytest.mark.parametrize(
    ("names", "error", "sentence"),
    [
        (["a"], ValueError, "1 names for 2 objects"),
        (["a", "b", "c"], ValueError, "3 names for 2 objects"),
        (["a", "a"], ValueError, "'a' is there twice"),
        (["a", ""], ValueError, "1 to 255 bytes"),
        (["a", 5], TypeError, "a name is a str"),
        (["a", None], TypeError, "a name is a str"),
        ("ab", TypeError, "names is one str: give a list"),
    ],
)
def test_bad_names_are_refused_first(
    store: refstore.Store, names: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        store.put_many([b"1", b"2"], names=names)
    assert helpers.usage(store) == (0, 0, 0, 0)


@pytest.mark.native("the other engine's blocks are not rounded up to size classes")
@pytest.mark.parametrize("timeout", [0, None])
def test_a_batch_that_fits_in_no_way_evicts_nothing(make_store: MakeStore, timeout: Any) -> None:
    store = make_store("64KiB", evict="lru")
    kept = [store.put(bytes(4096)) for _ in range(16)]
    described = np.zeros(54, LONG_TYPE)  # the description lies behind it
    for batch in [bytes(20481)] * 3, [described]:
        with pytest.raises(refstore.StoreFullError, match="in whole blocks"):
            store.put_many(batch, timeout=timeout)
    assert list(store) == kept


@pytest.mark.parametrize("one", [b"xyz", bytearray(3), memoryview(b"xyz"), "xyz", None, 5])
def test_one_is_not_many(store: refstore.Store, one: Any) -> None:
    for call in (store.put_many, store.get_many, store.delete_many):
        if call == store.put_many or not isinstance(one, (bytes, bytearray, memoryview)):
            what = "None" if one is None else f"one {type(one).__name__}"
            with pytest.raises(TypeError, match=f"is {what}: give a list of"):
                call(one)
    assert helpers.usage(store) == (0, 0, 0, 0)


def test_a_mapping_is_not_a_list_of_objects(store: refstore.Store) -> None:
    with pytest.raises(TypeError, match="objs is one dict: give a list"):
        store.put_many({"a": 1})
    assert len(store) == 0


def test_an_error_of_the_iteration_comes_out(store: refstore.Store) -> None:
    def fail() -> Iterator[object]:
        yield b"x"
        raise TypeError("in the iteration")

    with pytest.raises(TypeError, match="in the iteration"):
        store.put_many(fail())
    assert helpers.usage(store) == (0, 0, 0, 0)


@pytest.mark.parametrize("timeout", [-1, "long", float("nan")])
def test_a_bad_timeout_is_refused(store: refstore.Store, timeout: Any) -> None:
    ref = store.put(b"x")
    for call in (
        lambda: store.put_many([b"1"], timeout=timeout),
        lambda: store.get_many([ref], timeout=timeout),
    ):
        with pytest.raises((TypeError, ValueError), match="timeout is"):
            call()
    assert store.stats().pinned == 0
    assert len(store) == 1


def test_the_objects_of_a_batch_have_no_meta(store: refstore.Store) -> None:
    (ref,) = store.put_many([b"x"])
    with store.get(ref) as buf:
        assert buf.meta == b""


# -- get_many ---------------------------------------------------------------------------------


def test_refs_and_names_are_pinned_in_their_order(store: refstore.Store) -> None:
    refs = store.put_many([b"1", b"2", b"3"], names=["a", "b", "c"])
    held = store.get_many(["c", refs[0], "a", refs[1]])
    assert [bytes(buf) for buf in held] == [b"3", b"1", b"1", b"2"]
    assert [buf.ref for buf in held] == [refs[2], refs[0], refs[0], refs[1]]
    assert [store.refcount(ref) for ref in refs] == [3, 2, 2]
    store.delete_many(refs)
    helpers.fill_with_junk(store)
    assert [bytes(buf) for buf in held] == [b"3", b"1", b"1", b"2"]
    assert store.stats().gets == 4


def test_each_pin_goes_by_itself(store: refstore.Store) -> None:
    refs = store.put_many([b"1" * 1000, b"2" * 1000])
    one, two = store.get_many(refs)
    view = memoryview(two)
    one.release()
    two.release()
    assert [store.refcount(ref) for ref in refs] == [1, 2]
    del view
    assert store.stats().pinned == 0


def test_a_key_that_is_missing_pins_nothing(store: refstore.Store) -> None:
    refs = store.put_many([b"1"] * 1500)
    gone = store.put(b"x")
    store.delete(gone)
    for missing in (gone, "no such name"):
        with pytest.raises(refstore.ObjectNotFoundError) as caught:
            store.get_many([*refs, missing])
        assert caught.value.key == missing
        gc.collect()
        assert store.stats().pinned == 0


def test_a_ref_of_another_store_is_missing(store: refstore.Store, make_store: MakeStore) -> None:
    foreign = make_store(name="other").put(b"x")
    ref = store.put(b"y")
    with pytest.raises(refstore.ObjectNotFoundError, match="another store"):
        store.get_many([ref, foreign])
    assert store.delete_many([foreign, ref]) == 1
    assert store.stats().pinned == 0


def test_private_views_of_many(store: refstore.Store) -> None:
    refs = store.put_many([bytes(100), bytes(200_000)])
    for buf in store.get_many(refs, writable=True):
        helpers.flat(buf)[:] = 7
    assert all(not any(bytes(buf)) for buf in store.get_many(refs))


@pytest.mark.parametrize("evict", ["lru", "s3fifo", None])
def test_a_batch_that_cannot_fit_evicts_nothing(make_store: MakeStore, evict: Any) -> None:
    store = make_store("1MiB", max_objects=20, evict=evict)
    for number in range(8):
        store.put(bytes(100_000), name=f"{number}", evictable=True)
    with store.get("0"):
        for batch in ([bytes(330_000)] * 3, [b""] * 20):
            with pytest.raises(refstore.StoreFullError):
                store.put_many(batch)
            assert (len(store), store.stats().evictions) == (8, 0)
        assert len(store.put_many([bytes(200_000)] * 3)) == 3
    assert store.check() == []


@pytest.mark.parametrize("evict", ["lru", "s3fifo", None])
def test_what_must_stay_makes_no_room_for_a_batch_of_its_size(
    make_store: MakeStore, evict: Any
) -> None:
    store = make_store("1MiB", evict=evict)
    batch = [bytes(1000)] * 50
    refs = [store.put(bytes(1000), evictable=number % 2 == 0) for number in range(400)]
    while store.stats().largest_free >= 1000:
        refs.append(store.put(bytes(1000), evictable=False))
    count = len(store)
    pinned = store.get_many(refs[0:320:2])
    with pytest.raises(refstore.StoreFullError):
        store.put_many(batch)
    assert (len(store), store.stats().evictions) == (count, 0)
    pinned.pop().release()
    pinned[-9:] = []
    assert len(store.put_many(batch)) == 50
    assert (len(store), store.stats().evictions) == (count, 50)
    assert all(ref in store for ref in refs[1::2])


@pytest.mark.parametrize("evict", ["lru", "s3fifo", None])
def test_a_batch_that_fits_into_no_gaps_evicts_nothing(make_store: MakeStore, evict: Any) -> None:
    store = make_store("1MiB", evict=evict)
    for number in range(8):
        store.put(bytes(100_000), name=f"{number}", evictable=True)
    with store.get("4"):  # which lies between two gaps
        with pytest.raises(refstore.StoreFullError):
            store.put_many([bytes(280_000)] * 3)
        assert (len(store), store.stats().evictions) == (8, 0)
        assert len(store.put_many([bytes(280_000), bytes(380_000), bytes(100_000)])) == 3
    assert store.check() == []


@pytest.mark.parametrize("batch", [[bytes(300_000)] * 5, [b""] * 21], ids=["bytes", "slots"])
def test_nobody_waits_for_room_that_can_never_be(make_store: MakeStore, batch: Any) -> None:
    store = make_store("1MiB", max_objects=20)
    with pytest.raises(refstore.StoreFullError, match=r"more than the capacity|max_objects"):
        store.put_many(batch, timeout=None)


def test_names_are_waited_for(store: refstore.Store) -> None:
    store.put(b"there", name="a")
    with signals.done_while_waiting(lambda: store.put_many([b"1", b"2"], names=["b", "c"])):
        held = store.get_many(["a", "b", "c"], timeout=helpers.BUSY_TIMEOUT)
    assert [bytes(buf) for buf in held] == [b"there", b"1", b"2"]


def test_a_wait_for_names_ends_and_pins_nothing(store: refstore.Store) -> None:
    store.put(b"there", name="a")
    with pytest.raises(refstore.GetTimeoutError, match="'b'"):
        store.get_many(["a", "b", "c"], timeout=0.05)
    assert store.stats().pinned == 0


def test_a_deleted_ref_is_not_waited_for(store: refstore.Store) -> None:
    ref = store.put(b"x")
    store.delete(ref)
    wanted: list[list[refstore.ObjectRef | str]] = [[ref], ["never", ref], [ref, "never"]]
    for keys in wanted:
        with pytest.raises(refstore.ObjectNotFoundError):
            store.get_many(keys, timeout=None)
    assert store.stats().pinned == 0


# -- delete_many ------------------------------------------------------------------------------


def test_those_that_are_there_are_deleted(store: refstore.Store) -> None:
    refs = store.put_many([b"1", b"2", b"3"], names=["a", "b", "c"])
    store.delete(refs[1])
    assert store.delete_many([refs[0], "a", refs[1], "c", "c", "no such name"]) == 2
    assert len(store) == 0
    assert store.stats().deletes == 3


def test_what_is_pinned_is_deleted_and_stays(store: refstore.Store) -> None:
    refs = store.put_many([b"1" * 1000, b"2" * 1000])
    with store.get(refs[0]) as buf:
        assert store.delete_many(refs) == 2
        assert store.stats().condemned == 1
        assert bytes(buf) == b"1" * 1000
    assert store.stats().used == 0


@pytest.mark.parametrize("keys", ["name", 5, None, [5], [b"x"], [""]], ids=repr)
def test_keys_that_are_none_are_refused_first(store: refstore.Store, keys: Any) -> None:
    ref = store.put(b"x", name="x")
    wrong = [ref, *keys] if isinstance(keys, list) else keys
    for call in (store.get_many, store.delete_many):
        with pytest.raises((TypeError, ValueError)):
            call(wrong)
    with pytest.raises(TypeError):
        store.get_many(ref)  # type: ignore[arg-type]
    assert store.refcount(ref) == 1


# -- several at once --------------------------------------------------------------------------


def test_batches_of_several_processes(store: refstore.Store, path: str) -> None:
    with child_processes(3, path) as children:
        for number, child in enumerate(children):
            child.tell(workers.put_batches, number, 20)
        told = [child.answer() for child in children]
    for number, refs in enumerate(told):
        held = store.get_many(refs)
        assert [bytes(buf) for buf in held] == [b"%d" % number] * len(refs)
        del held
        assert store.delete_many(refs) == len(refs)
    assert store.stats().used == 0


def test_batches_of_several_threads(store: refstore.Store) -> None:
    failed: list[BaseException] = []

    def churn(number: int) -> None:
        try:
            for _ in range(10):
                refs = store.put_many([b"%d" % number] * 30)
                assert [bytes(buf) for buf in store.get_many(refs)] == [b"%d" % number] * 30
                assert store.delete_many(refs) == 30
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(helpers.BUSY_TIMEOUT)
    assert failed == []
    assert store.stats().used == 0


def test_a_batch_of_a_forked_child(store: refstore.Store) -> None:
    refs = store.put_many([b"1", b"2"])
    one, two = store.get_many(refs)

    def use() -> None:
        assert (bytes(one), bytes(two)) == (b"1", b"2")
        store.put_many([b"%d" % os.getpid()], names=["child"])

    assert helpers.forked(use) == 0
    assert "child" in store
    one.release()
    two.release()
    assert store.delete_many([*refs, "child"]) == 3
    store.recover()
    assert store.stats().used == 0
