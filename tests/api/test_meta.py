"""`meta=`: bytes of the caller's own beside an object, out of its payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest
import workers
from children import child_process

import refstore

MakeStore = Callable[..., refstore.Store]
LENGTHS = [0, 1, 255, 256, 257, 4096, 65_535, 65_536]
OBJECTS: list[Any] = [b"", b"abc", bytes(100_000), np.ones((3, 4)), {"a": np.zeros(1000)}]
LONG_TYPE = np.dtype([(f"field {i}", "i4") for i in range(300)])  # a long description


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: type(obj).__name__)
def test_meta_comes_back(store: refstore.Store, obj: Any, length: int) -> None:
    meta = helpers.pattern(length, length)
    plain, ref = store.put(obj), store.put(obj, meta=meta)
    with store.get(ref) as buf, store.get(plain) as without:
        assert buf.meta == meta
        assert isinstance(buf.meta, bytes)
        assert without.meta == b""
        assert (buf.nbytes, bytes(buf)) == (without.nbytes, bytes(without))
        assert buf.header == without.header
    assert store.info(ref).nbytes == store.info(plain).nbytes


@pytest.mark.parametrize("length", LENGTHS)
def test_meta_beside_a_long_description(store: refstore.Store, length: int) -> None:
    meta, array = helpers.pattern(length, length), np.ones(7, LONG_TYPE)
    with store.get(store.put(array, meta=meta)) as buf:
        assert buf.meta == meta
        assert np.array_equal(buf.array, array)


def test_short_meta_lies_outside_of_the_capacity(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    ref = store.put(bytes(store.capacity), meta=b"m" * 256)
    assert store.info(ref).block_nbytes == store.capacity
    with store.get(ref) as buf:
        assert buf.meta == b"m" * 256


def test_long_meta_lies_in_the_block(store: refstore.Store) -> None:
    short, long = (store.info(store.put(bytes(64), meta=b"m" * n)) for n in (256, 60_000))
    assert short.block_nbytes < 1000
    assert long.block_nbytes >= 60_064
    assert short.nbytes == long.nbytes == 64


def test_meta_that_has_no_room_is_an_error(make_store: MakeStore) -> None:
    store = make_store("64KiB")
    for timeout in 0, None:  # there is nothing to wait for
        with pytest.raises(refstore.StoreFullError, match="with description and meta, it is"):
            store.put(b"x" * 100, meta=b"m" * 65_536, timeout=timeout)
    assert helpers.usage(store) == (0, 0, 0, 0)


@pytest.mark.parametrize("length", LENGTHS)
def test_meta_of_a_writer(store: refstore.Store, length: int) -> None:
    meta = helpers.pattern(length, length)
    with store.create(1000, meta=meta) as writer:
        writer.write_at(0, helpers.pattern(1, 1000))
    with store.get(writer.ref) as buf:
        assert (buf.meta, bytes(buf)) == (meta, helpers.pattern(1, 1000))


def test_meta_of_an_earlier_object_is_gone(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=1)
    for meta in (b"m" * 256, b"", b"n" * 1000, b"n" * 10):
        ref = store.put(b"x", meta=meta)
        with store.get(ref) as buf:
            assert buf.meta == meta
        store.delete(ref)


def test_meta_of_what_replaces(store: refstore.Store) -> None:
    store.put(b"old", name="n", meta=b"step 1")
    store.put(b"new", name="n", meta=b"step 2", replace=True)
    with store["n"] as buf:
        assert (bytes(buf), buf.meta) == (b"new", b"step 2")
    store["n"] = b"newer"
    with store["n"] as buf:
        assert buf.meta == b""


def test_meta_lives_as_long_as_the_pin(store: refstore.Store) -> None:
    ref = store.put(b"abc", meta=b"m" * 1000)
    with store.get(ref) as buf:
        store.delete(ref)
        helpers.fill_with_junk(store)
        assert buf.meta == b"m" * 1000


def test_meta_of_a_private_view(store: refstore.Store) -> None:
    with store.get(store.put(bytes(100_000), meta=b"m"), writable=True) as buf:
        helpers.flat(buf)[:] = 1
        assert buf.meta == b"m"


def test_meta_goes_to_other_processes(store: refstore.Store, path: str) -> None:
    ref = store.put(b"abc", meta=b"from the parent" * 100)
    with child_process(path) as child:
        assert child.do(workers.meta_of, ref) == b"from the parent" * 100
    with store.get(ref) as buf:

        def look() -> None:
            assert buf.meta == b"from the parent" * 100

        assert helpers.forked(look) == 0


@pytest.mark.parametrize("meta", ["text", 5, None, bytearray(b"m"), np.zeros(3)], ids=str)
def test_meta_is_bytes(store: refstore.Store, meta: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(b"x", meta=meta),
        lambda: store.create(3, meta=meta),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"meta is .*: give bytes"):
            call()
    assert helpers.usage(store) == (0, 0, 0, 0)


def test_meta_has_a_limit(store: refstore.Store) -> None:
    with pytest.raises(ValueError, match="meta has 65537 bytes: it can have 65536"):
        store.put(b"x", meta=bytes(65_537))
    assert helpers.usage(store) == (0, 0, 0, 0)


def test_meta_may_be_of_a_subclass_of_bytes(store: refstore.Store) -> None:
    with store.get(store.put(b"x", meta=np.bytes_(b"meta"))) as buf:
        assert (type(buf.meta), buf.meta) == (bytes, b"meta")
