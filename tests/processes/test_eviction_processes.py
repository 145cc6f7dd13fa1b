"""Several processes on one cache: each evicts what others put, and nobody reads what is reused."""

from __future__ import annotations

from collections.abc import Callable

import engines
import helpers
import pytest
import workers
from children import ChildProcess, child_process, child_processes

import refstore

MakeStore = Callable[..., refstore.Store]
KEYS = 200
policies = pytest.mark.parametrize("evict", ["lru", "s3fifo"])


def answer_of(child: ChildProcess) -> tuple[int, int]:
    """What it returns in the end."""
    while (message := child.receive())[0] == "said":
        pass
    kind, value = message
    assert kind == "result", value
    hits, refused = value
    return hits, refused


def require_sound(store: refstore.Store) -> None:
    store.recover()
    assert store.check() == []
    stats = store.stats()
    assert (stats.pinned, stats.condemned, stats.processes) == (0, 0, 1)
    for name in store.names():
        with store.get(name) as buf:
            workers.assert_stamped(buf, int(name.split()[1]))
    store.clear()
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


@policies
def test_readers_see_whole_objects_while_others_evict(
    make_store: MakeStore, path: str, evict: str
) -> None:
    store, turns = make_store("512KiB", evict=evict), engines.rounds(4000, 8)
    with child_processes(3, path) as children:
        for seed, child in enumerate(children):
            child.tell(workers.use_as_cache, seed, turns, KEYS)
        told = [answer_of(child) for child in children]
    assert all(0 < hits < turns and refused < turns // 10 for hits, refused in told)
    assert store.stats().evictions > 0
    require_sound(store)


@policies
def test_a_cache_outlives_those_who_use_it(make_store: MakeStore, path: str, evict: str) -> None:
    store, turns = make_store("512KiB", evict=evict), engines.rounds(4000, 8)
    with child_process(path) as survivor:
        survivor.tell(workers.use_as_cache, 0, turns, KEYS)
        for seed in range(1, 4):
            with child_process(path) as victim:
                victim.tell(workers.use_as_cache, seed, 1_000_000, KEYS)
                for _ in range(5):
                    assert victim.receive()[0] == "said"
                victim.kill()
        answer_of(survivor)
    require_sound(store)


@policies
def test_what_another_process_pins_stays(make_store: MakeStore, path: str, evict: str) -> None:
    store = make_store("512KiB", evict=evict)
    ref = store.put(workers.stamped(7, 100_000), name="key 7")
    with child_process(path) as child:
        child.do(workers.hold, ref)
        for number in range(30):
            store.put(workers.stamped(number % 7, 100_000), name=f"key {number % 7}", replace=True)
        assert ref in store
        with pytest.raises(refstore.StoreFullError):
            store.put(bytes(store.capacity))
        assert child.do(workers.show) == workers.stamped(7, 100_000)
        child.do(workers.drop)
        store.put(bytes(store.capacity), name="all")
        assert ref not in store
        child.do(workers.delete, "all")
    require_sound(store)


@policies
def test_one_that_is_dead_pins_nothing(make_store: MakeStore, path: str, evict: str) -> None:
    store = make_store("512KiB", evict=evict)
    ref = store.put(workers.stamped(7, 100_000), name="key 7")
    with child_process(path) as child:
        child.do(workers.hold, ref)
        child.kill()
    store.put(bytes(store.capacity), name="all")
    assert (ref in store, len(store)) == (False, 1)
    store.delete("all")
    require_sound(store)


@policies
def test_the_room_of_the_dead_is_taken_before_objects_go(
    make_store: MakeStore, path: str, evict: str
) -> None:
    store = make_store("1MiB", evict=evict)
    while store.stats().evictions < 100:  # full, for longer than one tick of its clock
        store.put(bytes(4096))
    with child_process(path) as child:
        child.do(workers.begin, 400_000)
        child.kill()

    def is_recovered() -> bool:
        store.put(bytes(4096))
        return store.stats().recoveries == 1

    assert helpers.eventually(is_recovered)  # who looks for the dead does so once in a while
    before = store.stats().evictions
    for _ in range(80):
        store.put(bytes(4096))
    assert store.stats().evictions == before
    store.clear()
    require_sound(store)


@policies
def test_a_forked_childs_views_stay(make_store: MakeStore, evict: str) -> None:
    store = make_store("512KiB", evict=evict)
    ref = store.put(workers.stamped(7, 100_000), name="key 7")
    buf = store.get(ref)

    def look() -> None:
        for number in range(30):
            store.put(workers.stamped(number % 7, 100_000), name=f"key {number % 7}", replace=True)
        workers.assert_stamped(buf, 7)

    assert helpers.forked(look) == 0
    buf.release()
    require_sound(store)
