"""`capacity` counts payload exactly, and nothing rots: what was freed can all be used again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import engines
import helpers
import numpy as np
import pytest

import refstore

MakeStore = Callable[..., refstore.Store]

CAPACITIES = [1, 2, 63, 64, 65, 100, 511, 4095, 4096, 4097, 12_345, 32_768, 32_769, 65_537]
CAPACITIES += [100_003, 2**20, 2**20 + 1, 2**22 - 1, 5_000_011]


def fill(store: refstore.Store, sizes: Callable[[int], int]) -> list[refstore.ObjectRef]:
    return helpers.put_until_full(store, (bytes(sizes(n)) for n in itertools.count()))


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_one_object_of_the_capacity_fits_and_a_byte_more_does_not(
    make_store: MakeStore, capacity: int
) -> None:
    store = make_store(capacity)
    assert store.capacity == capacity
    assert store.stats().largest_free == capacity
    for round_ in range(3):
        data = helpers.pattern(round_, capacity)
        ref = store.put(data)
        with store.get(ref) as buf:
            assert bytes(buf) == data
        assert store.stats().free == 0
        store.delete(ref)
        with pytest.raises(refstore.StoreFullError) as caught:
            store.put(bytes(capacity + 1))
        assert caught.value.needed >= capacity + 1
        assert caught.value.free == capacity
        assert store.stats().used == 0


@pytest.mark.parametrize("capacity", [64, 4097, 1_000_003])
def test_room_of_the_capacity_can_be_created(make_store: MakeStore, capacity: int) -> None:
    store = make_store(capacity)
    with pytest.raises(refstore.StoreFullError):
        store.create(capacity + 1)
    with store.create(capacity, name="all") as writer:
        memoryview(writer)[:] = helpers.pattern(1, capacity)
    assert bytes(store["all"]) == helpers.pattern(1, capacity)


def test_metadata_costs_no_capacity(make_store: MakeStore) -> None:
    dtype = np.dtype([("time", "M8[ns]"), ("weight", "<f4"), ("place", "<f8", (3,))])
    store = make_store(1000 * dtype.itemsize)
    store.put(np.zeros((2, 5, 100), dtype), name="é" * 127)
    assert store.stats().free < 4096
    store.delete("é" * 127)
    helpers.assert_full_capacity_fits(store)


def test_a_description_too_long_for_the_label_lies_behind_the_array(
    make_store: MakeStore,
) -> None:
    dtype = np.dtype([(f"a_rather_long_field_name_{i:03}", "<f4") for i in range(250)])
    store = make_store(1001 * dtype.itemsize + 20_000)
    array = np.zeros((2, 5, 100), dtype)
    with store.get(store.put(array)) as buf:
        assert buf.array.dtype == dtype
        assert buf.nbytes == array.nbytes


def test_an_empty_object_fits_into_a_full_store(store: refstore.Store) -> None:
    store.put(bytes(store.capacity))
    store.put(b"", name="empty")
    store.put(np.zeros((0, 5)))
    assert len(store) == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_random_objects_then_one_of_the_full_capacity_twice(
    make_store: MakeStore, seed: int
) -> None:
    store = make_store(5_000_011)
    rng = random.Random(seed)
    for round_ in range(2):
        refs: list[tuple[refstore.ObjectRef, int]] = []
        while len(refs) < 100:
            size = int(2 ** rng.uniform(0, 17))
            refs.append((store.put(helpers.pattern(len(refs), size)), size))
        for i, (ref, size) in enumerate(refs):
            with store.get(ref) as buf:
                assert bytes(buf) == helpers.pattern(i, size)
        rng.shuffle(refs)
        for ref, _ in refs:
            store.delete(ref)
        data = helpers.pattern(round_, store.capacity)
        full = store.put(data)
        with store.get(full) as buf:
            assert bytes(buf) == data
        store.delete(full)


@pytest.mark.parametrize("size", [1, 64, 100, 1000, 4096, 5000, 33_000, 100_000])
def test_a_store_full_of_one_size_is_well_used_and_comes_back(
    make_store: MakeStore, size: int
) -> None:
    store = make_store(engines.rounds(2**21, 16), max_objects=40_000)
    for _ in range(2):
        refs = fill(store, lambda _: size)
        assert len(refs) * max(size, 64) >= 0.7 * store.capacity
        for ref in refs:
            store.delete(ref)
        helpers.assert_full_capacity_fits(store)


def test_a_store_filled_with_each_size_in_turn_never_rots(make_store: MakeStore) -> None:
    store = make_store(engines.rounds(2**20, 4), max_objects=engines.rounds(2000))
    counts: dict[int, int] = {}
    for round_ in range(3):
        for size in (64, 3000, 200, 70_000, 900, 20_000, 65, 8192):
            refs = fill(store, lambda _, size=size: size)  # type: ignore[misc]
            assert counts.setdefault(size, len(refs)) == len(refs), (round_, size)
            for ref in refs:
                store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_freed_room_between_live_objects_is_joined(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    refs = [store.put(helpers.pattern(i, 32 * 1024 + 1)) for i in range(28)]
    for ref in refs[:-1]:
        store.delete(ref)
    ref = store.put(bytes(900_000 - 32 * 1024))
    store.delete(ref)
    with store.get(refs[-1]) as buf:
        assert bytes(buf) == helpers.pattern(27, 32 * 1024 + 1)


def test_what_was_trimmed_away_is_not_written_to(store: refstore.Store) -> None:
    """What a slot had before a trim is another's by the time it has something new."""
    first, *others = (store.put(helpers.pattern(k, 40_000)) for k in range(3))
    store.delete(first)
    store.trim()
    store.put(bytes(60_000))
    for k, ref in enumerate(others, 1):
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(k, 40_000)


