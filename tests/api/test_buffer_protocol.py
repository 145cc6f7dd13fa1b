"""What buffers and their arrays let others do: flags, requests of PEP 3118, weak references."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import engines
import helpers
import ml_dtypes
import numpy as np
import pytest
from pep3118 import C_ORDER, F_ORDER, FORMAT, ND, SIMPLE, STRIDES, WRITABLE, asked_for

import refstore

GRID = np.arange(12, dtype="f4").reshape(3, 4)


# -- what is repeated is stored once


@pytest.mark.parametrize(
    ("array", "nbytes"),
    [
        (np.broadcast_to(np.float64(3.5), (1000, 1000)), 8),
        (np.broadcast_to(np.arange(10, dtype="u1"), (50, 10)), 10),
        (np.broadcast_to(np.arange(10, dtype=">u2")[:, None], (10, 50)), 20),
        (np.broadcast_to(np.asfortranarray(GRID)[:, None, ::2], (3, 9, 2)), 24),
        (np.broadcast_to(np.zeros(1, [("a", "i1"), ("b", "f8")]), (100,)), 9),
        (np.broadcast_to(np.ones(3, ml_dtypes.bfloat16), (4, 3)).T, 6),
    ],
    ids=["a value", "rows", "columns", "in between", "a record", "turned"],
)
def test_axes_of_stride_0_are_stored_once(
    make_store: Any, array: helpers.Array, nbytes: int
) -> None:
    store = make_store("64KiB")
    with store.get(store.put(array)) as buf:
        assert buf.nbytes == len(buf) == len(bytes(buf)) == nbytes
        for back in (buf.array, buf.value, np.asarray(buf)):
            assert (back.dtype, back.shape) == (array.dtype, array.shape)
            assert [step == 0 for step in back.strides] == [step == 0 for step in array.strides]
            assert np.array_equal(back, array)
        assert helpers.flat(buf).nbytes == nbytes
        if array.dtype != ml_dtypes.bfloat16:
            assert memoryview(buf).shape == array.shape
        del back
    assert store.stats().used <= 64


def test_a_private_view_of_what_is_repeated_is_written_once(store: refstore.Store) -> None:
    ref = store.put(np.broadcast_to(np.arange(3), (5, 3)))
    with store.get(ref, writable=True) as buf:
        buf.array[0, 0] = 7
        assert buf.array[:, 0].tolist() == [7] * 5
    with store.get(ref) as buf:
        assert buf.array[4].tolist() == [0, 1, 2]


# -- the flag `writeable`


def test_an_array_of_a_writer_is_protected_and_opened_again(store: refstore.Store) -> None:
    with store.create(shape=(3,), dtype="f4") as writer:
        array, part = writer.array, writer.array[1:]
        for one in (array, part):
            one.flags.writeable = False
            with pytest.raises(ValueError, match="read-only"):
                one[0] = 1
            one.flags.writeable = True
            one[:] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    assert array.tolist() == [5, 5, 5]


@pytest.mark.parametrize("writable", [False, True])
def test_an_array_of_a_buffer_is_opened_if_it_is_private(
    store: refstore.Store, writable: bool
) -> None:
    with store.get(store.put(GRID), writable=writable) as buf:
        array = buf.array
        array.flags.writeable = False
        if writable:
            array.flags.writeable = True
            array[0] = 0
        else:
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


# -- requests


def refused() -> type[Exception]:
    return BufferError if engines.exports_by_itself() else ValueError


@pytest.mark.parametrize(
    ("array", "flags"),
    [
        (GRID, STRIDES | FORMAT | WRITABLE),
        (GRID, F_ORDER | FORMAT),
        (np.asfortranarray(GRID), C_ORDER | FORMAT),
        (np.asfortranarray(GRID), ND | FORMAT),
        (np.arange(3).astype("M8[s]"), STRIDES | FORMAT),
        (np.ones(3, ml_dtypes.bfloat16), STRIDES | FORMAT),
        (np.zeros(3, "V7"), STRIDES | FORMAT),
    ],
)
def test_a_typed_request_that_cannot_be_met_is_a_buffer_error(
    store: refstore.Store, array: helpers.Array, flags: int
) -> None:
    with store.get(store.put(array)) as buf:
        with pytest.raises(refused(), match=r".+"):
            asked_for(buf, flags)
        if engines.exports_by_itself():
            assert helpers.flat(buf).tobytes() == bytes(buf)


def test_a_view_for_which_no_shape_is_asked_has_one_dimension(store: refstore.Store) -> None:
    for obj in (b"some bytes", GRID, np.array(3.5), np.asfortranarray(GRID), np.zeros(3, "M8[s]")):
        with store.get(store.put(obj)) as buf:
            nbytes, itemsize, readonly, ndim, _, shapes = asked_for(buf, SIMPLE)
            assert (nbytes, itemsize, readonly, ndim) == (buf.nbytes, 1, True, 1)
            assert shapes == [None, None]


def test_an_object_has_no_array(store: refstore.Store) -> None:
    with store.get(store.put({"a": GRID})) as buf:
        for take in (lambda: buf.array, buf.__array__, buf.__dlpack__):
            with pytest.raises(TypeError, match="use its `value`"):
                take()
        assert len(bytes(buf)) == buf.nbytes
    with store.get(store.put(b"abc")) as buf:
        assert buf.array.tolist() == [97, 98, 99]


def test_who_takes_no_read_only_array_by_dlpack_is_told_what_to_do(store: refstore.Store) -> None:
    ref = store.put(GRID)
    with store.get(ref) as buf, pytest.raises(BufferError, match=r"JAX.*writable=True"):
        buf.__dlpack__()
    with store.get(ref, writable=True) as buf:
        assert "dltensor" in repr(buf.__dlpack__())
    times = np.arange(3).astype("M8[s]")
    with store.get(store.put(times), writable=True) as buf, pytest.raises(BufferError) as caught:
        buf.__dlpack__()
    assert "JAX" not in str(caught.value)


# -- weak references


def test_a_buffer_lives_in_a_weak_cache_for_as_long_as_it_is_used(store: refstore.Store) -> None:
    for obj in (b"x" * 1000, GRID, np.asfortranarray(GRID)):
        ref = store.put(obj)
        cache: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        buf = cache["x"] = store.get(ref)
        assert cache["x"] is buf
        del buf
        gc.collect()
        assert "x" not in cache
        assert store.refcount(ref) == 1


def test_refs_and_writers_can_be_weakly_referenced(store: refstore.Store) -> None:
    for make in (lambda: store.create(10), lambda: store.put(b"x")):
        one: Any = make()
        seen = weakref.ref(one)
        assert seen() is one
        del one
        gc.collect()
        assert seen() is None
