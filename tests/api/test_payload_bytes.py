"""Bytes-like payloads: what goes in comes out, as a read-only memoryview."""

from __future__ import annotations

import array
import mmap
from typing import Any

import helpers
import numpy as np
import pytest

import refstore

STREAMED = 16 << 20  # from here on a copy goes past the caches
SIZES = (0, 1, 63, 64, 65, 4095, 4096, 4097, 32768, 32769, 65535, 65536, 65537, 3_000_001)
LARGE = (STREAMED - 1, STREAMED, STREAMED + 63)


@pytest.mark.parametrize("size", SIZES + LARGE)
def test_bytes_of_any_size_come_back(make_store: Any, size: int) -> None:
    store, data = make_store("32MiB"), helpers.pattern(size, size)
    with store.get(store.put(data)) as buf:
        assert buf.kind == "bytes"
        assert buf.nbytes == len(buf) == size
        assert bytes(buf) == data
        assert isinstance(buf.value, memoryview)
        assert buf.value.readonly
        assert buf.value.tobytes() == data


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_each_bytes_like_type_is_of_kind_bytes(
    store: refstore.Store, make: type[bytes] | type[bytearray] | type[memoryview]
) -> None:
    with store.get(store.put(make(b"some bytes"))) as buf:
        assert (buf.kind, bytes(buf)) == ("bytes", b"some bytes")


def test_the_store_keeps_a_copy_of_a_bytearray(store: refstore.Store) -> None:
    source = bytearray(b"x" * 1000)
    ref = store.put(source)
    source[:] = b"y" * 1000
    with store.get(ref) as buf:
        assert bytes(buf) == b"x" * 1000


GRID = np.arange(2 * 3 * 40, dtype="i4").reshape(2, 3, 40)

MEMORYVIEWS = {
    "a slice": memoryview(b"0123456789" * 100)[3:777],
    "every third byte": memoryview(b"0123456789" * 100)[::3],
    "backwards": memoryview(b"0123456789" * 100)[::-1],
    "backwards by seven": memoryview(bytes(range(256)) * 30)[5000:100:-7],
    "wide items": helpers.memory(np.arange(1000, dtype="f8"))[::5],
    "two dimensions": memoryview(bytes(range(60))).cast("B", (6, 10)),
    "three dimensions": helpers.memory(GRID),
    "rows of a grid": helpers.memory(GRID[:, ::2, ::3]),
    "a transposed grid": helpers.memory(GRID.T),
    "a flipped grid": helpers.memory(GRID[::-1, :, ::-2]),
    "a broadcast row": helpers.memory(np.broadcast_to(np.arange(50, dtype="i2"), (40, 50))),
    "a scalar": helpers.memory(np.array(2.5)),
    "nothing": memoryview(b""),
    "nothing of many dimensions": helpers.memory(np.zeros((3, 0, 5))),
    "a slice that is empty": memoryview(b"0123")[2:2],
    "records": helpers.memory(np.zeros(30, dtype=[("a", "i1"), ("b", "f8")]))[::2],
}


@pytest.mark.parametrize("view", MEMORYVIEWS.values(), ids=MEMORYVIEWS.keys())
def test_a_memoryview_of_any_layout_is_stored_in_logical_order(
    store: refstore.Store, view: memoryview
) -> None:
    with store.get(store.put(view)) as buf:
        assert buf.kind == "bytes"
        assert buf.nbytes == view.nbytes
        assert bytes(buf) == view.tobytes()
        assert buf.value.tobytes() == view.tobytes()


def test_a_large_strided_memoryview_is_copied_right(store: refstore.Store) -> None:
    view = helpers.memory(np.arange(2_000_000, dtype="i4"))[::2]
    with store.get(store.put(view)) as buf:
        assert bytes(buf) == view.tobytes()


def test_a_view_of_a_stored_object_can_be_stored_again(store: refstore.Store) -> None:
    data = helpers.pattern(1, 300_000)
    with store.get(store.put(data)) as first:
        ref = store.put(memoryview(first)[100:])
    with store.get(ref) as second:
        assert bytes(second) == data[100:]


def test_a_released_memoryview_is_refused(store: refstore.Store) -> None:
    view = memoryview(b"gone")
    view.release()
    before = helpers.usage(store)
    with pytest.raises(ValueError, match="released"):
        store.put(view)
    assert helpers.usage(store) == before


def test_empty_objects_are_objects_of_their_own(store: refstore.Store) -> None:
    first, second = store.put(b""), store.put(b"")
    assert first != second
    assert len(store) == 2
    store.delete(first)
    with store.get(second) as buf:
        assert bytes(buf) == b""
        assert memoryview(buf).nbytes == 0
    assert first not in store


def test_a_buffer_that_is_none_of_the_three_is_pickled(store: refstore.Store) -> None:
    numbers = array.array("d", range(1000))
    with store.get(store.put(numbers)) as buf:
        assert buf.kind == "object"
        assert buf.value == numbers
        assert type(buf.value) is array.array


def test_a_buffer_that_cannot_be_pickled_is_refused(store: refstore.Store) -> None:
    before = helpers.usage(store)
    with mmap.mmap(-1, 4096) as anonymous, pytest.raises(TypeError, match="pickle"):
        store.put(anonymous)
    assert helpers.usage(store) == before
