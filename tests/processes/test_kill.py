"""SIGKILL: nothing that was sealed is lost, nothing half-made is seen, all room comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import engines
import helpers
import pytest
import workers
from children import child_process, child_processes, clear_up_after_the_dead
from helpers import START_METHODS

import refstore

MakeStore = Callable[..., refstore.Store]


@pytest.mark.parametrize("method", START_METHODS)
def test_a_killed_writer_leaves_nothing_once_another_attaches(
    store: refstore.Store, path: str, method: str
) -> None:
    store["kept"] = b"kept"
    before = helpers.usage(store)
    with child_process(path, method) as child:
        child.do(workers.begin, 1_000_000, "never")
        assert store.stats().used >= 1_000_000
        child.kill()
    with child_process(path) as other:
        assert other.do(workers.names) == ["kept"]
        assert helpers.usage(store) == before
        assert store.check() == []
        assert store.stats().processes == 2
    assert bytes(store["kept"]) == b"kept"


def test_a_writer_killed_while_replacing_leaves_the_old_object(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"old", name="n")
    with child_process(path) as child:
        child.do(workers.begin, 1_000_000, "n", True)
        child.kill()
    with child_process(path):
        assert store.ref("n") == ref
        assert len(store) == 1
        store["n"] = b"new"
    assert bytes(store["n"]) == b"new"


def test_room_of_a_killed_writer_comes_back_to_a_put_that_needs_it(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as child:
        child.do(workers.begin, store.capacity, "never")
        with pytest.raises(refstore.StoreFullError):
            store.put(b"x")
        child.kill()
    helpers.assert_full_capacity_fits(store)


@pytest.mark.parametrize("hold", [workers.hold, workers.hold_view])
def test_what_a_killed_process_pinned_comes_back_to_a_put(
    store: refstore.Store, path: str, hold: Callable[..., None]
) -> None:
    ref = store.put(bytes(store.capacity))
    with child_process(path) as child:
        child.do(hold, ref)
        store.delete(ref)
        with pytest.raises(refstore.StoreFullError):
            store.put(b"x")
        child.kill()
    helpers.assert_full_capacity_fits(store)
    assert store.stats().condemned == 0


@pytest.mark.parametrize("size", [100, 8192, 100_000])
@pytest.mark.parametrize("hold", [workers.hold, workers.hold_view])
def test_what_a_killed_process_pinned_comes_back_at_the_delete(
    store: refstore.Store, path: str, hold: Callable[..., None], size: int
) -> None:
    ref = store.put(helpers.pattern(1, size))
    with child_process(path) as child:
        child.do(hold, ref)
        child.kill()
        before = store.stats()
        store.delete(ref)  # nobody has attached or recovered since
        after = store.stats()
    assert before.used - after.used >= size
    assert (after.used, after.condemned) == (0, 0)


@pytest.mark.parametrize("size", [100, 8192, 100_000])
@pytest.mark.parametrize("hold", [workers.hold, workers.hold_view])
def test_what_a_killed_process_pinned_comes_back_at_the_release(
    store: refstore.Store, path: str, hold: Callable[..., None], size: int
) -> None:
    ref = store.put(helpers.pattern(1, size))
    with child_process(path) as child:
        child.do(hold, ref)
        with store.get(ref) as buf:
            store.delete(ref)  # while both live
            child.kill()
            before = store.stats()
            assert before.condemned == 1
            buf.release()  # nobody has attached or recovered since
            after = store.stats()
    assert before.used - after.used >= size
    assert (after.used, after.condemned) == (0, 0)


def test_slots_of_a_killed_process_come_back(make_store: MakeStore, path: str) -> None:
    store = make_store("1MiB", max_objects=3)
    with child_process(path) as child:
        for i in range(2):
            ref = store.put(b"x")
            child.do(workers.hold, ref, str(i))
            store.delete(ref)
        child.do(workers.begin, 10, "never")
        with pytest.raises(refstore.StoreFullError):
            store.put(b"x")
        child.kill()
    for i in range(3):
        store.put(i)


def test_what_a_killed_process_had_sealed_stays(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        ref = child.do(workers.put, helpers.pattern(1, 500_000))
        child.do(workers.put, helpers.pattern(2, 100), "named")
        child.do(workers.hold, ref)
        child.kill()
    with child_process(path) as other:
        assert other.do(workers.read, ref) == helpers.pattern(1, 500_000)
        assert store.refcount(ref) == 1
        assert bytes(store["named"]) == helpers.pattern(2, 100)


def test_a_survivors_pins_outlive_the_recovery_of_others(store: refstore.Store, path: str) -> None:
    data = helpers.pattern(1, 100_000)
    ref = store.put(data)
    with child_processes(2, path) as (doomed, survivor):
        doomed.do(workers.hold, ref)
        survivor.do(workers.hold, ref)
        doomed.kill()
        store.delete(ref)
        clear_up_after_the_dead(path)
        helpers.fill_with_junk(store)
        assert survivor.do(workers.show) == data
        assert store.stats().condemned == 1
        survivor.do(workers.drop)
        assert store.stats().condemned == 0


def test_many_killed_processes_use_up_no_rows(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 100)
    for _ in range(engines.rounds(40, 4)):
        with child_processes(3, path) as children:
            for child in children:
                child.do(workers.hold, ref)
                child.do(workers.begin, 1000)
                child.kill()
    with child_process(path):
        assert store.refcount(ref) == 1
        assert store.stats().processes == 2
    store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_everyone_killed_leaves_a_store_that_opens(folder: Path, path: str) -> None:
    refstore.Store(path, capacity="4MiB").close()
    with child_processes(3, path) as children:
        for number, child in enumerate(children):
            child.do(workers.put, helpers.pattern(number, 100_000), f"n{number}")
            child.do(workers.hold, f"n{number}")
            child.do(workers.begin, 100_000, "never")
        for child in children:
            child.kill()
    with refstore.Store(path, create=False) as store:
        assert sorted(store.names()) == ["n0", "n1", "n2"]
        assert store.check() == []
        for number in range(3):
            assert store.refcount(f"n{number}") == 1
            assert bytes(store[f"n{number}"]) == helpers.pattern(number, 100_000)
            del store[f"n{number}"]
        assert store.stats().used == 0
        helpers.assert_full_capacity_fits(store)
        store.unlink()


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_in_the_middle_of_everything(
    make_store: MakeStore, path: str, seed: int
) -> None:
    store = make_store("4MiB", max_objects=200)
    for turn in range(engines.rounds(8, 4)):
        with child_processes(2, path) as children:
            for number, child in enumerate(children):
                child.tell(workers.churn_for_ever, seed * 1000 + turn * 10 + number)
            for child in children:
                for _ in range(1 + (seed + turn) % 7):
                    assert child.receive()[0] == "said"
                child.kill()
        for name in list(store.names()):
            with store.get(name) as buf:
                workers.assert_stamped(buf, int(name.split()[1]))
        assert store.check() == []
    for name in list(store.names()):
        store.delete(name)
    with child_process(path):  # whose coming clears up after the dead
        for ref in list(store):
            store.delete(ref)  # an unnamed one, whose maker died before deleting it
        stats = store.stats()
    assert (stats.used, stats.objects, stats.condemned) == (0, 0, 0)
    helpers.assert_full_capacity_fits(store)
    assert store.check() == []
