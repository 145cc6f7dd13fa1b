"""Reference counts, statistics, deletion and trimming: exact figures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import helpers
import numpy as np
import pytest

import refstore

FIELDS = {
    *("capacity", "used", "free", "largest_free", "objects", "pinned", "condemned"),
    *("resident", "file_system_free", "waiting"),
    *("puts", "gets", "deletes", "evictions", "recoveries", "processes"),
}


# -- refcount ---------------------------------------------------------------------------------


def test_a_new_object_has_the_stores_reference(store: refstore.Store) -> None:
    assert store.refcount(store.put(b"x")) == 1
    store["n"] = b"y"
    assert store.refcount("n") == 1


def test_each_get_adds_one_and_each_release_takes_one(store: refstore.Store) -> None:
    ref = store.put(b"x", name="n")
    held = []
    for count in range(2, 12):
        held.append(store.get(ref if count % 2 else "n"))
        assert store.refcount(ref) == count
        assert store.refcount("n") == count
    while held:
        held.pop().release()
        assert store.refcount(ref) == len(held) + 1


def test_a_failed_get_adds_nothing(store: refstore.Store) -> None:
    ref = store.put(b"x")
    raw = bytearray(bytes(ref))
    raw[5] ^= 1  # another generation of the same slot
    for _ in range(100):
        with pytest.raises(refstore.ObjectNotFoundError):
            store.get(refstore.ObjectRef(bytes(raw)))
    assert store.refcount(ref) == 1


def test_after_delete_there_is_no_refcount_even_while_pinned(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with store.get(ref):
        store.delete(ref)
        with pytest.raises(refstore.ObjectNotFoundError):
            store.refcount(ref)


def test_a_second_delete_is_not_found(store: refstore.Store) -> None:
    ref = store.put(b"x")
    store.delete(ref)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.delete(ref)
    assert store.stats().deletes == 1


def test_a_second_delete_of_a_pinned_object_is_not_found(store: refstore.Store) -> None:
    ref = store.put(b"x" * 1000)
    with store.get(ref) as buf:
        store.delete(ref)
        with pytest.raises(refstore.ObjectNotFoundError):
            store.delete(ref)
        helpers.fill_with_junk(store)
        assert bytes(buf) == b"x" * 1000


# -- stats ------------------------------------------------------------------------------------


def test_stats_is_a_dataclass_of_the_named_fields(store: refstore.Store) -> None:
    stats = store.stats()
    assert isinstance(stats, refstore.StoreStats)
    assert {field.name for field in dataclasses.fields(stats)} >= FIELDS
    assert all(isinstance(getattr(stats, name), int) for name in FIELDS)


def test_an_empty_store_is_all_free(store: refstore.Store) -> None:
    stats = store.stats()
    assert stats.capacity == store.capacity == 16 * 2**20
    assert (stats.used, stats.free, stats.largest_free) == (0, stats.capacity, stats.capacity)
    assert (stats.objects, stats.pinned, stats.condemned) == (0, 0, 0)
    assert (stats.puts, stats.gets, stats.deletes) == (0, 0, 0)
    assert (stats.evictions, stats.recoveries, stats.processes) == (0, 0, 1)
    assert stats.waiting == 0


def test_resident_is_what_the_file_takes(store: refstore.Store) -> None:
    def taken() -> int:
        return os.stat(store.path).st_blocks * 512

    before = store.stats().resident
    assert 0 < before == taken() < store.capacity
    ref = store.put(b"x" * 4_000_000)
    assert store.stats().resident == taken() >= before + 4_000_000
    store.delete(ref)
    assert store.stats().resident == taken() >= before + 4_000_000
    store.trim()
    assert store.stats().resident == taken() < before + 4_000_000


def test_file_system_free_is_what_others_can_still_take(store: refstore.Store) -> None:
    def free() -> int:
        found = os.statvfs(store.path)
        return found.f_bavail * found.f_frsize if found.f_blocks else 2**62

    assert store.stats().file_system_free == pytest.approx(free(), abs=64 << 20)


def test_used_and_free_share_the_capacity(store: refstore.Store) -> None:
    payload = 0
    for size in (1, 64, 1000, 5000, 100_000, 3_000_000):
        store.put(bytes(size))
        payload += size
        stats = store.stats()
        assert payload <= stats.used <= payload * 1.3 + 64 * stats.objects
        assert stats.free == stats.capacity - stats.used
        assert 0 < stats.largest_free <= stats.free


def test_a_block_being_written_is_used_but_no_object(store: refstore.Store) -> None:
    with store.create(100_000) as writer:
        stats = store.stats()
        assert stats.used >= 100_000
        assert (stats.objects, stats.pinned) == (0, 0)
        writer.abort()
    assert store.stats().used == 0


def test_a_condemned_block_is_used_but_no_object(store: refstore.Store) -> None:
    ref = store.put(bytes(100_000))
    with store.get(ref):
        assert (store.stats().objects, store.stats().pinned, store.stats().condemned) == (1, 1, 0)
        store.delete(ref)
        stats = store.stats()
        assert stats.used >= 100_000
        assert (stats.objects, stats.condemned) == (0, 1)
    stats = store.stats()
    assert (stats.used, stats.objects, stats.pinned, stats.condemned) == (0, 0, 0, 0)


def test_objects_and_pinned_are_counted(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(300)]
    held = [store.get(ref) for ref in refs[::3]]
    held += [store.get(refs[0]) for _ in range(5)]
    stats = store.stats()
    assert (stats.objects, stats.pinned, stats.condemned) == (300, 100, 0)
    del held
    assert store.stats().pinned == 0


def test_operations_are_counted(store: refstore.Store) -> None:
    for i in range(7):
        store.put(b"x", name=f"n{i}")
    with store.create(10):
        pass
    for i in range(5):
        store.get(f"n{i % 2}").release()
    for i in range(3):
        store.delete(f"n{i}")
    stats = store.stats()
    assert (stats.puts, stats.gets, stats.deletes) == (8, 5, 3)


def test_what_is_replaced_or_goes_with_its_owner_is_counted(store: refstore.Store) -> None:
    for _ in range(3):
        store.put(b"x", name="n", replace=True)
    with store.get("n"):
        store.put(b"x", name="n", replace=True)
    store.put_many([b"x"] * 2, names=["n", "m"], replace=True)
    assert helpers.forked(lambda: store.put(b"x", owned=True)) == 0
    store.recover()
    stats = store.stats()
    assert (stats.puts, stats.deletes, stats.objects) == (7, 5, 2)


def test_largest_free_is_what_fits(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store("4MiB")
    rng = np.random.default_rng(8)
    refs = [store.put(bytes(int(rng.integers(1, 50_000)))) for _ in range(120)]
    for ref in refs[::2]:
        store.delete(ref)
    largest = store.stats().largest_free
    store.delete(store.put(bytes(largest)))
    with pytest.raises(refstore.StoreFullError):
        store.put(bytes(largest + 4096))


def test_a_store_tells_its_options(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store("3MiB", max_objects=123)
    assert (store.capacity, store.max_objects, store.evict) == (3 * 2**20, 123, None)


# -- trim -------------------------------------------------------------------------------------


def blocks(path: str) -> int:
    """What the file takes on its file system, in bytes."""
    return os.stat(path).st_blocks * 512


def test_trim_gives_free_memory_back(store: refstore.Store, path: str) -> None:
    kept = store.put(helpers.pattern(1, 100_000))
    refs = [store.put(bytes(1_000_000)) for _ in range(10)]
    refs += [store.put(bytes(1000)) for _ in range(1000)]
    for ref in refs:
        store.delete(ref)
    before = blocks(path)
    given = store.trim()
    assert given >= 9_000_000
    assert before - blocks(path) >= 9_000_000
    with store.get(kept) as buf:
        assert bytes(buf) == helpers.pattern(1, 100_000)
    store.delete(kept)
    helpers.assert_full_capacity_fits(store)


def test_trim_of_a_full_store_gives_nothing(store: refstore.Store) -> None:
    data = helpers.pattern(1, store.capacity)
    ref = store.put(data)
    assert store.trim() == 0
    with store.get(ref) as buf:
        assert bytes(buf) == data


def test_trim_spares_what_is_pinned_or_being_written(store: refstore.Store) -> None:
    ref = store.put(helpers.pattern(2, 1_000_000))
    with store.get(ref) as buf, store.create(1_000_000) as writer:
        memoryview(writer)[:] = helpers.pattern(3, 1_000_000)
        store.delete(ref)
        store.trim()
        assert bytes(buf) == helpers.pattern(2, 1_000_000)
        assert memoryview(writer) == helpers.pattern(3, 1_000_000)
    assert bytes(store.get(writer.ref)) == helpers.pattern(3, 1_000_000)


def test_trim_again_and_again_loses_nothing(store: refstore.Store) -> None:
    for i in range(20):
        store["n"] = helpers.pattern(i, 500_000)
        store[f"small {i}"] = helpers.pattern(i, 100)
        store.trim()
        assert bytes(store["n"]) == helpers.pattern(i, 500_000)
    assert all(bytes(store[f"small {i}"]) == helpers.pattern(i, 100) for i in range(20))
    assert store.trim() == 0
