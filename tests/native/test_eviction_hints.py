"""Wrong hints of eviction cost hits: nothing goes that must stay, and what fitted fits."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterator

import helpers
import pytest

import refstore
from tests.fuzz import layout
from tests.native.crash.scenarios import Policy
from tests.native.test_damaged_fields import Fields, slot_of

MakeStore = Callable[..., refstore.Store]
CAPACITY, OBJECTS = 1 << 20, 200  # as those of Fields

pytestmark = [pytest.mark.native("writes to fields of its file"), pytest.mark.timeout(60)]
policies = pytest.mark.parametrize("evict", [None, "lru", "s3fifo"])
SIZES = (60, 700, 4096, 20_000, 50_000)
HINTS = [
    ("Header", "tick"),
    ("Pool", "queue_end"),
    ("Pool", "queue_begin"),
    ("Pool", "ghosts_known"),
    ("PageTag", "next"),
    ("PageTag", "prev"),
    ("queues", "entry"),
    ("ghosts", "word"),
]


@pytest.fixture
def cache(path: str, evict: Policy) -> Iterator[refstore.Store]:
    """A store, full of objects that may go; it need not be sound at the end."""
    with refstore.Store(
        path, capacity=CAPACITY, max_objects=OBJECTS, evict=evict, create=True
    ) as store:
        churn(store, random.Random(1), 300)
        yield store
    os.unlink(path)


def churn(store: refstore.Store, dice: random.Random, turns: int) -> None:
    """Gets objects that may go, and puts those that are not there; each is whole."""
    for _ in range(turns):
        number = int(400 * dice.random() ** 2)
        try:
            with store.get(f"cached {number}") as buf:
                assert bytes(buf) == helpers.pattern(number % 250, SIZES[number % len(SIZES)])
        except refstore.ObjectNotFoundError:
            data = helpers.pattern(number % 250, SIZES[number % len(SIZES)])
            store.put(data, name=f"cached {number}", evictable=True)


def wrong(dice: random.Random, width: int) -> int:
    """Any number, and often one that could be right."""
    bits = 8 * width
    return dice.choice([0, 1, (1 << bits) - 1, 1 << bits - 1, dice.getrandbits(bits), OBJECTS, 7])


@policies
@pytest.mark.parametrize(("table", "field"), HINTS)
def test_wrong_hints_lose_nothing_that_stays(
    cache: refstore.Store, path: str, table: str, field: str
) -> None:
    fields, dice = Fields(path), random.Random(f"{table} {field}")
    kept = [cache.put(helpers.pattern(n, 3000), evictable=False) for n in range(10)]
    held = [cache.get(name) for name in cache.names()[:5]]
    shown = [bytes(buf) for buf in held]
    found = fields.tables[table]
    (one,) = [one for one in found.fields if one.name == field]
    for _ in range(40):
        for _ in range(5):
            entry, number = dice.randrange(min(found.entries, 300)), dice.randrange(one.n)
            fields.set(table, entry, field, wrong(dice, one.width), number)
        churn(cache, dice, 20)
        for n, ref in enumerate(kept):
            with cache.get(ref) as buf:
                assert bytes(buf) == helpers.pattern(n, 3000)
        assert [bytes(buf) for buf in held] == shown
    for buf in held:
        buf.release()
    for ref in kept:
        cache.delete(ref)
    cache.put(bytes(CAPACITY))
    assert len(cache) == 1


@pytest.mark.parametrize("evict", ["s3fifo"])
def test_what_has_lost_its_place_in_the_queues_goes_all_the_same(
    cache: refstore.Store, path: str
) -> None:
    fields = Fields(path)
    for entry in range(fields.tables["queues"].entries):
        fields.set("queues", entry, "entry", 0)
    evictions = cache.stats().evictions
    for number in range(30):
        cache.put(bytes(50_000), name=f"{number}")
    assert cache.stats().evictions > evictions
    assert cache.check() == []


@policies
def test_check_sees_pages_that_lead_elsewhere(cache: refstore.Store, path: str) -> None:
    fields = Fields(path)
    ref = cache.put(bytes(50_000), evictable=False)
    at = fields.get("Slot", slot_of(ref), "extent") >> 32  # the first of its pages
    assert fields.get("PageTag", at, "head") == 0
    assert fields.get("PageTag", at, "next") == slot_of(ref) + 1
    for field in ("next", "prev"):
        right = fields.get("PageTag", at, field)
        fields.set("PageTag", at, field, right + 1)
        assert {problem.split(":")[0] for problem in cache.check()} == {"unit"}
        fields.set("PageTag", at, field, right)
        assert cache.check() == []


@pytest.mark.parametrize("evict", ["s3fifo"])
def test_check_sees_queues_without_memory(cache: refstore.Store, path: str) -> None:
    fields = Fields(path)
    right = fields.get("queues_ready", 0, "word")
    assert right & 1
    fields.set("queues_ready", 0, "word", right & ~1)
    assert {problem.split(":")[0] for problem in cache.check()} == {"queues_ready"}
    fields.set("queues_ready", 0, "word", right)
    assert cache.check() == []


@policies
@pytest.mark.parametrize("pinned", [1, 55, 60])
def test_what_is_pinned_for_long_is_in_nobodys_way(cache: refstore.Store, pinned: int) -> None:
    """Most of what is oldest cannot go."""
    cache.clear()
    for number in range(60):
        cache.put(helpers.pattern(number, 4096), name=f"{number}", evictable=True)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(cache.get(f"{number}")) for number in range(pinned)]
        for _ in range(130):
            cache.put(bytes(4096), evictable=False)
        for number in range(300):
            cache.put(bytes(4096), name=f"new {number}", evictable=True)
        assert [bytes(buf) for buf in held] == [
            helpers.pattern(number, 4096) for number in range(pinned)
        ]


@policies
def test_a_cache_of_few_among_many_that_stay(cache: refstore.Store) -> None:
    """What may go is hardly ever drawn, and found."""
    cache.clear()
    kept = [cache.put(helpers.pattern(n % 250, 4000), evictable=False) for n in range(190)]
    for number in range(100):
        cache.put(bytes(4000), name=f"{number}", evictable=True)
        assert f"{number}" in cache
    assert len(cache) == OBJECTS
    for n, ref in enumerate(kept):
        with cache.get(ref) as buf:
            assert bytes(buf) == helpers.pattern(n % 250, 4000)


@policies
def test_room_that_others_leave_is_used_before_anything_goes(cache: refstore.Store) -> None:
    """Blocks of other sizes, and pages, that were deleted by this process."""
    for size in (60, 4096, 50_000):
        cache.clear()
        for k in range(1000):
            cache.put(bytes(size), name=f"a {size} {k}", evictable=True)
            if cache.stats().evictions:
                break
        before = cache.stats().evictions
        cache.put(bytes(size), evictable=True)
        cache.clear("a ")
        for k in range(20):
            cache.put(bytes(10_000), name=f"b {size} {k}", evictable=True)
        assert cache.stats().evictions <= before + 1


def test_ages_are_ticks_of_what_is_put(path: str) -> None:
    """The clock moves 64 times while as much is put as the store holds, whoever puts it."""
    with refstore.Store(path, capacity=CAPACITY, max_objects=OBJECTS, create=True) as store:
        fields = Fields(path)
        for _ in range(10 * CAPACITY // 10_000):
            store.delete(store.put(bytes(10_000)))
        ticks = fields.get("Header", 0, "tick")
        assert 600 <= ticks <= 680
        ref = store.put(b"x", evictable=True)
        before = fields.get("Slot", slot_of(ref), "last_use")
        for _ in range(CAPACITY // 8 // 10_000):
            store.delete(store.put(bytes(10_000)))
        assert fields.get("Slot", slot_of(ref), "last_use") == before
        store.get(ref).release()
        evictable = layout.constants()["EVICTABLE"]
        after = fields.get("Slot", slot_of(ref), "last_use")
        assert after == evictable | fields.get("Header", 0, "tick")
        assert after > before >= evictable
        store.unlink()


def fill_with(store: refstore.Store, nbytes: int) -> None:
    helpers.put_until_full(store, itertools.repeat(bytes(nbytes)), evictable=False)


@policies
def test_lack_of_slots_is_not_taken_for_lack_of_pages(make_store: MakeStore, evict: Policy) -> None:
    store = make_store("1MiB", max_objects=1024, evict=evict)
    empty = store.put(b"", evictable=False)
    small = [store.put(bytes(64), evictable=False) for _ in range(64)]
    going = store.put(bytes(4096), name="may go", evictable=True)
    with store.get(going):
        for nbytes in (65536, 4096):
            fill_with(store, nbytes)
        for ref in small[:10]:
            store.delete(ref)
        fill_with(store, 0)  # their slots: the blocks have none now
        with pytest.raises(refstore.StoreFullError, match="max_objects"):
            store.put(bytes(64))
        store.delete(empty)
        with pytest.raises(refstore.StoreFullError):
            store.put(bytes(65536))
        # by the slot of the claim
        assert store.get_or_put("made", lambda: bytes(64), timeout=0, evictable=False).nbytes == 64
    store.delete("made")
    store.put(bytes(64))
    assert "may go" in store
    assert store.check() == []
