"""Many threads on one store in one process."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import engines
import helpers
import numpy as np
import pytest

import refstore

THREADS = 8


def in_threads(work: Callable[[int], object]) -> None:
    """Run `work(number)` in all threads at once; the first error comes out."""
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> None:
        barrier.wait(helpers.BUSY_TIMEOUT)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(run, number) for number in range(THREADS)]:
            future.result()


def test_mixed_operations_keep_every_byte(store: refstore.Store) -> None:
    def work(number: int) -> None:
        rng = random.Random(number)
        mine: list[tuple[refstore.ObjectRef, int, int]] = []
        for turn in range(engines.rounds(1500)):
            choice = rng.random()
            if choice < 0.4 and len(mine) < 40:
                seed, size = number * 100_000 + turn, int(2 ** rng.uniform(0, 14))
                mine.append((store.put(helpers.pattern(seed, size)), seed, size))
            elif choice < 0.5:
                store.put(b"%d %d" % (number, turn), name=f"shared {turn % 5}", replace=True)
            elif choice < 0.6:
                try:
                    with store.get(f"shared {turn % 5}") as buf:
                        assert len(bytes(buf).split()) == 2
                except refstore.ObjectNotFoundError:
                    pass
            elif mine:
                ref, seed, size = mine[rng.randrange(len(mine))]
                with store.get(ref) as buf:
                    assert bytes(buf) == helpers.pattern(seed, size)
                    if choice > 0.8:
                        mine.remove((ref, seed, size))
                        store.delete(ref)
                        assert bytes(buf) == helpers.pattern(seed, size)
        for ref, _, _ in mine:
            store.delete(ref)

    in_threads(work)
    assert store.check() == []
    for name in list(store.names()):
        del store[name]
    assert (len(store), store.stats().used) == (0, 0)
    helpers.assert_full_capacity_fits(store)


def test_threads_pin_one_object_and_one_deletes_it(store: refstore.Store) -> None:
    for turn in range(20):
        ref = store.put(helpers.pattern(turn, 1000))
        expected = helpers.pattern(turn, 1000)

        def work(number: int, ref: refstore.ObjectRef = ref, expected: bytes = expected) -> None:
            for step in range(50):
                if number == 0 and step == 26:
                    assert ref not in store
                    return
                with contextlib.suppress(refstore.ObjectNotFoundError), store.get(ref) as buf:
                    if number == 0 and step == 25:
                        store.delete(ref)
                        store.put(b"\xee" * 1000, name="junk", replace=True)
                    assert bytes(buf) == expected

        in_threads(work)
        assert ref not in store
        assert store.stats().condemned == 0
    assert store.check() == []


def test_large_objects_from_many_threads(store: refstore.Store) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            array = np.full((200, 1000), number * 100 + turn, "u2")
            ref = store.put(array)
            with store.get(ref) as buf:
                assert np.array_equal(buf.array, array)
            store.delete(ref)

    in_threads(work)
    helpers.assert_full_capacity_fits(store)


def test_one_winner_for_each_name(store: refstore.Store) -> None:
    won: list[tuple[int, int]] = []

    def work(number: int) -> None:
        for turn in range(100):
            try:
                store.put(b"%d" % number, name=f"n{turn}")
            except refstore.ObjectExistsError:
                continue
            won.append((turn, number))

    in_threads(work)
    assert sorted(turn for turn, _ in won) == list(range(100))
    for turn, number in won:
        assert bytes(store[f"n{turn}"]) == b"%d" % number
    assert len(store) == 100


def test_one_winner_for_each_delete(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(300)]
    deleted: list[refstore.ObjectRef] = []

    def work(number: int) -> None:
        for ref in refs:
            try:
                store.delete(ref)
            except refstore.ObjectNotFoundError:
                continue
            deleted.append(ref)

    in_threads(work)
    assert sorted(map(bytes, deleted)) == sorted(map(bytes, refs))
    assert store.stats().used == 0


def test_opening_and_closing_from_many_threads(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)

    def work(number: int) -> None:
        for _ in range(30):
            with refstore.Store(path, create=False) as mine:
                assert bytes(mine.get(ref)) == b"x" * 1000

    in_threads(work)
    assert store.stats().processes == 1
    assert store.refcount(ref) == 1


def test_a_buffer_may_be_released_by_another_thread(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(100)]
    held = [store.get(ref) for ref in refs for _ in range(THREADS)]
    lock = threading.Lock()

    def work(number: int) -> None:
        while True:
            with lock:
                if not held:
                    return
                buf = held.pop()
            buf.release()

    in_threads(work)
    assert [store.refcount(ref) for ref in refs] == [1] * 100


def test_one_buffer_released_by_all_threads_at_once(store: refstore.Store) -> None:
    ref = store.put(b"x")
    for _ in range(20):
        with store.get(ref):
            buf = store.get(ref)
            in_threads(lambda number, buf=buf: buf.release())  # type: ignore[misc]
            assert store.refcount(ref) == 2
    assert store.refcount(ref) == 1


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns far more often than by default."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_closing_while_others_work_is_an_error_for_them_at_worst(
    store: refstore.Store, path: str
) -> None:
    for _ in range(10):
        mine = refstore.Store(path, create=False)

        def work(number: int, mine: refstore.Store = mine) -> None:
            for turn in range(30):
                if number == 0 and turn == 15:
                    mine.close()
                try:
                    ref = mine.put(b"%d" % number * 100)
                    view = memoryview(mine.get(ref))
                    mine.delete(ref)
                except ValueError:
                    with pytest.raises(ValueError, match="closed"):
                        mine.put(b"x")
                    return
                assert bytes(view) == b"%d" % number * 100

        in_threads(work)
    for ref in list(store):
        store.delete(ref)
    assert store.check() == []
    assert store.stats().used == 0
