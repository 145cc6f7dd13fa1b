"""What one process puts, another one gets: by ref, by name, by a store sent through a pipe."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import engines
import helpers
import numpy as np
import pytest
import workers
from children import RemoteError, Session, child_process, child_processes, clear_up_after_the_dead
from helpers import START_METHODS

import refstore


@pytest.mark.parametrize("method", START_METHODS)
def test_a_store_handed_to_a_child_is_the_same_store(store: refstore.Store, method: str) -> None:
    ref = store.put(helpers.pattern(1, 100_000))
    store["named"] = b"by name"
    with child_process(store, method) as child:
        assert child.do(workers.read, ref) == helpers.pattern(1, 100_000)
        assert child.do(workers.read, "named") == b"by name"
        back = child.do(workers.put, helpers.pattern(2, 50_000), "from the child")
        assert isinstance(back, refstore.ObjectRef)
        assert store.ref("from the child") == back
        with store.get(back) as buf:
            assert bytes(buf) == helpers.pattern(2, 50_000)
        assert store.stats().processes == child.do(workers.processes) == 2
    assert store.stats().processes == 1
    with store.get(back) as buf:
        assert bytes(buf) == helpers.pattern(2, 50_000), "it outlives its maker"


@pytest.mark.parametrize("method", START_METHODS)
def test_a_pickled_store_attaches_in_a_child(store: refstore.Store, method: str) -> None:
    store.put(b"x")
    with child_process(None, method) as child:
        assert child.do(workers.unpickle_store, pickle.dumps(store)) == 1
        store.put(b"y")
        assert child.do(workers.unpickle_store, pickle.dumps(store)) == 2


@pytest.mark.parametrize("method", START_METHODS)
def test_a_child_attaches_by_path(store: refstore.Store, path: str, method: str) -> None:
    ref = store.put(b"x" * 5000)
    with child_process(path, method) as child:
        assert child.do(workers.read, ref) == b"x" * 5000


@pytest.mark.parametrize("method", START_METHODS)
def test_a_held_buffer_goes_to_a_child_by_fork_alone(
    store: refstore.Store, path: str, method: str
) -> None:
    data = helpers.pattern(1, 100_000)
    ref = store.put(data)
    buf = store.get(ref)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context(method)
    child = context.Process(  # type: ignore[attr-defined]
        target=workers.read_when_told, args=(theirs, buf)
    )
    if method == "fork":
        with helpers.forking_on_purpose():
            child.start()
        buf.release()
        store.delete(ref)
        helpers.fill_with_junk(store)
        ours.send("read")
        assert ours.recv() == data
        child.join(helpers.BUSY_TIMEOUT)
        assert child.exitcode == 0
    else:
        with pytest.raises(TypeError, match="pickle"):
            child.start()
        assert store.refcount(ref) == 2
        buf.release()
        store.delete(ref)
    ours.close()
    theirs.close()
    clear_up_after_the_dead(path)
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


def test_a_store_pickled_by_a_relative_path_is_found_from_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with refstore.Store("./here", capacity="1MiB") as store:
        store.put(b"x")
        with child_process(None) as child:
            assert child.do(workers.unpickle_store, pickle.dumps(store)) == 1
        store.unlink()


def test_a_pickled_store_that_is_gone_is_an_error_in_the_child(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as store:
        dumped = pickle.dumps(store)
        store.unlink()
    with child_process(None) as child:
        with pytest.raises(RemoteError, match="FileNotFoundError"):
            child.do(workers.unpickle_store, dumped)
        with refstore.Store(path, capacity="1MiB") as second:
            with pytest.raises(RemoteError, match="StoreVersionError"):
                child.do(workers.unpickle_store, dumped)
            second.unlink()


def test_refs_travel_through_pipes(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(10)]
    with child_process(None, "spawn") as child:
        assert child.do(workers.give_back, refs) == refs
        assert child.do(workers.give_back, {refs[0]: "key"}) == {refs[0]: "key"}


def test_refcount_counts_the_pins_of_all_processes(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    with child_processes(3, path) as children:
        for count, child in enumerate(children, start=2):
            child.do(workers.hold, ref)
            assert store.refcount(ref) == count
        with store.get(ref):
            assert children[0].do(workers.refcount, ref) == 5
        children[1].do(workers.drop)
        assert store.refcount(ref) == 3
        assert store.stats().pinned == 1
    assert store.refcount(ref) == 1


def test_an_object_deleted_here_stays_for_a_reader_there(store: refstore.Store, path: str) -> None:
    data = helpers.pattern(1, 200_000)
    ref = store.put(data)
    with child_process(path) as child:
        child.do(workers.hold, ref)
        store.delete(ref)
        with pytest.raises(RemoteError, match="ObjectNotFoundError"):
            child.do(workers.read, ref)
        helpers.fill_with_junk(store)
        assert child.do(workers.show) == data
        assert store.stats().condemned == 1
        with pytest.raises(refstore.StoreFullError) as caught:
            store.put(bytes(store.capacity))
        assert child.pid in [holder.pid for holder in caught.value.holders]
        assert str(child.pid) in str(caught.value)
        child.do(workers.drop)
        assert store.stats().condemned == 0
        helpers.assert_full_capacity_fits(store)


def test_a_view_there_outlives_its_buffer_there(store: refstore.Store, path: str) -> None:
    data = helpers.pattern(1, 2000)
    ref = store.put(data)
    with child_process(path) as child:
        child.do(workers.hold_view, ref)
        store.delete(ref)
        helpers.fill_with_junk(store)
        assert child.do(workers.show, "view") == data
        child.do(workers.close)
        helpers.fill_with_junk(store)
        assert child.do(workers.show, "view") == data
        assert store.stats().condemned == 1
        child.do(workers.drop, "view")
        assert store.stats().condemned == 0
        helpers.assert_full_capacity_fits(store)


@pytest.mark.parametrize("size", [1, 100, 5000, 300_000])
def test_private_writes_are_seen_by_no_other_process(
    store: refstore.Store, path: str, size: int
) -> None:
    data = helpers.pattern(size, size)
    ref = store.put(data)
    with child_processes(2, path) as (writer, reader):
        writer.do(workers.hold_writable, ref, 0xAA)
        assert writer.do(workers.show, "view") == b"\xaa" * size
        assert reader.do(workers.read, ref) == data
        with store.get(ref) as buf:
            assert bytes(buf) == data
        assert store.refcount(ref) == 2
        neighbour = store.put(helpers.pattern(1, size))
        assert writer.do(workers.read, neighbour) == helpers.pattern(1, size)
        assert writer.do(workers.show, "view") == b"\xaa" * size


def test_an_unsealed_object_is_seen_by_no_other_process(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        child.do(workers.begin, 100_000, "hidden")
        assert "hidden" not in store
        assert len(store) == 0
        assert list(store.names()) == []
        assert store.stats().used >= 100_000
        with pytest.raises(refstore.ObjectNotFoundError):
            store.get("hidden")
        ref = child.do(workers.seal)
        assert store.ref("hidden") == ref
        with store.get(ref) as buf:
            assert bytes(buf)[:50_000] == b"\xbb" * 50_000


def test_a_name_taken_by_another_process_is_refused_at_the_seal(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as child:
        child.do(workers.begin, 1000, "n")
        store.put(b"first", name="n")
        with pytest.raises(RemoteError, match="ObjectExistsError"):
            child.do(workers.seal)
        assert bytes(store["n"]) == b"first"
        assert len(store) == 1


def test_an_array_written_there_is_read_here_without_a_copy(
    store: refstore.Store, path: str
) -> None:
    array = np.random.default_rng(1).random((300, 400))
    with child_process(path) as child:
        ref = child.do(workers.put, {"weights": array})
    with store.get(ref) as buf:
        weights = buf.value["weights"]
        assert np.array_equal(weights, array)
        assert helpers.lies_in(path, helpers.address(weights))
        del weights


def test_space_is_shared(make_store: Callable[..., refstore.Store], path: str) -> None:
    store = make_store("4MiB")
    with child_process(path) as child:
        ref = child.do(workers.put, bytes(3 * 2**20))
        with pytest.raises(refstore.StoreFullError):
            store.put(bytes(2 * 2**20))
        store.delete(ref)
        store.put(bytes(3 * 2**20), name="mine")
        with pytest.raises(RemoteError, match="StoreFullError"):
            child.do(workers.put, bytes(2 * 2**20))
        child.do(workers.delete, "mine")
        helpers.assert_full_capacity_fits(store)


def test_many_processes_churn_and_nothing_rots(store: refstore.Store, path: str) -> None:
    turns = engines.rounds(2500, 10)
    with child_processes(4, path) as children:
        for seed, child in enumerate(children):
            child.tell(workers.churn, seed + 1, turns, 0.08)  # of the store for each of five
        workers.churn(Session(store), 9, turns, 0.08)
        assert [child.answer() for child in children] == [turns] * 4
        assert store.check() == []
        assert (len(store), store.stats().used) == (0, 0)
        helpers.assert_full_capacity_fits(store)
    assert store.stats().processes == 1


def test_counters_of_all_processes_add_up_and_outlive_them(
    store: refstore.Store, path: str
) -> None:
    with child_processes(2, path) as children:
        for child in children:
            refs = [child.do(workers.put, b"x") for _ in range(5)]
            child.do(workers.read, refs[0])
            child.do(workers.delete, refs[0])
        store.put(b"y")
        stats = store.stats()
        assert (stats.puts, stats.gets, stats.deletes, stats.processes) == (11, 2, 2, 3)
    stats = store.stats()
    assert (stats.puts, stats.gets, stats.deletes, stats.processes) == (11, 2, 2, 1)


def test_a_closed_store_here_leaves_the_child_attached(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    with child_process(path) as child:
        store.close()
        assert child.do(workers.read, ref) == b"x" * 1000
        assert child.do(workers.processes) == 1


def test_an_unlinked_store_goes_on_for_those_attached(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as store, child_process(path) as child:
        store.unlink()
        assert not os.path.exists(path)
        ref = child.do(workers.put, helpers.pattern(1, 300_000))
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(1, 300_000)
        with pytest.raises(FileNotFoundError):
            refstore.Store(path, create=False)


def test_a_handed_over_store_whose_name_is_gone_still_forks(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as store:
        ref = store.put(b"x" * 1000)
        store.unlink()
        with child_process(store, "fork") as child:
            assert child.do(workers.read, ref) == b"x" * 1000
            back = child.do(workers.put, b"y" * 1000)
            with store.get(back) as buf:
                assert bytes(buf) == b"y" * 1000


def test_many_processes_attached_at_once(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    with child_processes(20, path) as children:
        assert store.stats().processes == 21
        for child in children:
            child.do(workers.hold, ref)
        assert store.refcount(ref) == 21
        store.delete(ref)
        assert store.stats().condemned == 1
        for child in children:
            assert child.do(workers.show) == b"x" * 1000
            child.do(workers.drop)
        assert store.stats().condemned == 0
    assert store.stats().processes == 1
