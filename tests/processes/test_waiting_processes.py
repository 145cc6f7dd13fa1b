"""Processes that wait for each other: publishers, makers and owners that are killed or stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

import helpers
import lock_files
import pytest
import workers
from children import ChildProcess, RemoteError, child_process, child_processes
from helpers import START_METHODS

import refstore

MakeStore = Callable[..., refstore.Store]
LONG = helpers.BUSY_TIMEOUT
MIB = 1 << 20


def hears(child: ChildProcess, said: str) -> None:
    assert child.receive() == ("said", said)


# --- names


@pytest.mark.parametrize("method", START_METHODS)
def test_a_name_published_by_another_process_ends_a_wait(
    store: refstore.Store, path: str, method: str
) -> None:
    with child_processes(3, path, method) as children:
        for child in children:
            child.tell(workers.wait, "n")
            hears(child, "waiting")
        store.put(b"published", name="n")
        assert [child.answer() for child in children] == [b"published"] * 3
    assert store.stats().pinned == 0


def test_versions_are_followed_and_never_go_back(store: refstore.Store, path: str) -> None:
    first = store.put(b"%9d" % 0, name="n")
    with child_processes(2, path) as children:
        for child in children:
            child.tell(workers.follow_newer, "n", first, 200)
        for version in range(1, 201):
            store.put(b"%9d" % version, name="n", replace=True)
        for child in children:
            assert 0 < child.answer() <= 200
    assert store.stats().used == 64


def test_a_waiter_that_is_killed_leaves_nothing(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        child.tell(workers.wait, "n")
        hears(child, "waiting")
        child.kill()
    ref = store.put(b"x", name="n")
    assert store.refcount(ref) == 1
    store.recover()
    assert store.stats().processes == 1
    assert store.check() == []


def test_a_publisher_that_is_killed_leaves_the_name_to_others(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as waiter, child_process(path) as publisher:
        waiter.tell(workers.wait, "n")
        hears(waiter, "waiting")
        publisher.do(workers.begin, 1_000_000, "n")
        publisher.kill()
        store.put(b"by another", name="n")
        assert waiter.answer() == b"by another"


# --- makers


def test_all_processes_get_what_one_makes(store: refstore.Store, path: str) -> None:
    with child_process(path) as maker, child_processes(3, path) as others:
        maker.tell(workers.make, "n", b"made")
        hears(maker, "making")
        for child in others:
            child.tell(workers.get_or_put, "n", b"in vain")
            hears(child, "asking")
        maker.go_on()
        assert [child.answer() for child in (maker, *others)] == [b"made"] * 4
    assert store.stats().puts == 1


def test_a_maker_that_is_killed_is_followed_by_another(store: refstore.Store, path: str) -> None:
    with child_process(path) as maker, child_process(path) as other:
        maker.tell(workers.make, "n", b"in vain")
        hears(maker, "making")
        other.tell(workers.get_or_put, "n", b"by another")
        hears(other, "asking")
        maker.kill()
        began = time.monotonic()
        assert other.answer() == b"by another"
        print(f"taken over after {time.monotonic() - began:.3f} s")
    assert store.check() == []
    assert len(store) == 1


def test_the_claim_of_a_dead_maker_is_in_nobodys_way(store: refstore.Store, path: str) -> None:
    with child_process(path) as maker:
        maker.tell(workers.make, "n", b"in vain")
        hears(maker, "making")
        maker.kill()
    assert bytes(store.get_or_put("n", lambda: b"by another", timeout=0)) == b"by another"
    assert [row.state for row in store.objects()] == ["live"]


def test_a_maker_that_is_stopped_is_waited_for(store: refstore.Store, path: str) -> None:
    with child_process(path) as maker:
        maker.tell(workers.make, "n", b"made")
        hears(maker, "making")
        with lock_files.stopped(maker, store.path):
            with pytest.raises(refstore.GetTimeoutError, match=f"process {maker.pid}") as caught:
                store.get_or_put("n", lambda: b"x", timeout=0.3)
            assert caught.value.pid == maker.pid
            (row,) = store.objects()
            assert (row.state, row.pid) == ("claimed", maker.pid)
            (holder,) = store.holders()
            assert (holder.pid, holder.name, holder.alive) == (maker.pid, "n", True)
        maker.go_on()
        assert bytes(store.get_or_put("n", lambda: b"x", timeout=LONG)) == b"made"
        assert maker.answer() == b"made"


def test_a_put_goes_over_the_claim_of_a_stopped_maker(store: refstore.Store, path: str) -> None:
    with child_process(path) as maker:
        maker.tell(workers.make, "n", bytes(3_000_000))
        hears(maker, "making")
        with lock_files.stopped(maker, store.path):
            store.put(b"first", name="n")
            assert bytes(store.get_or_put("n", lambda: b"x", timeout=0)) == b"first"
        maker.go_on()
        assert maker.answer() == b"first"
    assert store.stats().used == 64


def test_makers_of_two_processes_that_need_each_other_do_not_hang(
    store: refstore.Store, path: str
) -> None:
    with child_processes(2, path) as (one, other):
        one.tell(workers.make_from, "a", "b")
        other.tell(workers.make_from, "b", "a")
        for child in (one, other):
            hears(child, "making")
        for child in (one, other):
            child.go_on()
        for child in (one, other):
            with pytest.raises(RemoteError, match="would wait for ever"):
                child.answer()
    assert list(store.objects()) == []


# --- claims


def test_the_claim_of_a_dead_writer_is_in_nobodys_way(store: refstore.Store, path: str) -> None:
    publishes: list[Callable[[], refstore.ObjectRef]] = [
        lambda: store.put(b"x", name="n"),
        lambda: store.put(bytes(100_000), name="n", replace=True),
        lambda: store.create(1, name="n", claim=True).seal(),
        lambda: store.get_or_put("n", lambda: b"x", timeout=0).ref,
    ]
    for publish in publishes:
        with child_process(path) as writer:
            writer.do(workers.claim, 1_000_000, "n")
            with pytest.raises(refstore.ObjectExistsError) as caught:
                store.put(b"x", name="n")
            assert caught.value.pid == writer.pid
            writer.kill()
        ref = publish()
        assert list(store) == [ref]
        store.delete(ref)
        assert store.stats().used == 0


def test_who_waits_for_a_dead_writers_claim_takes_over(store: refstore.Store, path: str) -> None:
    with child_process(path) as writer, child_process(path) as other:
        writer.do(workers.claim, 1_000_000, "n")
        other.tell(workers.get_or_put, "n", b"by another")
        hears(other, "asking")
        writer.kill()
        assert other.answer() == b"by another"
    assert store.stats().used == 64


def test_a_dead_writers_claim_leaves_the_old_object(store: refstore.Store, path: str) -> None:
    old = store.put(b"old", name="n")
    with child_process(path) as writer:
        writer.do(workers.claim, 1_000_000, "n", True)
        writer.kill()
    store.recover()
    assert store.ref("n") == old
    assert store.stats().used == 64
    assert store.check() == []


def test_a_stopped_writer_keeps_its_claim(store: refstore.Store, path: str) -> None:
    with child_process(path) as writer:
        writer.do(workers.claim, 10, "n")
        with lock_files.stopped(writer, store.path):
            with pytest.raises(refstore.ObjectExistsError) as caught:
                store.put(b"x", name="n", replace=True)
            assert caught.value.pid == writer.pid
            with pytest.raises(refstore.GetTimeoutError):
                store.get("n", timeout=0.1)
        ref = writer.do(workers.seal)
        assert store.ref("n") == ref


# --- owners


def test_what_an_owner_owned_goes_when_it_leaves(store: refstore.Store, path: str) -> None:
    with child_process(path) as owner:
        ref = owner.do(workers.put_own, b"x", "n")
        assert store.info("n").owned
        owner.do(workers.close)
        assert ref not in store
    assert list(store.objects()) == []


def test_what_an_owner_owned_goes_when_it_exits(store: refstore.Store, path: str) -> None:
    with child_process(path) as owner:
        ref = owner.do(workers.put_own, b"x", "n")
    # a process of multiprocessing runs no atexit handlers: it is as good as killed
    store.recover()
    assert ref not in store
    assert list(store.objects()) == []


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_what_a_killed_owner_owned_goes_with_its_pins(
    store: refstore.Store, path: str, size: int
) -> None:
    kept = store.put(b"kept")
    with child_process(path) as owner:
        refs = [owner.do(workers.put_own, bytes(size), name) for name in (None, "n")]
        owner.do(workers.hold, refs[0])
        owner.do(workers.hold, kept, "kept")
        with store.get(refs[1]) as buf:
            view = memoryview(buf)
        owner.kill()
    assert all(ref in store for ref in refs)  # nobody has looked for the dead yet
    recovered = store.recover()
    assert recovered.processes == 1
    assert list(store) == [kept]
    assert store.names() == []
    assert store.stats().condemned == 1
    assert bytes(view) == bytes(size)
    view.release()
    assert store.stats().used == 64
    assert store.check() == []


def test_a_newcomer_finds_nothing_of_a_dead_owner(store: refstore.Store, path: str) -> None:
    with child_process(path) as owner:
        owner.do(workers.put_own, b"x", "n")
        owner.kill()
    with child_process(path) as newcomer:
        assert newcomer.do(workers.names) == []
        assert newcomer.do(workers.put_own, b"y", "n") in store


def test_room_of_what_a_dead_owner_owned_comes_back_to_a_put(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as owner:
        owner.do(workers.put_own, bytes(store.capacity))
        owner.kill()
    helpers.assert_full_capacity_fits(store)


def test_what_was_adopted_outlives_its_first_owner(store: refstore.Store, path: str) -> None:
    with child_process(path) as first, child_process(path) as second:
        ref = first.do(workers.put_own, b"x")
        second.do(workers.adopt, ref)
        first.kill()
        store.recover()
        assert ref in store
        second.do(workers.close)
        assert ref not in store


def test_what_was_disowned_outlives_its_owner(store: refstore.Store, path: str) -> None:
    with child_process(path) as owner:
        ref = owner.do(workers.put_own, b"x")
        store.disown(ref)
        owner.kill()
    store.recover()
    assert list(store) == [ref]


def test_a_stopped_owner_is_no_dead_one(store: refstore.Store, path: str) -> None:
    with child_process(path) as owner:
        ref = owner.do(workers.put_own, b"x")
        with lock_files.stopped(owner, store.path):
            store.recover()
            assert ref in store


# --- room


def test_room_that_another_process_makes_ends_a_wait(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    kept = store.put(bytes(4 * MIB))
    with child_processes(2, store.path) as children:
        for child in children:
            child.tell(workers.put_patiently, bytes(2 * MIB))
            hears(child, "waiting")
        store.delete(kept)
        assert sorted(child.answer().hex() for child in children) == sorted(r.hex() for r in store)


def test_room_that_a_killed_process_held_ends_a_wait(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    kept = store.put(bytes(4 * MIB))
    with child_process(store.path) as holder, child_process(store.path) as waiter:
        holder.do(workers.hold, kept)
        store.delete(kept)
        waiter.tell(workers.put_patiently, bytes(4 * MIB))
        hears(waiter, "waiting")
        holder.kill()
        assert waiter.answer() in store


def test_a_killed_waiter_holds_up_nobody(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    kept = store.put(bytes(4 * MIB))
    with child_processes(2, store.path) as (first, second):
        for child in (first, second):
            child.tell(workers.put_patiently, bytes(4 * MIB))
            hears(child, "waiting")
        first.kill()
        store.delete(kept)
        assert second.answer() in store
    assert store.check() == []


def test_a_stopped_waiter_holds_up_nobody_for_long(make_store: MakeStore) -> None:
    store = make_store(4 * MIB)
    kept = store.put(bytes(4 * MIB))
    with child_processes(2, store.path) as (first, second):
        for child in (first, second):
            child.tell(workers.put_patiently, bytes(4 * MIB))
            hears(child, "waiting")
        with lock_files.stopped(first, store.path):
            store.delete(kept)
            ref = second.answer()
            store.delete(ref)
        assert first.answer() in store


def test_a_large_request_comes_in_behind_small_ones_of_others(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    with child_processes(4, store.path) as children:
        for child in children:
            child.tell(workers.churn_patiently, 2 * MIB)
            hears(child, "holding")
        store.delete(store.put(bytes(8 * MIB), timeout=20))
        for child in children:
            child.go_on()
        assert all(child.answer() > 1 for child in children)
    assert list(store) == []


def test_a_process_killed_with_anything_at_all_leaves_a_sound_store(
    store: refstore.Store, path: str
) -> None:
    """Claims, owned objects, pins and a wait, at once."""
    with child_process(path) as child:
        child.do(workers.claim, 1000, "claimed")
        child.do(workers.put_own, b"x", "owned")
        child.do(workers.hold, "owned")
        child.tell(workers.make, "made", b"x")
        hears(child, "making")
        child.kill()
    assert store.check() == []
    store.recover()
    assert list(store.objects()) == []
    assert store.stats().used == 0
    assert store.check() == []