def test_random_churn_never_rots(make_store: MakeStore) -> None:
    store = make_store("8MiB")
    rng = random.Random(9)
    live: list[tuple[refstore.ObjectRef, int, int]] = []
    payload = 0
    for i in range(engines.rounds(20_000, 10)):
        size = int(2 ** rng.uniform(0, 16))
        while payload + size > 0.6 * store.capacity:
            ref, seed, length = live.pop(rng.randrange(len(live)))
            if seed % 16 == 0:
                with store.get(ref) as buf:
                    assert bytes(buf) == helpers.pattern(seed, length)
            store.delete(ref)
            payload -= length
        data = helpers.pattern(i, size) if i % 16 == 0 else bytes(size)
        live.append((store.put(data), i, size))
        payload += size
    assert store.check() == []
    for ref, _, _ in live:
        store.delete(ref)
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


# -- max_objects ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 63, 64, 65, 100, 1000])
@pytest.mark.parametrize("size", [0, 64, 5000])
def test_just_as_many_objects_as_max_objects(make_store: MakeStore, limit: int, size: int) -> None:
    store = make_store("64MiB", max_objects=limit)
    assert store.max_objects == limit
    for _ in range(2):
        refs = fill(store, lambda _: size)
        assert len(refs) == len(store) == limit
        store.delete(refs.pop())
        refs.append(store.put(b"x"))
        with pytest.raises(refstore.StoreFullError):
            store.put(b"x")
        for ref in refs:
            store.delete(ref)


@pytest.mark.parametrize("limit", [1, 5, 64, 200])
def test_just_as_many_objects_of_many_sizes(make_store: MakeStore, limit: int) -> None:
    store = make_store("64MiB", max_objects=limit)
    ways: list[Callable[[int], int]] = [
        lambda i: 64 + 64 * i,
        lambda i: int(64 * 1.05 ** (i % 180)),
        lambda i: 1,
        lambda i: 32 * 1024 - 100 * i,
        lambda i: 0 if i % 2 else 100_000,
        lambda i: 40_000 + i,
        lambda i: [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512][i % 13],
    ]
    for way in ways:
        refs = fill(store, way)
        assert len(refs) == limit
        for ref in refs[::2] + refs[1::2]:
            store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_slots_move_between_sizes_while_others_live(make_store: MakeStore) -> None:
    store = make_store("16MiB", max_objects=256)
    rng = random.Random(10)
    live = fill(store, lambda i: 64)
    for step in range(engines.rounds(2000)):
        store.delete(live.pop(rng.randrange(len(live))))
        live.append(store.put(bytes(int(2 ** rng.uniform(0, 15)) if step % 2 else 64)))
    assert len(store) == 256
    with pytest.raises(refstore.StoreFullError):
        store.put(b"x")


