"""A full store says what was asked, what there is and who holds it; nothing is left behind."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import helpers
import numpy as np
import pytest
import workers
from children import child_processes

import refstore


def full(store: refstore.Store, size: int) -> refstore.StoreFullError:
    """The error of a put that does not fit."""
    with pytest.raises(refstore.StoreFullError) as caught:
        store.put(bytes(size))
    return caught.value


def test_the_error_tells_the_whole_story(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store(2_000_000)
    ref = store.put(bytes(1_500_000))
    with store.get(ref):
        error = full(store, 1_000_000)
        stats = store.stats()
    assert isinstance(error, MemoryError)
    assert error.needed >= 1_000_000
    assert error.free == stats.free
    assert error.largest_free == stats.largest_free
    assert [holder.pid for holder in error.holders] == [os.getpid()]
    text = str(error)
    for figure in (1_000_000, error.free, error.largest_free):
        assert str(figure) in text.replace(",", "").replace("_", "")
    assert str(os.getpid()) in text


def test_nobody_is_blamed_when_nothing_is_pinned(store: refstore.Store) -> None:
    error = full(store, store.capacity + 1)
    assert error.holders == ()
    assert error.free == error.largest_free == store.capacity
    assert str(store.capacity + 1) in str(error).replace(",", "").replace("_", "")


def test_each_holder_is_told_with_what_it_keeps(store: refstore.Store, path: str) -> None:
    shared, doomed = store.put(bytes(1_000_000)), store.put(bytes(2_000_000), name="doomed")
    sizes = {ref: row.bytes for ref in (shared, doomed) for row in [held(store, ref)]}
    with child_processes(2, path) as (reader, writer), store.get(shared):
        for label in "ab":  # two pins are one block
            reader.do(workers.hold, shared, label)
        reader.do(workers.hold, doomed)
        store.delete(doomed)
        writer.do(workers.begin, 5_000_000)
        error = full(store, store.capacity)
        written = store.stats().used - sum(sizes.values())
        assert [(holder.pid, holder.bytes) for holder in error.holders] == [
            (writer.pid, written),
            (reader.pid, sizes[shared] + sizes[doomed]),
            (os.getpid(), sizes[shared]),
        ]
        assert error.holders == tuple(refstore.TopHolder(*holder) for holder in error.holders)
        for pid, command, nbytes in error.holders:
            assert command
            assert f"process {pid} ({command}) {nbytes} bytes" in str(error)
    assert f"objects pinned: 2, of {sum(sizes.values())} bytes, 1 of them deleted" in str(error)
    assert "objects that nobody pins take 0 bytes" in str(error)
    assert "more" not in str(error)


def test_what_nobody_pins_is_told_beside_the_pins(store: refstore.Store) -> None:
    pinned, free = store.put(bytes(500_000)), store.put(bytes(700_000))
    with store.get(pinned), store.create(300_000):
        used = store.info(free).block_nbytes
        assert f"objects that nobody pins take {used} bytes. " in str(full(store, store.capacity))


def held(store: refstore.Store, ref: refstore.ObjectRef) -> refstore.Holder:
    """The row of this process, which holds the object only while it looks."""
    with store.get(ref):
        (row,) = store.holders(ref)
    return row


def test_of_many_holders_the_largest_are_named(store: refstore.Store, path: str) -> None:
    refs = [store.put(bytes(100_000)) for _ in range(6)]
    with child_processes(6, path) as children:
        for number, child in enumerate(children):
            for ref in refs[: number + 1]:
                child.do(workers.hold, ref, ref.hex())
        error = full(store, store.capacity)
        assert [holder.pid for holder in error.holders] == [c.pid for c in reversed(children)]
        named = [str(child.pid) in str(error) for child in children]
        assert named == [False, False, True, True, True, True]
    assert "2 more" in str(error)


def test_what_only_lies_there_has_no_holder(store: refstore.Store) -> None:
    store.put(bytes(store.capacity))
    error = full(store, 1)
    assert error.holders == ()
    assert "no object is pinned" in str(error)


def test_a_fragmented_store_says_so(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store("4MiB")
    refs = [store.put(bytes(100_000)) for _ in range(40)]
    for ref in refs[::2]:
        store.delete(ref)
    error = full(store, 1_500_000)
    assert error.free >= 1_900_000
    assert 100_000 <= error.largest_free < 1_500_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"x" * (2**24 + 1),
        lambda: np.zeros(2**21 + 1),
        lambda: {"a": np.zeros(2**20), "b": [np.zeros(2**20 + 1)]},
        lambda: "x" * (2**24 + 1),
        lambda: memoryview(bytes(2**25))[::-1],
        lambda: np.zeros((2**12, 2**12), "i4").T[::2],
    ],
    ids=["bytes", "array", "arrays in an object", "text", "memoryview", "strided array"],
)
def test_a_put_that_does_not_fit_leaves_nothing(
    store: refstore.Store, make: Callable[[], object]
) -> None:
    obj = make()
    store.put(b"small", name="other")
    before = helpers.usage(store)
    for _ in range(3):
        with pytest.raises(refstore.StoreFullError):
            store.put(obj, name="never")
    assert helpers.usage(store) == before
    assert list(store.names()) == ["other"]
    assert store.check() == []


def test_room_comes_back_after_the_error(store: refstore.Store) -> None:
    ref = store.put(bytes(store.capacity))
    full(store, 1)
    store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_the_error_survives_pickling(store: refstore.Store) -> None:
    with store.get(store.put(b"x")):
        error = full(store, store.capacity)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is refstore.StoreFullError
    assert str(back) == str(error)
    assert (back.needed, back.free, back.largest_free) == (
        error.needed,
        error.free,
        error.largest_free,
    )
    assert back.holders == error.holders != ()
    assert type(back.holders[0]) is refstore.TopHolder
