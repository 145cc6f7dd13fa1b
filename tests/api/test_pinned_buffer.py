"""What `get` returns: a pinned, read-only, aligned buffer that can be closed."""

from __future__ import annotations

import collections.abc
import ctypes
import gc
import hashlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

import engines
import helpers
import numpy as np
import pytest

import refstore

ARRAY = np.arange(24, dtype="<i4").reshape(2, 3, 4)


def test_a_buffer_knows_what_it_is(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    with store.get(ref) as buf:
        assert isinstance(buf, refstore.PinnedBuffer)
        assert buf.ref == ref
        assert buf.kind == "array"
        assert buf.nbytes == len(buf) == 96
        assert buf.closed is False
    assert buf.closed is True


def test_entering_gives_the_buffer_itself(store: refstore.Store) -> None:
    buf = store.get(store.put(b"x"))
    with buf as entered:
        assert entered is buf


def test_an_array_exports_its_format_shape_and_strides(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf, memoryview(buf) as view:
        assert (view.format, view.shape, view.strides) == ("i", (2, 3, 4), (48, 16, 4))
        assert (view.itemsize, view.ndim, view.nbytes) == (4, 3, 96)
        assert view.readonly
        assert view.tobytes() == ARRAY.tobytes()


def test_bytes_export_plain_bytes(store: refstore.Store) -> None:
    with store.get(store.put(b"some bytes")) as buf, memoryview(buf) as view:
        assert (view.format, view.shape, view.ndim, view.readonly) == ("B", (10,), 1, True)


def test_asarray_is_a_read_only_view(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        array = np.asarray(buf)
        assert (array.dtype, array.shape) == (ARRAY.dtype, ARRAY.shape)
        assert np.array_equal(array, ARRAY)
        assert not array.flags.writeable
        assert np.shares_memory(array, buf.array)
        del array


def test_asarray_of_bytes_is_an_array_of_bytes(store: refstore.Store) -> None:
    with store.get(store.put(b"some bytes")) as buf:
        assert np.asarray(buf).tobytes() == b"some bytes"
        assert np.asarray(buf).dtype == np.uint8


def test_frombuffer_sees_the_plain_bytes(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        assert np.array_equal(helpers.flat(buf, "<i4"), np.arange(24))
        anything: Any = buf
        assert np.array_equal(np.frombuffer(anything, "<i4", count=3, offset=8), [2, 3, 4])
        assert not helpers.flat(buf).flags.writeable


@pytest.mark.parametrize(
    "array",
    [np.arange(6).astype("M8[s]"), np.arange(6).astype("m8[ns]"), np.zeros(3, [("t", "M8[D]")])],
    ids=["datetime64", "timedelta64", "in a record"],
)
def test_a_dtype_without_a_buffer_format_goes_by_the_array_protocol(
    store: refstore.Store, array: helpers.Array
) -> None:
    with store.get(store.put(array)) as buf:
        refused = BufferError if engines.exports_by_itself() else ValueError
        with pytest.raises(refused, match="dtype"):
            memoryview(buf)
        assert np.asarray(buf).dtype == array.dtype
        assert np.asarray(buf).tobytes() == array.tobytes()
        assert bytes(buf) == array.tobytes()
        if engines.exports_by_itself():
            assert helpers.flat(buf).tobytes() == array.tobytes()
        assert hashlib.sha256(buf).digest() == hashlib.sha256(array.tobytes()).digest()


def test_the_array_protocol_converts_and_copies_as_asked(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        assert np.shares_memory(buf.__array__(), buf.array)
        assert buf.__array__(np.dtype("f8")).dtype == np.float64
        copied = np.array(buf, copy=True)
        assert not np.shares_memory(copied, buf.array)
        assert copied.flags.writeable
        assert np.asarray(buf, dtype="f4").tolist() == ARRAY.tolist()
        assert buf.__array__(copy=True).flags.writeable
        assert not np.shares_memory(buf.__array__(copy=True), buf.array)
        assert np.shares_memory(buf.__array__(copy=False), buf.array)
        with pytest.raises(ValueError, match="copy"):
            buf.__array__(np.dtype("f8"), copy=False)


def test_numpy_functions_take_a_buffer(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        assert np.sum(np.asarray(buf)) == ARRAY.sum()
        target = np.empty_like(ARRAY)
        np.copyto(target, buf)
        assert np.array_equal(target, ARRAY)


@pytest.mark.parametrize("obj", [b"x" * 200, ARRAY], ids=["bytes", "array"])
def test_nothing_can_be_written_through_a_buffer(store: refstore.Store, obj: Any) -> None:
    with store.get(store.put(obj)) as buf:
        with memoryview(buf).cast("B") as view, pytest.raises(TypeError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            helpers.flat(buf)[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            np.asarray(buf).flags.writeable = True
    with store.get(store.put(ARRAY)) as buf:
        with pytest.raises(ValueError, match="WRITEABLE"):
            buf.array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            buf.array[0, 0, 0] = 1


def test_a_writable_request_is_refused(store: refstore.Store) -> None:
    with store.get(store.put(b"x" * 100)) as buf, pytest.raises((BufferError, TypeError)):
        (ctypes.c_char * 100).from_buffer(buf)  # type: ignore[arg-type, unused-ignore]


@pytest.mark.parametrize("size", [64, 65, 128, 1000, 4096, 40_000, 1_000_001])
def test_a_block_of_64_bytes_or_more_is_aligned(store: refstore.Store, size: int) -> None:
    for ref in [store.put(helpers.pattern(i, size)) for i in range(10)]:
        with store.get(ref) as buf:
            assert helpers.address_of(buf) % 64 == 0


def test_the_bytes_lie_in_the_store_and_are_the_same_for_all(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"x" * 1000)
    with store.get(ref) as first, store.get(ref) as second:
        assert helpers.lies_in(path, helpers.address_of(first))
        assert helpers.address_of(first) == helpers.address_of(second)


def test_what_get_hands_out_is_mapped_read_only(store: refstore.Store, path: str) -> None:
    with store.get(store.put(b"x" * 1000)) as buf:
        where = helpers.address_of(buf)
        (mapping,) = (m for m in helpers.mappings(path) if m.start <= where < m.end)
        assert mapping.permissions.startswith("r-")


# -- the end of a buffer ----------------------------------------------------------------------

USES: dict[str, Callable[[refstore.PinnedBuffer], object]] = {
    "memoryview": memoryview,
    "bytes": bytes,
    "array": lambda buf: buf.array,
    "value": lambda buf: buf.value,
    "asarray": np.asarray,
    "frombuffer": lambda buf: helpers.flat(buf),
    "__array__": lambda buf: buf.__array__(),
    "__dlpack__": lambda buf: buf.__dlpack__(max_version=(1, 0)),
    "from_dlpack": np.from_dlpack,
    "enter": lambda buf: buf.__enter__(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_buffer_refuses_every_use(
    store: refstore.Store, use: Callable[[refstore.PinnedBuffer], object]
) -> None:
    with store.get(store.put(ARRAY)) as buf:
        use(buf)
    with pytest.raises(ValueError, match=r"(?i)closed|released"):
        use(buf)


def test_a_buffer_may_be_released_twice(store: refstore.Store) -> None:
    ref = store.put(b"x")
    buf = store.get(ref)
    buf.release()
    buf.release()
    assert buf.closed
    assert store.refcount(ref) == 1
    with store.get(ref) as other:
        other.release()
    assert store.refcount(ref) == 1


def test_leaving_with_by_an_exception_unpins(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with pytest.raises(KeyError, match="mine"), store.get(ref):
        raise KeyError("mine")
    assert store.refcount(ref) == 1


def test_a_buffer_that_is_dropped_unpins(store: refstore.Store) -> None:
    ref = store.put(b"x")
    buf = store.get(ref)
    assert store.refcount(ref) == 2
    del buf
    assert store.refcount(ref) == 1


def test_a_buffer_in_a_cycle_is_collected(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    loop: list[Any] = [store.get(ref)]
    loop += [loop, loop[0].array, memoryview(loop[0])]
    assert store.refcount(ref) >= 2
    del loop
    gc.collect()
    assert store.refcount(ref) == 1


def test_ten_thousand_gets_leave_no_pin(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    for _ in range(engines.rounds(10_000, 10)):
        with store.get(ref) as buf:
            pass
        buf.release()
    assert store.refcount(ref) == 1


def test_more_pins_than_sixteen_bits_count(store: refstore.Store) -> None:
    ref = store.put(b"popular")
    pins = engines.rounds(70_000, 70)  # the other engine counts in 32 bits from the start
    held = [store.get(ref) for _ in range(pins)]
    assert store.refcount(ref) == pins + 1
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert bytes(held[0]) == bytes(held[-1]) == b"popular"
    while held:
        held.pop().release()
    helpers.assert_full_capacity_fits(store)


def test_a_buffer_is_not_pickled_behind_ones_back(store: refstore.Store) -> None:
    with store.get(store.put(b"x")) as buf, pytest.raises(TypeError):
        pickle.dumps(buf)


def test_a_buffer_is_not_made_by_hand(store: refstore.Store) -> None:
    with pytest.raises(TypeError):
        refstore.PinnedBuffer()  # type: ignore[abstract]
    with store.get(store.put(b"")) as buf, pytest.raises(TypeError):
        type(buf)()


@pytest.mark.native("those of the other engine have no attributes then")
def test_what_new_makes_is_closed(store: refstore.Store) -> None:
    with store.create(3) as writer, store.get(store.put(b"x")) as buf:
        for made in (writer, buf):
            new: Any = type(made).__new__(type(made))
            for use in (memoryview, len, bytes, lambda one: one.__enter__()):
                with pytest.raises((ValueError, refstore.RefstoreError)):
                    use(new)


def test_the_repr_tells_what_it_is(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        assert "PinnedBuffer" in repr(buf)
    assert "closed" in repr(buf).lower()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 688 came with Python 3.12")
def test_a_buffer_is_a_buffer_to_isinstance(store: refstore.Store) -> None:
    with store.get(store.put(b"x")) as buf:
        assert isinstance(buf, collections.abc.Buffer)  # type: ignore[attr-defined, unused-ignore]


@pytest.mark.native("it is about how the core allocates them")
def test_a_buffer_is_allocated_from_its_bases_free_list(store: refstore.Store) -> None:
    with store.get(store.put(b"x")) as buf:
        (base,) = type(buf).__bases__
        assert type(buf).__basicsize__ == base.__basicsize__
