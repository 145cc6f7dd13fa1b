"""Views outlive the buffer, the store and its file; their block is never reused under them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import refstore

MakeView = Callable[[refstore.PinnedBuffer], Any]

# Each takes one view, of any sort, from the buffer of a 1-d array of u4.
VIEWS: dict[str, MakeView] = {
    "memoryview": memoryview,
    "a slice of a memoryview": lambda buf: memoryview(buf)[10:20],
    "a cast memoryview": lambda buf: memoryview(buf).cast("B"),
    "a copy of a memoryview": lambda buf: memoryview(memoryview(memoryview(buf))),
    "array": lambda buf: buf.array,
    "value": lambda buf: buf.value,
    "a slice of array": lambda buf: buf.array[5:],
    "an element as an array": lambda buf: buf.array[7, ...],
    "array of another dtype": lambda buf: buf.array.view("u1"),
    "array reshaped": lambda buf: buf.array.reshape(-1, 2).T,
    "asarray": np.asarray,
    "frombuffer": lambda buf: helpers.flat(buf),
    "frombuffer of a memoryview": lambda buf: helpers.flat(memoryview(buf), "u2"),
    "from_dlpack": np.from_dlpack,
    "__array__": lambda buf: buf.__array__(),
    "memoryview of array": lambda buf: helpers.memory(buf.array),
    "a view in a cycle": lambda buf: _in_a_cycle(buf.array),
    "a subclass": lambda buf: buf.array.view(np.recarray),
    "a broadcast view": lambda buf: np.broadcast_to(buf.array, (3, buf.array.size)),
    "windows": lambda buf: np.lib.stride_tricks.sliding_window_view(buf.array, 4),
}


def _in_a_cycle(view: Any) -> list[Any]:
    loop = [view]
    loop.append(loop)
    return loop


def content(view: Any) -> bytes:
    """What a view shows, as bytes."""
    if isinstance(view, list):
        view = view[0]
    shown: bytes = view.tobytes()
    return shown


@pytest.mark.parametrize("size", [40, 1000, 100_000], ids=["small", "some pages", "large"])
@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_pins_its_block_until_it_dies(
    make_store: Callable[..., refstore.Store], take: MakeView, size: int
) -> None:
    store = make_store("1MiB")
    ref = store.put(np.arange(size, dtype="u4"))
    with store.get(ref) as buf:
        view = take(buf)
        expected = content(view)
    assert buf.closed
    assert store.refcount(ref) >= 2
    store.delete(ref)
    assert helpers.fill_with_junk(store) > 0
    assert content(view) == expected
    assert store.stats().condemned == 1
    del view, buf
    gc.collect()
    stats = store.stats()
    assert (stats.condemned, stats.used, stats.pinned) == (0, 0, 0)
    helpers.assert_full_capacity_fits(store)


@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_survives_release(store: refstore.Store, take: MakeView) -> None:
    ref = store.put(np.arange(500, dtype="u4"))
    buf = store.get(ref)
    view = take(buf)
    expected = content(view)
    buf.release()
    del buf
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert content(view) == expected


@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_survives_the_end_of_its_store(folder: Path, take: MakeView) -> None:
    store = refstore.Store(str(folder / "s"), capacity="1MiB")
    ref = store.put(np.arange(500, dtype="u4"))
    view = take(store.get(ref))
    expected = content(view)
    store.unlink()
    store.close()
    del store
    gc.collect()
    assert content(view) == expected
    assert helpers.mappings(folder) != []
    del view
    gc.collect()
    assert helpers.mappings(folder) == []


@pytest.mark.parametrize("how", ["with", "release", "abort"])
def test_what_is_closed_keeps_nothing_mapped(folder: Path, how: str) -> None:
    store = refstore.Store(str(folder / "s"), capacity="1MiB")
    store["n"] = b"x" * 1000
    closed: Any
    if how == "with":
        with store["n"] as closed:
            assert bytes(closed) == b"x" * 1000
    elif how == "release":
        closed = store["n"]
        closed.release()
    else:
        closed = store.create(10)
        closed.abort()
    store.unlink()
    store.close()
    assert helpers.mappings(folder) == []
    del closed


def test_a_closed_store_still_pins_for_its_views(store: refstore.Store, path: str) -> None:
    ref = store.put(np.arange(1000))
    view = store.get(ref).array
    store.close()
    with refstore.Store(path, create=False) as again:
        assert again.refcount(ref) == 2
        again.delete(ref)
        helpers.fill_with_junk(again)
        assert np.array_equal(view, np.arange(1000))
        del view
        assert again.stats().condemned == 0
        helpers.assert_full_capacity_fits(again)


def test_a_buffer_outlives_its_closed_store(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    buf = store.get(ref)
    store.close()
    assert bytes(buf) == b"x" * 1000
    with refstore.Store(path, create=False) as again:
        assert again.refcount(ref) == 2
        buf.release()
        assert again.refcount(ref) == 1


def test_the_last_of_several_views_unpins(store: refstore.Store) -> None:
    ref = store.put(np.arange(1000))
    with store.get(ref) as buf:
        views = [buf.array, memoryview(buf), np.asarray(buf), np.from_dlpack(buf), buf.value]
    store.delete(ref)
    while views:
        assert store.stats().condemned == 1
        views.pop()
    assert store.stats().condemned == 0
    assert store.stats().used == 0


def test_a_replaced_object_stays_for_its_views(store: refstore.Store) -> None:
    store["model"] = np.zeros(10_000)
    old = store["model"].array
    for version in range(1, 20):
        store["model"] = np.full(10_000, version)
    helpers.fill_with_junk(store)
    assert not old.any()
    assert store["model"].array[0] == 19
    assert store.stats().condemned == 1


def test_many_condemned_blocks_come_back_in_any_order(store: refstore.Store) -> None:
    rng = np.random.default_rng(3)
    views = {}
    for i in range(200):
        ref = store.put(helpers.pattern(i, int(rng.integers(1, 60_000))))
        views[i] = memoryview(store.get(ref))
        store.delete(ref)
    assert store.stats().condemned == 200
    for i in rng.permutation(200).tolist():
        assert bytes(views[i]) == helpers.pattern(i, len(views[i]))
        del views[i]
        assert store.stats().condemned == len(views)
    helpers.assert_full_capacity_fits(store)
