"""Eviction: what is put finds room where others may go, and what must stay stays."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import engines
import helpers
import numpy as np
import pytest
import workers
from children import child_process

import refstore

MakeStore = Callable[..., refstore.Store]
POLICIES = ("lru", "s3fifo")
policies = pytest.mark.parametrize("evict", POLICIES)
SIZE = 40_000  # of objects of which 25 fit
NEEDED = 1_000_000


@pytest.fixture
def store(make_store: MakeStore) -> refstore.Store:
    """A store from which nothing goes that does not say so."""
    return make_store("1MiB")


def fill(store: refstore.Store, **options: Any) -> list[str]:
    """Put objects of SIZE until one more would not fit, each under its name."""
    names: list[str] = []
    while store.stats().largest_free >= SIZE:
        names.append(f"{len(names)}")
        store.put(helpers.pattern(len(names), SIZE), name=names[-1], **options)
    return names


def left(store: refstore.Store, names: Sequence[str]) -> list[str]:
    """Those that are still there; each is whole."""
    found = []
    for name, buf in ((name, store.get(name)) for name in names if name in store):
        assert bytes(buf) == helpers.pattern(int(name) + 1, SIZE)
        buf.release()
        found.append(name)
    return found


# -- what goes and what does not --------------------------------------------------------------


@policies
def test_what_was_just_used_stays_where_few_of_many_slots_are_taken(
    make_store: MakeStore, evict: str
) -> None:
    store = make_store("4MiB", evict=evict, max_objects=4096)
    hot: list[str] = []
    for number in range(300):
        for name in hot:
            store.get(name).release()
        store.put(bytes(100_000), name=f"{number}")
        hot = hot or ([f"{n}" for n in range(10)] if number == 9 else [])
    assert store.stats().evictions > 200
    assert [name for name in hot if name not in store] == []


@policies
def test_a_put_into_a_full_store_finds_room(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    assert store.evict == evict
    names = fill(store)
    before = store.stats()
    for number in range(100):
        store.put(helpers.pattern(number, SIZE), name=f"new {number}")
        assert bytes(store[f"new {number}"]) == helpers.pattern(number, SIZE)
        gc.collect()
    after = store.stats()
    assert after.evictions >= 100
    assert after.objects == len(store.names()) <= before.objects
    assert after.deletes == 0
    assert len(left(store, names)) < len(names)


def test_nothing_goes_that_does_not_say_so(store: refstore.Store) -> None:
    names = fill(store)
    assert store.evict is None
    assert not store.info(names[0]).evictable
    with pytest.raises(refstore.StoreFullError):
        store.put(bytes(SIZE))
    assert left(store, names) == names
    assert store.stats().evictions == 0


@pytest.mark.parametrize("evict", [None, *POLICIES])
def test_each_object_says_whether_it_may_go(make_store: MakeStore, evict: str | None) -> None:
    store = make_store("1MiB", evict=evict)
    for evictable in (None, False, True):
        expected = evict is not None if evictable is None else evictable
        refs = [
            store.put(b"x", evictable=evictable),
            store.put(bytes(100_000), evictable=evictable),
            *store.put_many([b"x"], evictable=evictable),
        ]
        with store.create(10, evictable=evictable) as writer:
            writer.write_at(0, bytes(10))
        refs.append(writer.ref)
        store.get_or_put(f"{evictable}", lambda: b"x", evictable=evictable).release()
        refs.append(store.ref(f"{evictable}"))
        assert [store.info(ref).evictable for ref in refs] == [expected] * len(refs)


def test_whether_it_may_go_is_asked_while_nothing_is_locked(store: refstore.Store) -> None:
    class Asked:
        def __bool__(self) -> bool:
            thread = threading.Thread(target=store.put, args=(b"of another thread",))
            thread.start()
            thread.join()
            store.put(b"of this one")
            return True

    options: Any = {"evictable": Asked()}
    store.put(b"x", **options)
    store.put_many([b"x"], **options)
    store.create(1, **options).abort()
    store.get_or_put("x", lambda: b"x", **options).release()
    assert len(store) == 3 + 4 * 2


@pytest.mark.parametrize("evict", [None, *POLICIES])
def test_those_that_may_go_make_room_for_those_that_may_not(
    make_store: MakeStore, evict: str | None
) -> None:
    store = make_store("1MiB", evict=evict)
    kept = [store.put(helpers.pattern(n, SIZE), evictable=False) for n in range(5)]
    names = fill(store, evictable=True)
    for number in range(50):
        store.put(helpers.pattern(number, SIZE), name=f"new {number}", evictable=True)
    for number, ref in enumerate(kept):
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(number, SIZE)
    added: list[refstore.ObjectRef] = []

    def fill_up() -> None:
        while True:
            added.append(store.put(bytes(SIZE), evictable=False))

    with pytest.raises(refstore.StoreFullError) as caught:
        fill_up()
    assert ("Eviction does not make enough room" in str(caught.value)) == (evict is not None)
    assert len(added) >= len(names) - 1
    assert len(store) == len(kept) + len(added)


@policies
def test_what_is_pinned_stays(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names = fill(store)
    held = {name: store.get(name) for name in names[::2]}
    for number in range(40):
        store.put(bytes(SIZE), name=f"new {number}")
    assert set(held) <= set(left(store, names))
    for name, buf in held.items():
        assert bytes(buf) == helpers.pattern(int(name) + 1, SIZE)
        buf.release()
    store.put(bytes(store.capacity))
    assert left(store, names) == []


@policies
def test_a_store_in_which_all_is_pinned_is_full(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names = fill(store)
    held = store.get_many(names)
    with pytest.raises(refstore.StoreFullError, match="objects pinned"):
        store.put(bytes(SIZE))
    assert store.stats().evictions == 0
    held.pop().release()
    store.put(bytes(SIZE))
    assert left(store, names) == names[:-1]
    for buf in held:
        buf.release()


@policies
def test_what_is_being_written_stays(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    writer = store.create(SIZE, name="written")
    writer.write_at(0, helpers.pattern(7, SIZE))
    fill(store)
    for number in range(60):
        store.put(bytes(SIZE), name=f"new {number}")
    writer.seal()
    assert bytes(store["written"]) == helpers.pattern(7, SIZE)


@policies
@pytest.mark.parametrize("kept", ["pinned", "not evictable"])
def test_a_put_that_cannot_fit_evicts_nothing(make_store: MakeStore, evict: str, kept: str) -> None:
    store = make_store("1MiB", evict=evict)
    half = store.put(helpers.pattern(1, 300_000), evictable=kept == "pinned")
    small = [store.put(helpers.pattern(n, 3000), name=f"{n}") for n in range(20)]
    store.put(bytes(300_000), evictable=False)
    names = store.names()
    with store.get(half) as buf:
        for nbytes in (store.capacity + 1, store.capacity, 600_000):
            with pytest.raises(refstore.StoreFullError):
                store.put(bytes(nbytes))
        assert bytes(buf) == helpers.pattern(1, 300_000)
    assert store.stats().evictions == 0
    assert sorted(store.names()) == sorted(names)
    assert all(ref in store for ref in small)


@policies
def test_a_large_put_evicts_neighbours(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names: list[str] = []
    while store.stats().largest_free >= 1000:
        names.append(f"{len(names)}")
        store.put(bytes(1000), name=names[-1])
    for _ in range(5):
        ref = store.put(helpers.pattern(3, 500_000))
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(3, 500_000)
    store.put(bytes(store.capacity))
    assert len(store) == 1


@pytest.mark.parametrize("others", [False, True], ids=["no others", "others may go"])
def test_no_neighbours_go_that_have_between_them_what_must_stay(
    make_store: MakeStore, others: bool
) -> None:
    store = make_store("1MiB", evict="lru")
    store.put(helpers.pattern(1, 60_000), name="below")  # the oldest
    for _ in range(10):
        store.put(b"x" * 64)
    store.put(b"y" * 64, name="stays", evictable=False)
    store.put(helpers.pattern(2, 60_000), name="above")
    fill(store, evictable=others)
    if others:
        store.put(b"z" * 120_000)
    else:
        with pytest.raises(refstore.StoreFullError):
            store.put(b"z" * 120_000)
        assert "above" in store
    assert {"below", "stays"} <= set(store.names())


@policies
def test_small_and_large_in_turn(make_store: MakeStore, evict: str) -> None:
    store, dice = make_store("1MiB", evict=evict), random.Random(evict)
    known: dict[Any, int] = {}
    for number in range(engines.rounds(2000)):
        size = int(2 ** dice.uniform(4, 18.5))
        known[store.put(workers.stamped(number % 200, size))] = number % 200
        ref = dice.choice(list(known))
        if ref in store:
            with store.get(ref) as buf:
                workers.assert_stamped(buf, known[ref])
        elif dice.random() < 0.5:
            del known[ref]
    assert store.stats().used > 400_000
    assert store.check() == []


@policies
def test_slots_run_out(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", max_objects=20, evict=evict)
    for number in range(100):
        store.put(b"%d" % number, name=f"{number}")
    assert len(store) == 20
    assert bytes(store["99"]) == b"99"
    assert store.stats().evictions == 80
    store.put(bytes(900_000))
    assert len(store) == 20


@policies
def test_a_batch_evicts(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names = fill(store)
    refs = store.put_many([helpers.pattern(n, SIZE) for n in range(10)])
    for number, ref in enumerate(refs):
        with store.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(number, SIZE)
    evictions = store.stats().evictions
    assert 9 <= evictions <= 20
    with pytest.raises(refstore.StoreFullError):
        store.put_many([bytes(SIZE)] * 30)
    assert store.stats().evictions == evictions
    assert store.check() == []
    assert len(left(store, names)) == len(names) - evictions


@policies
def test_replacing_in_a_full_store(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names = fill(store)
    for number in range(60):
        name = names[number % len(names)]
        store.put(helpers.pattern(int(name) + 1, SIZE), name=name, replace=True)
        assert name in store
    assert len(left(store, names)) == len(store) >= len(names) - 2


@policies
def test_a_writer_evicts(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    fill(store)
    with store.create(NEEDED) as writer:
        writer.write_at(0, helpers.pattern(9, NEEDED))
    with store.get(writer.ref) as buf:
        assert bytes(buf) == helpers.pattern(9, NEEDED)
    assert len(store) <= 2


@policies
def test_no_bytes_need_no_room(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", max_objects=100, evict=evict)
    names = fill(store)
    store.put(b"", name="empty")
    assert left(store, names) == names


@policies
def test_the_dead_make_room_before_the_living(make_store: MakeStore, path: str, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    with child_process(path) as child:
        child.do(workers.begin, 900_000)
        child.kill()
    store.put(b"kept", name="kept")
    store.put(bytes(800_000))
    assert "kept" in store
    assert store.stats().evictions == 0


def test_what_may_go_goes_without_a_search_for_garbage_each_time(store: refstore.Store) -> None:
    held = store.get(store.put(b"deleted, and pinned by what may be garbage"))
    store.delete(held.ref)
    fill(store, evictable=True)
    with mock.patch("gc.collect") as collect:
        for _ in range(50):
            store.put(bytes(SIZE), evictable=True)
    assert collect.call_count <= 1
    assert store.stats().evictions >= 49


@policies
def test_a_name_that_is_taken_evicts_nothing(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    names = fill(store)
    with pytest.raises(refstore.ObjectExistsError):
        store.put(bytes(SIZE), name=names[0])
    assert left(store, names) == names


@pytest.mark.parametrize("evict", [None, *POLICIES])
def test_what_finds_no_room_keeps_no_store(
    make_store: MakeStore, path: str, evict: str | None
) -> None:
    store = make_store("1MiB", evict=evict)
    store.put(bytes(SIZE), evictable=False)
    calls: list[Callable[[], object]] = [
        lambda: store.put(bytes(store.capacity)),
        lambda: store.create(store.capacity),
        lambda: store.put_many([bytes(SIZE)] * 30),
    ]
    gc.collect()
    gc.disable()
    try:
        for call in calls:
            with contextlib.suppress(refstore.StoreFullError):
                call()
        assert len(store) == 1
        store.close()
        assert helpers.mappings(path) == []
    finally:
        gc.enable()


@policies
def test_an_eviction_is_a_deletion_to_those_who_look(make_store: MakeStore, evict: str) -> None:
    store = make_store("1MiB", evict=evict)
    refs = [store.put(bytes(NEEDED), name=f"{n}") for n in range(2)]
    assert [ref in store for ref in refs] == [False, True]
    for key in ("0", refs[0]):
        with pytest.raises(refstore.ObjectNotFoundError):
            store.get(key)
    with pytest.raises(refstore.GetTimeoutError):
        store.get("0", timeout=0.01)
    assert store.get_or_put("0", lambda: b"made again").nbytes == 10


@policies
def test_an_attached_process_has_the_policy_of_the_file(
    make_store: MakeStore, path: str, evict: str
) -> None:
    make_store("1MiB", evict=evict)
    with refstore.Store(path, create=False) as again:
        assert again.evict == evict
        fill(again)
        again.put(bytes(SIZE))
    other: Any = next(policy for policy in POLICIES if policy != evict)
    with pytest.raises(ValueError, match="has evict"):
        refstore.Store(path, evict=other)


@pytest.mark.parametrize("evict", ["fifo", "LRU", "", 1, True])
def test_an_unknown_policy_is_refused(path: str, evict: Any) -> None:
    with pytest.raises(ValueError, match=r"evict is .*: it is None, 'lru' or 's3fifo'"):
        refstore.Store(path, capacity="1MiB", evict=evict)


# -- which goes -------------------------------------------------------------------------------


def test_what_was_got_lately_stays(make_store: MakeStore) -> None:
    """All but certain by the odds: one of ten that are drawn at random would have to be it."""
    store = make_store("4MiB", evict="lru")
    names = fill(store)
    for number in range(60):
        store.get(names[0]).release()
        store.put(bytes(SIZE), name=f"new {number}")
        assert names[0] in store


def test_what_is_got_again_stays_while_many_pass(make_store: MakeStore) -> None:
    store = make_store("1MiB", evict="s3fifo")
    names = fill(store)
    for name in names[:5]:
        for _ in range(3):
            store.get(name).release()
    for number in range(60):
        store.put(bytes(SIZE), name=f"passing {number}")
    assert left(store, names[:5]) == names[:5]


def zipf(seed: int, keys: int, alpha: float, length: int) -> Iterator[int]:
    """A trace of requests, as that of the policies' figures in docs/performance.md."""
    dice = np.random.default_rng(seed)
    weights = np.arange(1, keys + 1) ** -alpha
    yield from dice.choice(keys, size=length, p=weights / weights.sum()).tolist()


