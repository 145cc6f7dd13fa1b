"""`get(writable=True)`: what is written stays in this process and never reaches the store."""

from __future__ import annotations

import re
from pathlib import Path

import helpers
import numpy as np
import pytest

import refstore

SIZES = [1, 16, 25, 100, 1000, 5000, 30_000, 100_000, 1_000_000]  # of i4: small to large


@pytest.mark.parametrize("size", SIZES)
def test_writes_stay_private(store: refstore.Store, size: int) -> None:
    ref = store.put(np.arange(size, dtype="i4"))
    with store.get(ref, writable=True) as mine:
        assert np.array_equal(mine.array, np.arange(size))
        mine.array[:] = -1
        assert (mine.array == -1).all()
        assert mine.array.flags.writeable
        with store.get(ref) as theirs:
            assert np.array_equal(theirs.array, np.arange(size))
        with store.get(ref, writable=True) as another:
            assert np.array_equal(another.array, np.arange(size))
            another.array[0] = 5
            assert mine.array[0] == -1
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, np.arange(size))


@pytest.mark.parametrize("size", SIZES)
def test_the_buffer_itself_is_writable(store: refstore.Store, size: int) -> None:
    data = helpers.pattern(size, size)
    ref = store.put(data)
    with store.get(ref, writable=True) as buf:
        with memoryview(buf) as view:
            assert not view.readonly
            view[:] = b"\xaa" * size
        assert bytes(buf) == b"\xaa" * size
        helpers.flat(buf)[0] = 1
        assert bytes(buf)[0] == 1
    with store.get(ref) as buf:
        assert bytes(buf) == data


@pytest.mark.parametrize("size", SIZES)
def test_the_block_stays_pinned(store: refstore.Store, size: int) -> None:
    ref = store.put(np.arange(size, dtype="i4"))
    with store.get(ref, writable=True) as buf:
        assert store.refcount(ref) == 2
        array = buf.array
    array[: size // 2] = -1
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert np.array_equal(array[size // 2 :], np.arange(size // 2, size))
    assert (array[: size // 2] == -1).all()
    assert store.stats().condemned == 1
    del array, buf
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


@pytest.mark.parametrize("size", [1, 64, 200, 1500, 4096, 5000, 10_000])
def test_small_neighbours_are_never_stale(store: refstore.Store, size: int) -> None:
    refs = [store.put(helpers.pattern(i, size)) for i in range(64)]
    private = [store.get(ref, writable=True) for ref in refs[::4]]
    for buf in private:
        memoryview(buf)[:] = b"\xcc" * size
    for i in range(64):
        if i % 4:
            store.delete(refs[i])
            refs[i] = store.put(helpers.pattern(1000 + i, size))
    for i, ref in enumerate(refs):
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(i if i % 4 == 0 else 1000 + i, size)
        with store.get(ref, writable=True) as buf:
            assert bytes(buf) == helpers.pattern(i if i % 4 == 0 else 1000 + i, size)
    assert all(bytes(buf) == b"\xcc" * size for buf in private)
    del private, buf


def test_a_block_used_again_is_shown_fresh(store: refstore.Store) -> None:
    for round_ in range(20):
        ref = store.put(np.full(50_000, round_))
        with store.get(ref, writable=True) as buf:
            assert (buf.array == round_).all()
            buf.array[:] = -1
        store.delete(ref)


def test_arrays_in_an_object_are_writable_in_private(store: refstore.Store) -> None:
    tree = {"small": np.arange(10), "large": np.arange(200_000)}
    ref = store.put(tree)
    with store.get(ref, writable=True) as buf:
        value = buf.value
        for key in tree:
            value[key] += 1
            assert np.array_equal(value[key], tree[key] + 1)
        del value
    with store.get(ref) as buf:
        for key in tree:
            assert np.array_equal(buf.value[key], tree[key])


def test_an_array_keeps_its_layout(store: refstore.Store) -> None:
    array = np.asfortranarray(np.arange(200.0).reshape(10, 20))
    with store.get(store.put(array), writable=True) as buf:
        assert buf.array.strides == array.strides
        assert np.array_equal(buf.array, array)
        assert helpers.address(buf.array) % 64 == 0


def test_an_empty_object_can_be_asked_for(store: refstore.Store) -> None:
    with store.get(store.put(b""), writable=True) as buf:
        assert bytes(buf) == b""
    with store.get(store.put(np.zeros((3, 0))), writable=True) as buf:
        assert buf.array.shape == (3, 0)


def test_a_name_can_be_asked_for(store: refstore.Store) -> None:
    store["n"] = np.zeros(10)
    with store.get("n", writable=True) as buf:
        buf.array[:] = 1
    assert not store["n"].array.any()


def test_a_private_view_outlives_the_store(store: refstore.Store) -> None:
    array = store.get(store.put(np.arange(300_000)), writable=True).array
    small = store.get(store.put(np.arange(3)), writable=True).array
    store.unlink()
    store.close()
    array[::2] = -1
    small[0] = 9
    assert np.array_equal(array[1::2], np.arange(1, 300_000, 2))
    assert small.tolist() == [9, 1, 2]


def test_private_mappings_go_with_their_last_view(store: refstore.Store, path: str) -> None:
    ref = store.put(np.zeros(500_000))
    before = len(helpers.mappings(path))
    views = [store.get(ref, writable=True).array for _ in range(10)]
    for view in views:
        view[:] = 1
    del views, view
    assert len(helpers.mappings(path)) == before
    assert store.refcount(ref) == 1


def anonymous_memory() -> int:
    """This process's private memory in bytes."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(kilobytes) * 1024


def test_a_large_object_is_not_copied_up_front(store: refstore.Store) -> None:
    ref = store.put(np.ones(12 * 2**20, "u1"))
    before = anonymous_memory()
    with store.get(ref, writable=True) as buf:
        assert buf.array.sum() == 12 * 2**20
        assert anonymous_memory() - before < 2 * 2**20
        buf.array[: 2 * 2**20] = 2
        assert anonymous_memory() - before < 5 * 2**20


def test_a_private_view_keeps_the_block_when_its_buffer_is_released(store: refstore.Store) -> None:
    data = helpers.pattern(1, 800_000)
    ref = store.put(data)
    with store.get(ref) as buf:
        view = buf._private_view()
    assert store.refcount(ref) == 2
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert bytes(view) == data
    del view
    assert store.stats().used == 0
