"""`create`: written in place, seen by nobody before the seal, gone without a trace if it fails."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import helpers
import numpy as np
import pytest

import refstore


def test_room_by_bytes_is_written_and_sealed(store: refstore.Store) -> None:
    data = helpers.pattern(1, 1000)
    with store.create(1000) as writer, memoryview(writer) as view:
        assert not view.readonly
        assert view.nbytes == 1000
        view.cast("B")[:] = data
    with store.get(writer.ref) as buf:
        assert (buf.kind, bytes(buf)) == ("bytes", data)
    assert store.refcount(writer.ref) == 1


def test_room_by_shape_is_written_as_an_array(store: refstore.Store) -> None:
    with store.create(shape=(30, 40), dtype="f4") as writer:
        assert writer.array.shape == (30, 40)
        assert writer.array.dtype == np.float32
        assert writer.array.flags.writeable
        writer.array[:] = np.arange(1200).reshape(30, 40)
    with store.get(writer.ref) as buf:
        assert buf.kind == "array"
        assert buf.array.dtype == np.float32
        assert np.array_equal(buf.array, np.arange(1200).reshape(30, 40))


@pytest.mark.parametrize(
    "dtype", ["i4", ">f8", "M8[ns]", "S7", "U3", "?", "c16", "e", "i4,f8", [("a", "i1", (2, 3))]]
)
def test_room_for_every_sort_of_dtype(store: refstore.Store, dtype: Any) -> None:
    expected = np.zeros((3, 5), dtype)
    with store.create(shape=(3, 5), dtype=dtype) as writer:
        assert writer.array.dtype == np.dtype(dtype)
        writer.array[...] = expected
    with store.get(writer.ref) as buf:
        assert buf.array.dtype == np.dtype(dtype)
        assert buf.array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 32, (2,) * 8])
def test_room_of_any_shape(store: refstore.Store, shape: tuple[int, ...]) -> None:
    with store.create(shape=shape, dtype="f8") as writer:
        writer.array[...] = 2.5
    with store.get(writer.ref) as buf:
        assert buf.array.shape == shape
        assert np.array_equal(buf.array, np.full(shape, 2.5))


def test_room_of_no_bytes(store: refstore.Store) -> None:
    with store.create(0) as writer:
        assert memoryview(writer).nbytes == 0
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b""


def test_the_room_is_in_the_store_and_aligned(store: refstore.Store, path: str) -> None:
    for size in (64, 100, 5000, 1_000_000):
        with store.create(size) as writer:
            assert helpers.address_of(writer) % 64 == 0
            assert helpers.lies_in(path, helpers.address_of(writer))


def test_seal_returns_the_ref(store: refstore.Store) -> None:
    writer = store.create(shape=(10,), dtype="i4")
    writer.array[:] = 7
    ref = writer.seal()
    assert isinstance(ref, refstore.ObjectRef)
    assert ref == writer.ref
    with store.get(ref) as buf:
        assert buf.array.tolist() == [7] * 10


def test_a_seal_within_with_is_enough(store: refstore.Store) -> None:
    with store.create(10, name="n") as writer:
        ref = writer.seal()
        assert store.ref("n") == ref
    assert writer.ref == ref
    assert len(store) == 1


# -- nobody sees it before the seal -----------------------------------------------------------


def test_an_unsealed_object_is_not_visible(store: refstore.Store) -> None:
    with store.create(1000, name="hidden"):
        assert len(store) == 0
        assert list(store) == []
        assert list(store.names()) == []
        assert "hidden" not in store
        with pytest.raises(refstore.ObjectNotFoundError, match="hidden"):
            store.get("hidden")
        with pytest.raises(refstore.ObjectNotFoundError, match="hidden"):
            store.delete("hidden")
    assert list(store.names()) == ["hidden"]


def test_an_unsealed_object_takes_room(store: refstore.Store) -> None:
    with store.create(store.capacity):
        assert store.stats().used >= store.capacity
        with pytest.raises(refstore.StoreFullError):
            store.put(b"x")


def test_the_old_object_stands_until_the_seal(store: refstore.Store) -> None:
    store["n"] = b"old"
    with store.create(3, name="n", replace=True) as writer:
        memoryview(writer)[:] = b"new"
        assert bytes(store["n"]) == b"old"
    assert bytes(store["n"]) == b"new"
    assert len(store) == 1


# -- after the seal ---------------------------------------------------------------------------


def test_the_array_becomes_read_only(store: refstore.Store) -> None:
    with store.create(shape=(100,), dtype="i4") as writer:
        writer.array[:] = 1
    assert not writer.array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        writer.array[0] = 2


def test_an_array_taken_before_the_seal_becomes_read_only(store: refstore.Store) -> None:
    with store.create(shape=(100,), dtype="i4") as writer:
        array = writer.array
        array[:] = 1
    assert not array.flags.writeable


@pytest.mark.parametrize("by_array", [False, True])
def test_a_view_the_writer_kept_pins_the_block(store: refstore.Store, by_array: bool) -> None:
    with store.create(shape=(5000,), dtype="u4") as writer:
        writer.array[:] = np.arange(5000)
        view: Any = writer.array[10:] if by_array else memoryview(writer)[10:]
    ref = writer.ref
    expected = view.tobytes()
    del writer
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert view.tobytes() == expected
    assert store.stats().condemned == 1
    del view
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


def test_a_sealed_writer_without_views_pins_nothing(store: refstore.Store) -> None:
    with store.create(shape=(5000,), dtype="u4") as writer:
        writer.array[:] = 1
    assert store.refcount(writer.ref) == 1
    store.delete(writer.ref)
    helpers.assert_full_capacity_fits(store)


# -- it fails, and leaves nothing -------------------------------------------------------------


def test_an_exception_gives_the_room_back(store: refstore.Store) -> None:
    before = helpers.usage(store)
    with pytest.raises(KeyError, match="mine"), store.create(10_000, name="never"):
        raise KeyError("mine")
    assert helpers.usage(store) == before
    assert "never" not in store


def test_abort_gives_the_room_back(store: refstore.Store) -> None:
    before = helpers.usage(store)
    writer = store.create(10_000, name="never")
    writer.abort()
    assert helpers.usage(store) == before
    assert "never" not in store
    with store.create(10_000, name="never") as inner:
        inner.abort()
    assert helpers.usage(store) == before
    assert "never" not in store


def test_a_writer_that_is_dropped_gives_the_room_back(store: refstore.Store) -> None:
    before = helpers.usage(store)
    writer = store.create(10_000, name="never")
    assert helpers.usage(store) != before
    del writer
    gc.collect()
    assert helpers.usage(store) == before
    assert "never" not in store


def test_an_aborted_writer_refuses_use(store: refstore.Store) -> None:
    writer = store.create(shape=(10,), dtype="i4")
    writer.abort()
    with pytest.raises(ValueError, match=r"(?i)abort|closed"):
        writer.seal()
    with pytest.raises(ValueError, match=r"(?i)abort|closed"):
        memoryview(writer)
    with pytest.raises(ValueError, match=r"(?i)abort|closed"):
        _ = writer.array
    writer.abort()
    assert len(store) == 0


def test_abort_after_the_seal_takes_nothing_back(store: refstore.Store) -> None:
    with store.create(3, name="n") as writer:
        memoryview(writer)[:] = b"yes"
    with contextlib.suppress(ValueError):
        writer.abort()
    assert bytes(store["n"]) == b"yes"


def test_a_view_of_an_aborted_writer_keeps_its_block(store: refstore.Store) -> None:
    writer = store.create(shape=(5000,), dtype="u4")
    array, view = writer.array, memoryview(writer)
    array[:] = np.arange(5000)
    writer.abort()
    del writer
    helpers.fill_with_junk(store)
    assert np.array_equal(array, np.arange(5000))
    assert view.tolist() == list(range(5000))
    del array, view
    gc.collect()
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


def test_a_write_through_a_view_of_an_aborted_writer_hits_nobody(store: refstore.Store) -> None:
    writer = store.create(100_000)
    view = memoryview(writer)
    writer.abort()
    others = [store.put(helpers.pattern(i, 100_000)) for i in range(100)]
    view[:] = b"\xdd" * 100_000
    for i, ref in enumerate(others):
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(i, 100_000)


# -- names ------------------------------------------------------------------------------------


def test_a_taken_name_is_refused_at_create(store: refstore.Store) -> None:
    store["n"] = b"first"
    before = helpers.usage(store)
    with pytest.raises(refstore.ObjectExistsError, match="n"):
        store.create(10, name="n")
    assert helpers.usage(store) == before


def test_a_name_taken_meanwhile_is_refused_at_the_seal(store: refstore.Store) -> None:
    writer = store.create(10_000, name="n")
    ref = store.put(b"first", name="n")
    before = store.stats().objects
    with pytest.raises(refstore.ObjectExistsError, match="n"):
        writer.seal()
    del writer
    gc.collect()
    assert store.ref("n") == ref
    assert store.stats().objects == before
    store.delete("n")
    assert store.stats().used == 0


def test_a_name_taken_meanwhile_is_refused_on_leaving(store: refstore.Store) -> None:
    with pytest.raises(refstore.ObjectExistsError, match="n"), store.create(10, name="n"):
        store.put(b"first", name="n")
    assert bytes(store["n"]) == b"first"
    assert len(store) == 1


def test_two_writers_of_one_name_race_fairly(store: refstore.Store) -> None:
    first, second = store.create(1, name="n"), store.create(1, name="n")
    memoryview(first)[:], memoryview(second)[:] = b"1", b"2"
    second.seal()
    with pytest.raises(refstore.ObjectExistsError, match="n"):
        first.seal()
    assert bytes(store["n"]) == b"2"


def test_a_name_may_be_of_a_subclass_of_str(store: refstore.Store) -> None:
    """As it may for put()."""

    class Name(str):
        __slots__ = ()

    for name in (np.str_("a"), Name("b")):
        for replace in (False, True):
            with store.create(3, name=name, replace=replace) as writer:
                memoryview(writer)[:] = b"%d %d" % (replace, len(store))
            assert store.ref(str(name)) == writer.ref
    assert sorted(store.names()) == ["a", "b"]
    assert [type(name) for name in store.names()] == [str, str]


def test_replace_gives_the_earlier_room_back(store: refstore.Store) -> None:
    for value in range(50):
        with store.create(shape=(100_000,), dtype="u1", name="n", replace=True) as writer:
            writer.array[:] = value
    assert len(store) == 1
    assert store["n"].array[0] == 49
    assert store.stats().used < 200_000


# -- bad arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"nbytes": 10, "shape": (2,), "dtype": "i4"},
        {"nbytes": -1},
        {"nbytes": "ten"},
        {"nbytes": 2.5},
        {"shape": (-1,), "dtype": "i4"},
        {"shape": (2, "x"), "dtype": "i4"},
        {"shape": (2,), "dtype": "no such type"},
        {"shape": (1,) * 65, "dtype": "i4"},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(store: refstore.Store, arguments: dict[str, Any]) -> None:
    before = helpers.usage(store)
    with pytest.raises((TypeError, ValueError)):
        store.create(**arguments)
    assert helpers.usage(store) == before


@pytest.mark.parametrize(
    "dtype", ["O", np.dtype([("a", "i4"), ("b", "O")]), np.dtypes.StringDType()], ids=str
)
def test_room_for_python_objects_is_refused(store: refstore.Store, dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"(?i)object|dtype"):
        store.create(shape=(3,), dtype=dtype)
    assert store.stats().used == 0


@pytest.mark.parametrize("nbytes", [2**24 + 1, 2**62, 2**63, 2**64, 2**100])
def test_room_beyond_the_capacity_is_refused(store: refstore.Store, nbytes: int) -> None:
    said = nbytes if nbytes < 2**62 else f"{2**62} or more"
    with pytest.raises(refstore.StoreFullError, match=f"no room for {said} bytes"):
        store.create(nbytes, name="never")
    assert store.stats().used == 0
    assert "never" not in store


@pytest.mark.parametrize("shape", [(2**25,), (2**40, 2**40), (2**62, 4), (2**63,), (2**21, 8, 0)])
def test_a_shape_beyond_the_capacity_is_refused(
    store: refstore.Store, shape: tuple[int, ...]
) -> None:
    if 0 in shape:
        with store.create(shape=shape, dtype="f8") as writer:
            assert writer.array.size == 0
        return
    with pytest.raises((refstore.StoreFullError, ValueError)):
        store.create(shape=shape, dtype="f8")
    assert store.stats().used == 0


def test_an_unsealed_writer_has_no_ref(store: refstore.Store) -> None:
    with store.create(10) as writer, pytest.raises((ValueError, AttributeError)):
        _ = writer.ref