def test_a_condemned_object_holds_its_slot(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=4)
    refs = [store.put(b"x") for _ in range(4)]
    with store.get(refs[0]):
        store.delete(refs[0])
        with pytest.raises(refstore.StoreFullError):
            store.put(b"y")
    store.put(b"y")


def test_a_writer_holds_a_slot(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=1)
    with store.create(10) as writer:
        with pytest.raises(refstore.StoreFullError):
            store.put(b"y")
        writer.abort()
    store.put(b"y")


def test_replace_needs_a_slot_of_its_own(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=1)
    store["n"] = b"old"
    with pytest.raises(refstore.StoreFullError):
        store["n"] = b"new"
    assert bytes(store["n"]) == b"old"


def test_max_objects_defaults_from_the_capacity(make_store: MakeStore) -> None:
    assert make_store("1MiB", name="small").max_objects >= 4096
    assert 4096 <= make_store("64MiB", name="larger").max_objects <= 2**20


@pytest.mark.parametrize("size", [64, 700, 2048, 4096])
def test_what_fits_the_largest_free_piece_can_be_put(make_store: MakeStore, size: int) -> None:
    """However the room was cut before: a small object takes a larger block if it must."""
    store = make_store(engines.rounds(2**21, 8), max_objects=4096)
    refs = helpers.put_until_full(store, itertools.repeat(bytes(4096)))
    for ref in refs[::10]:
        store.delete(ref)
    held: list[tuple[refstore.ObjectRef, bytes]] = []
    while store.stats().largest_free >= size:
        data = helpers.pattern(len(held), size)
        held.append((store.put(data), data))
    assert len(held) >= len(refs[::10])
    for ref, data in held:
        with store.get(ref) as buf:
            assert bytes(buf) == data
        store.delete(ref)
    assert store.check() == []


@pytest.mark.parametrize("short", [10, 70, 300])
def test_the_one_free_run_that_is_long_enough_is_found(
    make_store: MakeStore, path: str, short: int
) -> None:
    """All of about the same length, and nobody remembers which was freed when."""
    store = make_store((39 + 9 + short * (36 + 9)) * 4096, max_objects=4096)
    long = store.put(bytes(39 * 4096))
    store.put(bytes(9 * 4096))
    refs = []
    for _ in range(short):
        refs.append(store.put(bytes(36 * 4096)))
        store.put(bytes(9 * 4096))
    assert store.stats().largest_free == 0
    for ref in (long, *refs):
        store.delete(ref)
    store.close()
    data = helpers.pattern(short, 39 * 4096)
    with refstore.Store(path, create=False) as store:
        assert bytes(store.get(store.put(data))) == data
        assert store.stats().largest_free == 36 * 4096


@pytest.mark.parametrize("before", [(), (500,), (5000,), (300_000,), (700_000, 20_000, 100_000)])
@pytest.mark.parametrize("batch", [False, True], ids=["puts", "batch"])
def test_few_large_objects_fill_an_emptied_store(
    make_store: MakeStore, before: tuple[int, ...], batch: bool
) -> None:
    store = make_store("1MiB", max_objects=100)
    for nbytes in before:
        store.put(bytes(nbytes))
    store.clear()
    for parts in (2, 8, 4, 1):
        payloads = [bytes(store.capacity // parts)] * parts
        refs = store.put_many(payloads) if batch else [store.put(one) for one in payloads]
        assert len(set(refs)) == parts
        store.clear()


@pytest.mark.parametrize("evict", [None, "lru", "s3fifo"])
@pytest.mark.parametrize("nbytes", [32 * 1024, 128 * 1024])
def test_a_batch_that_takes_all_gets_all_that_may_go(
    make_store: MakeStore, evict: str | None, nbytes: int
) -> None:
    store = make_store("1MiB", evict=evict)
    for size in (20_000, 8192, 1, 5000, 0, 8192, nbytes, 500):
        store.put(bytes(size), evictable=True)
    assert len(store.put_many([bytes(nbytes)] * (store.capacity // nbytes))) == len(store)
    assert store.stats().free == 0
    assert store.check() == []