def exact_lru(trace: Sequence[int], room: int) -> list[bool]:
    """Which of the requests an LRU cache of so many objects has."""
    there: OrderedDict[int, None] = OrderedDict()
    hits = []
    for key in trace:
        hits.append(key in there)
        if hits[-1]:
            there.move_to_end(key)
            continue
        if len(there) == room:
            there.popitem(last=False)
        there[key] = None
    return hits


def store_hits(store: refstore.Store, trace: Sequence[int], size: int) -> list[bool]:
    hits = []
    for key in trace:
        hits.append(f"{key}" in store)
        if hits[-1]:
            with store.get(f"{key}") as buf:
                workers.assert_stamped(buf, key % 200)
        else:
            store.put(workers.stamped(key % 200, size), name=f"{key}")
    return hits


def rate(hits: Sequence[bool]) -> float:
    """In points, after the first fifth."""
    counted = hits[len(hits) // 5 :]
    return 100 * sum(counted) / len(counted)


@pytest.mark.parametrize("alpha", [0.8, 1.0])
@policies
def test_hit_rates(make_store: MakeStore, evict: str, alpha: float) -> None:
    room, size = 100, 4096
    trace = list(zipf(3, 1000, alpha, engines.rounds(20_000, 8)))
    store = make_store(room * size, max_objects=1000, evict=evict)
    hits = store_hits(store, trace, size)
    gain = rate(hits) - rate(exact_lru(trace, room))
    print(f"{evict}, Zipf {alpha}: {rate(hits):.1f} points, {gain:+.1f} over exact LRU")
    assert gain > (-4 if evict == "lru" else 2.5)
    assert len(store) <= room
