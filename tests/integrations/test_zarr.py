"""`RefstoreStore`: what is copied, what is a key, what other processes see, who may die when."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import byte_objects
import documented
import helpers
import numpy as np
import page_blocks
import pytest
import zarrs
from children import child_process, clear_up_after_the_dead
from libraries import Late, needed

import refstore

zarr: Any = pytest.importorskip("zarr")
abc: Any = pytest.importorskip("zarr.abc.store")
buffers: Any = pytest.importorskip("zarr.core.buffer")
testing: Any = pytest.importorskip("zarr.testing.buffer")
ours: Any = pytest.importorskip("refstore.zarr")
xarray: Any = Late("xarray")

RefstoreStore, cpu = ours.RefstoreStore, buffers.cpu

IMPOSSIBLE = ["", "x" * 256, "ä" * 128, "\ud800"]
LARGE = bytes(1 << 20)  # as of refstore.aio


@pytest.fixture(autouse=True, scope="module")
def no_threads_left() -> Iterator[None]:
    yield
    zarrs.end_threads()


@pytest.fixture
def keys(store: refstore.Store) -> Any:
    return RefstoreStore(store)


def run(coroutine: Any) -> Any:
    async def wait() -> Any:
        return await coroutine

    return asyncio.run(wait())


def listed(keys: Any, prefix: str = "") -> list[str]:
    return sorted(zarrs.collected(keys.list_prefix(prefix)))


def children(keys: Any, prefix: str = "") -> list[str]:
    return sorted(zarrs.collected(keys.list_dir(prefix)))


def buffer(data: bytes) -> Any:
    return cpu.Buffer.from_bytes(data)


# -- values


@pytest.mark.parametrize(
    ("byte_range", "start", "stop"),
    [
        (None, 0, 5000),
        (abc.RangeByteRequest(64, 200), 64, 200),
        (abc.RangeByteRequest(4900, 9000), 4900, 5000),
        (abc.OffsetByteRequest(4000), 4000, 5000),
        (abc.SuffixByteRequest(10), 4990, 5000),
        (abc.SuffixByteRequest(9000), 0, 5000),
    ],
)
def test_a_value_is_read_where_it_lies(
    store: refstore.Store, keys: Any, byte_range: Any, start: int, stop: int
) -> None:
    data = helpers.pattern(1, 5000)
    store.put(data, name="c/0")
    value = run(keys.get("c/0", byte_range=byte_range))
    array = value.as_numpy_array()
    assert value.to_bytes() == data[start:stop]
    assert helpers.lies_in(store.path, helpers.address(array))
    assert not array.flags.writeable


def test_a_value_is_whole_as_long_as_it_is_kept(store: refstore.Store, keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"a" * 100_000))
    value = keys.get_sync("c/0", byte_range=abc.OffsetByteRequest(50_000))
    assert store.refcount("c/0") == 2
    keys.delete_sync("c/0")
    assert listed(keys) == []
    helpers.fill_with_junk(store)
    assert value is not None
    assert value.to_bytes() == b"a" * 50_000
    del value
    assert store.stats().used == 0


def test_it_is_of_the_class_that_the_prototype_names(keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"abc"))
    prototype = buffers.BufferPrototype(buffer=testing.TestBuffer, nd_buffer=cpu.NDBuffer)
    assert type(run(keys.get("c/0", prototype))) is testing.TestBuffer


def test_a_value_that_does_not_fit_leaves_the_old_one(store: refstore.Store, keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"old"))
    before = helpers.usage(store)
    for data in (bytes(store.capacity), LARGE * 16):
        with pytest.raises(refstore.StoreFullError):
            run(keys.set("c/0", buffer(data)))
    assert helpers.usage(store) == before
    assert store["c/0"].value == b"old"


def test_large_values_and_listings_do_not_hold_up_the_loop(keys: Any) -> None:
    async def other_tasks_run_during(call: Callable[[], Awaitable[object]]) -> bool:
        order = []

        async def first() -> None:
            await call()
            order.append("the call")

        async def other() -> None:
            order.append("other")

        await asyncio.gather(first(), other())
        return order == ["other", "the call"]

    async def collected() -> None:
        async for _ in keys.list():
            pass

    large = buffer(LARGE)
    for call in (
        lambda: keys.set("c/0", large),
        lambda: keys.set_if_not_exists("c/1", large),
        collected,
        lambda: keys.is_empty(""),
        lambda: keys.getsize_prefix(""),
        lambda: keys.delete_dir(""),
    ):
        assert asyncio.run(other_tasks_run_during(call))


def test_what_is_no_buffer_is_refused(keys: Any) -> None:
    for call in (keys.set, keys.set_if_not_exists):
        with pytest.raises(TypeError, match="a value is a zarr Buffer, not bytes"):
            run(call("c/0", b"abc"))
    with pytest.raises(TypeError, match="give it refstore"):
        RefstoreStore("name")


# -- keys


def test_objects_of_other_kinds_are_no_keys(store: refstore.Store, keys: Any) -> None:
    store.put(np.ones(3), name="a/array")
    store.put({}, name="b/object")
    store.put(b"nameless")
    assert of_claimed("a/claimed", store, lambda: listed(keys) + children(keys, "a")) == []
    for name in ("a/array", "b/object"):
        assert not run(keys.exists(name))
        assert keys.get_sync(name) is None
        assert run(keys.get_partial_values(None, [(name, None)])) == [None]
        keys.delete_sync(name)
        with pytest.raises(FileNotFoundError):
            run(keys.getsize(name))
        run(keys.set_if_not_exists(name, buffer(b"x")))
    assert run(keys.is_empty(""))
    run(keys.clear())
    assert len(store) == 3
    keys.set_sync("a/array", buffer(b"abc"))
    assert listed(keys) == ["a/array"]


def test_only_names_have_values_and_anything_can_be_asked_for(keys: Any) -> None:
    for key in IMPOSSIBLE:
        assert keys.get_sync(key) is None
        assert not run(keys.exists(key))
        keys.delete_sync(key)
        with pytest.raises(ValueError, match=r"^a name "):
            run(keys.set(key, buffer(b"x")))


def test_children_of_large_and_mixed_folders(store: refstore.Store, keys: Any) -> None:
    count = 2 * ours.LOOKS
    for i in range(count):
        store.put(b"x" if i % 2 else np.ones(1), name=f"c/{i}")
    store.put_many([b""] * count, names=[f"deep/{i}/zarr.json" for i in range(count)])
    store.put_many([1] * count, names=[f"objects/{i}" for i in range(count)])
    assert children(keys) == ["c", "deep"]
    assert children(keys, "c") == sorted(str(i) for i in range(1, count, 2))
    assert children(keys, "deep/") == sorted(map(str, range(count)))


def test_a_folder_is_none_of_those_whose_names_begin_alike(keys: Any) -> None:
    for key in ("a/0", "ab/0", "ab/1"):
        keys.set_sync(key, buffer(b"xy"))
    assert run(keys.getsize_prefix("a")) == 2
    assert run(keys.getsize_prefix("")) == 6
    assert run(keys.is_empty("a/1"))
    run(keys.delete_dir("a"))
    assert listed(keys) == ["ab/0", "ab/1"]


def test_a_value_that_is_set_meanwhile_is_not_deleted(store: refstore.Store, keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"old"))
    with byte_objects.replaced_when_found(b"new"):
        keys.delete_sync("c/0")
    assert store["c/0"].value == b"new"


def of_claimed(name: str, store: refstore.Store, look: Callable[[], Any]) -> Any:
    """What a look at a store finds while a name is claimed."""
    with store.create(3, name=name, claim=True) as writer:
        found = look()
        writer.abort()
    return found


def test_a_key_that_is_claimed_is_not_set(store: refstore.Store, keys: Any) -> None:
    def refuse() -> None:
        for call in (keys.set, keys.set_if_not_exists):
            with pytest.raises(refstore.ObjectExistsError, match="is claimed by process"):
                run(call("c/0", buffer(b"x")))

    of_claimed("c/0", store, refuse)
    assert listed(keys) == []


def test_read_only_means_all_of_it(store: refstore.Store, keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"abc"))
    reader = RefstoreStore(store, read_only=True)
    calls: list[Callable[[], Any]] = [
        lambda: run(reader.set("c/0", buffer(b"x"))),
        lambda: run(reader.set_if_not_exists("c/1", buffer(b"x"))),
        lambda: run(reader.delete("c/0")),
        lambda: run(reader.delete_dir("")),
        lambda: run(reader.clear()),
        lambda: reader.set_sync("c/0", buffer(b"x")),
        lambda: reader.delete_sync("c/0"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="read-only mode"):
            call()
    assert listed(reader) == ["c/0"]


def test_equal_ones_are_of_one_store_and_mode(make_store: Any) -> None:
    store, other = make_store(), make_store(name="other")
    with refstore.Store(store.path) as again:
        assert RefstoreStore(store) == RefstoreStore(again)
    assert RefstoreStore(store) != RefstoreStore(store, read_only=True)
    assert RefstoreStore(store) != RefstoreStore(other)
    assert RefstoreStore(store) != store


def test_a_closed_store_refuses_all(store: refstore.Store, keys: Any) -> None:
    same = RefstoreStore(store)
    keys.close()
    assert not run(keys.exists("c/0")), "zarr's close() does not close the store"
    store.close()
    for call in (
        lambda: keys.get_sync("c/0"),
        lambda: run(keys.exists("c/0")),
        lambda: keys.set_sync("c/0", buffer(b"x")),
        lambda: listed(keys),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert keys == same
    assert "closed" in repr(keys)


# -- arrays


def test_shards_are_read_and_written_in_part(store: refstore.Store, keys: Any) -> None:
    array = zarr.create_array(keys, shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="f4")
    array[:] = 1
    array[3:20, 5:40] = 2
    assert array[:].sum() == 64 * 64 + 17 * 35
    assert listed(keys, "c") == ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]
    assert helpers.eventually(lambda: helpers.is_unpinned(store))


@needed("xarray")
@pytest.mark.parametrize(
    "consolidated",
    [False, pytest.param(True, marks=pytest.mark.filterwarnings("ignore:Consolidated"))],
)
def test_xarray_writes_appends_and_opens_it(keys: Any, consolidated: bool) -> None:
    data = xarray.Dataset(
        {"t": (("time", "x"), np.arange(20.0).reshape(4, 5))}, coords={"time": np.arange(4)}
    )
    data.to_zarr(keys, group="run", consolidated=consolidated)
    data.assign_coords(time=np.arange(4, 8)).to_zarr(
        keys, group="run", append_dim="time", consolidated=consolidated
    )
    reader = RefstoreStore(keys.store, read_only=True)
    again = xarray.open_zarr(reader, group="run", consolidated=consolidated, chunks=None)
    assert np.array_equal(again.t, np.concatenate([data.t, data.t]))
    assert again.time.values.tolist() == list(range(8))


# -- processes


def test_a_pickle_attaches_to_the_same_store(store: refstore.Store, keys: Any) -> None:
    keys.set_sync("key", buffer(b"abc"))
    reader = keys.with_read_only(True)
    with child_process(None) as child:
        assert child.do(zarrs.of_pickle, reader) == (store.path, True, b"abc")
    again = pickle.loads(pickle.dumps(keys))
    assert again == keys
    again.store.close()


def test_other_processes_see_whole_chunks(store: refstore.Store, keys: Any) -> None:
    array = zarr.create_array(
        keys, name="a", shape=40_000, chunks=20_000, dtype="f8", compressors=None
    )
    array[:] = -1
    with child_process(store) as child:
        for value in range(1, 8):
            child.tell(zarrs.fill, "a", value)
            seen = array[:]
            assert {len(set(chunk)) for chunk in np.split(seen, 2)} == {1}
            assert child.answer() is None
        assert child.do(zarrs.sum_of, "a") == 7 * 40_000


def test_a_killed_reader_leaves_nothing_pinned(store: refstore.Store, path: str, keys: Any) -> None:
    keys.set_sync("c/0", buffer(bytes(100_000)))
    with child_process(store) as child:
        assert child.do(zarrs.hold, "c/0") == 100_000
        keys.delete_sync("c/0")
        assert store.stats().condemned == 1
        child.kill()
    store.recover()
    assert store.stats().used == 0


def test_a_killed_writer_leaves_whole_chunks(store: refstore.Store, path: str, keys: Any) -> None:
    array = zarr.create_array(
        keys, name="a", shape=1_000_000, chunks=100_000, dtype="f8", compressors=None
    )
    array[:] = 1
    with child_process(store) as child:
        ref = store.ref("a/c/0")
        child.tell(zarrs.fill, "a", 2)
        store.wait("a/c/0", newer_than=ref, timeout=helpers.BUSY_TIMEOUT).release()
        child.kill()
    clear_up_after_the_dead(path)
    seen = array[:]
    assert {len(set(chunk)) for chunk in np.split(seen, 10)} == {1}
    assert set(seen) <= {1, 2}
    assert helpers.eventually(lambda: helpers.is_unpinned(store))
    assert len(store) == len(listed(keys)) == 12, "chunks, the array and its group"


def test_a_forked_child_uses_what_it_inherits(keys: Any) -> None:
    keys.set_sync("c/0", buffer(b"of the parent"))
    value = keys.get_sync("c/0")
    assert value is not None

    def work() -> None:
        assert value.to_bytes() == b"of the parent"
        keys.set_sync("c/1", buffer(b"of the child"))

    zarrs.end_threads()
    assert helpers.forked(work) == 0
    assert keys.store["c/1"].value == b"of the child"


# -- the module


@needed("xarray")
def test_the_page_works_as_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    assert page_blocks.run("integrations/zarr.md") == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "member", [RefstoreStore, RefstoreStore.store, RefstoreStore.with_read_only]
)
def test_the_examples_run(member: Any, store: refstore.Store) -> None:
    documented.run_examples("RefstoreStore", member, store)
