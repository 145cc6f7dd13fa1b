"""`refstore.pool.Pool`: what calls return, how often arguments are put, whose results are."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import documented
import helpers
import libraries
import numpy as np
import pool_tasks
import pytest

import refstore
from refstore import _parcels
from refstore.pool import Pool

SIZE = 100_000  # elements of a large array: 800 kB
Make = Callable[..., Pool]


@pytest.fixture
def make_pool(store: refstore.Store) -> Iterator[Make]:
    """Make pools on `store`; whatever they did, they leave nothing in it."""
    made: list[Pool] = []

    def make(workers: int = 2, method: str = "forkserver", **options: Any) -> Pool:
        context = multiprocessing.get_context(method)
        made.append(Pool(workers, context, **{"store": store, **options}))
        return made[-1]

    yield make
    for pool in made:
        pool.shutdown()
    gc.collect()
    store.clear()
    assert helpers.usage(store) == (0, 0, 0, 0)


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.pool as module

    documented.require_all(module, store)


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_calls_come_out_as_without_a_store(make_pool: Make, method: str) -> None:
    array = np.arange(SIZE, dtype="f8")
    pool = make_pool(2, method, initializer=pool_tasks.keep, initargs=(array,))
    expected = array.sum()
    future = pool.submit(pool_tasks.total, array, number=1)
    assert future.result() == expected + 1
    numbers = range(7)
    for chunksize in (1, 3):
        got = pool.map(pool_tasks.total, itertools.repeat(array), numbers, chunksize=chunksize)
        assert list(got) == [expected + n for n in numbers]
    assert list(pool.map(pool_tasks.kept_total, numbers)) == [expected + n for n in numbers]
    assert [len(one) for one in pool.map(pool_tasks.ones, [0, 10, SIZE])] == [0, 10, SIZE]


# --- arguments


def gapped(array: Any) -> Any:
    return array.reshape(2, -1)[:, : SIZE // 4]


@pytest.mark.parametrize(
    "shaped", [np.asarray, lambda array: array.reshape(2, -1).T, gapped, lambda array: array[::-1]]
)
def test_within_map_an_argument_is_put_once(
    make_pool: Make, store: refstore.Store, shaped: Callable[[Any], Any]
) -> None:
    array = shaped(np.arange(SIZE, dtype="f8"))
    pool, expected = make_pool(), [array.sum() + n for n in range(8)]
    for fn, arguments in (
        (pool_tasks.total, [itertools.repeat(array), range(8)]),
        (pool_tasks.total_of, [[(array, n) for n in range(8)]]),
        (functools.partial(pool_tasks.total, array), [range(8)]),
    ):
        before = store.stats().puts
        assert list(pool.map(fn, *arguments)) == expected
        assert store.stats().puts - before == 1


def test_within_map_it_is_put_once_however_late_the_next_task_is_sent(
    make_pool: Make, store: refstore.Store
) -> None:
    array, pool, before = np.ones(SIZE), make_pool(1), store.stats().puts

    def late() -> Iterator[int]:
        yield 1
        pool.submit(len, ()).result()  # and so all that came before it is done
        yield 2

    assert list(pool.map(pool_tasks.total, itertools.repeat(array), late())) == [SIZE + 1, SIZE + 2]
    assert store.stats().puts - before == 1
    assert len(store) == 0


def test_calls_under_way_share_what_they_were_given(make_pool: Make, store: refstore.Store) -> None:
    array, pool, before = np.ones(SIZE), make_pool(2), store.stats().puts
    futures = [
        pool.submit(pool_tasks.say_and_wait, array, store, name) for name in ("first", "second")
    ]
    store.wait_any(["first", "second"], count=2, timeout=helpers.BUSY_TIMEOUT)
    assert sum(one.nbytes >= array.nbytes for one in store.objects()) == 1
    store.put(b"", name="go")
    assert [one.result() for one in futures] == [SIZE, SIZE]
    assert store.stats().puts - before == 1 + 3  # the array, and three by name


def test_what_was_changed_meanwhile_is_put_anew(make_pool: Make, store: refstore.Store) -> None:
    array, pool = np.ones(SIZE), make_pool(2)
    first = pool.submit(pool_tasks.say_and_wait, array, store, "first")
    store.get("first", timeout=helpers.BUSY_TIMEOUT).release()
    array[-1] = 2
    assert pool.submit(pool_tasks.total, array).result() == SIZE + 1
    store.put(b"", name="go")
    assert first.result() == SIZE


def test_arrays_that_come_to_lie_where_others_lay_are_not_mistaken(make_pool: Make) -> None:
    pool = make_pool()
    futures = [pool.submit(pool_tasks.total, np.full(SIZE, n)) for n in range(20)]
    assert [one.result() for one in futures] == [n * SIZE for n in range(20)]
    got = pool.map(pool_tasks.total, [pool_tasks.Making(SIZE, n) for n in range(20)])
    assert list(got) == [n * SIZE for n in range(20)]


def test_arguments_of_tasks_that_are_done_make_room(make_pool: Make, store: refstore.Store) -> None:
    arrays = [np.full(250_000, n, "f8") for n in range(40)]  # 80 MB through 16 MiB
    before = store.stats().puts
    assert list(make_pool(1).map(pool_tasks.total, arrays)) == [n * 250_000 for n in range(40)]
    assert store.stats().puts - before == len(arrays)


def test_arguments_lie_in_the_store_and_are_read_only(
    make_pool: Make, store: refstore.Store
) -> None:
    array, pool = np.ones(SIZE), make_pool()
    assert pool.submit(pool_tasks.lies_in, array, store.path).result()
    assert not pool.submit(pool_tasks.is_writable, array).result()
    with pytest.raises(ValueError, match="read-only"):
        pool.submit(pool_tasks.add_to, array, 1).result()


def test_tasks_may_write_to_arguments_of_their_own(make_pool: Make, store: refstore.Store) -> None:
    array, pool, before = np.ones(SIZE), make_pool(writable=True), store.stats().puts
    assert list(pool.map(pool_tasks.add_to, itertools.repeat(array, 4), [1] * 4)) == [2] * 4
    assert array.sum() == SIZE
    assert store.stats().puts - before == 1


def test_small_values_travel_as_usual(make_pool: Make, store: refstore.Store) -> None:
    pool, before = make_pool(threshold=4096), store.stats().puts
    small = np.asfortranarray(np.ones((30, 16)))
    assert pool.submit(pool_tasks.is_writable, small).result()
    assert store.stats().puts == before
    assert pool.submit(pool_tasks.total, np.ones(512)).result() == 512
    assert store.stats().puts == before + 1


@pytest.mark.parametrize("value", [b"x" * SIZE, [str(n) for n in range(SIZE)], "y" * SIZE])
def test_other_large_values_go_through_the_store_too(
    make_pool: Make, store: refstore.Store, value: Any
) -> None:
    pool, before = make_pool(), store.stats().puts
    assert pool.submit(pool_tasks.echo, value).result() == value
    assert store.stats().puts == before + 2  # the argument and the result


@libraries.needed("pandas")
def test_frames_are_put_once_and_come_back(make_pool: Make, store: refstore.Store) -> None:
    import pandas

    frame = pandas.DataFrame({name: np.arange(SIZE / 4) for name in "abcd"})
    pool, before = make_pool(), store.stats().puts
    given = itertools.repeat(frame, 4)
    assert all(one.equals(frame) for one in pool.map(pool_tasks.echo, given))
    assert store.stats().puts - before == 1 + 4
    part = frame.iloc[100:-100]
    assert pool.submit(pool_tasks.echo, part).result().equals(part)


# --- results


def test_results_may_be_written(make_pool: Make, store: refstore.Store) -> None:
    pool = make_pool()
    for size in (10, SIZE):
        array = pool.submit(pool_tasks.ones, size).result()
        array[:] = 2
        assert array.sum() == 2 * size
        assert store.stats().pinned == 0


def test_a_large_result_stays_in_the_store_until_it_is_collected(make_store: Any) -> None:
    store = make_store("64MiB", name="large")
    with Pool(1, multiprocessing.get_context("forkserver"), store=store) as pool:
        array = pool.submit(pool_tasks.ones, 3_000_000).result()
    assert helpers.lies_in(store.path, helpers.address(array))
    array[0] = 2
    assert array.sum() == 3_000_001
    assert (store.stats().objects, store.stats().pinned) == (0, 1)
    del array
    assert helpers.is_unpinned(store)
    assert store.stats().used == 0


def test_what_finds_no_room_travels_by_pipe(make_store: Any) -> None:
    store = make_store("1MiB", name="small")
    with Pool(1, multiprocessing.get_context("forkserver"), store=store) as pool:
        array = np.asfortranarray(np.arange(400_000.0).reshape(2, -1))
        assert np.array_equal(pool.submit(pool_tasks.echo, array).result(), array)
        text = "x" * 2_000_000
        assert pool.submit(pool_tasks.echo, text).result() == text
        assert store.stats().puts == 0
        assert pool.submit(pool_tasks.echo, array[0, :50_000]).result().size == 50_000
        assert store.stats().puts == 2
    assert helpers.usage(store) == (0, 0, 0, 0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="max_tasks_per_child is of Python 3.11")
def test_a_worker_that_is_replaced_ends_when_its_result_was_taken(
    make_pool: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, take = make_pool(1, max_tasks_per_child=1), _parcels.take
    ended: list[Any] = []

    def late(parcel: Any) -> Any:
        (worker,) = pool._processes.values()
        ended.extend(connection.wait([worker.sentinel], timeout=1))
        return take(parcel)

    monkeypatch.setattr(_parcels, "take", late)
    assert [one.sum() for one in pool.map(pool_tasks.ones, [SIZE] * 2)] == [SIZE] * 2
    assert ended == []


# --- the store


def temporary(folder: Path) -> list[str]:
    return [name for name in helpers.stores(folder) if name.startswith("tmp")]


def test_a_store_of_its_own_goes_with_the_pool(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    context = multiprocessing.get_context("forkserver")
    with Pool(1, context) as pool:
        assert len(helpers.stores(folder)) == 1
        array = pool.submit(pool_tasks.ones, 3_000_000).result()
    assert helpers.stores(folder) == []
    assert array.sum() == 3_000_000
    pool = Pool(1, context)
    future = pool.submit(pool_tasks.total, np.ones(SIZE))
    pool.shutdown(wait=False)
    assert future.result() == SIZE
    assert helpers.eventually(lambda: helpers.stores(folder) == [])
    pool = Pool(1, context)
    pool.submit(pool_tasks.total, np.ones(SIZE)).result()
    workers = list(pool._processes.values())
    del pool, future
    assert helpers.eventually(lambda: gc.collect() >= 0 and helpers.stores(folder) == [])
    for worker in workers:
        worker.join(helpers.BUSY_TIMEOUT)
    with refstore.Store("another", create=True) as other:
        other.unlink()  # who opens one clears away locks of those that went before their workers


def test_workers_that_start_after_a_shutdown_have_their_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    start = pool_tasks.keep, (np.ones(SIZE),)
    pool = Pool(1, multiprocessing.get_context("spawn"), *start)
    future = pool.submit(pool_tasks.kept_total, 1)
    workers = list(pool._processes.values())
    pool.shutdown(wait=False)
    assert future.result() == SIZE + 1
    for worker in workers:
        worker.join(helpers.BUSY_TIMEOUT)
    assert helpers.eventually(lambda: helpers.stores(folder) == [])
    assert caplog.records == []
    with refstore.Store("another", create=True) as other:
        other.unlink()


def test_a_pool_outlives_the_store_object_that_it_was_given(store: refstore.Store) -> None:
    given = pickle.loads(pickle.dumps(store))
    with Pool(1, multiprocessing.get_context("forkserver"), store=given) as pool:
        given.close()
        assert pool.submit(pool_tasks.ones, SIZE).result().sum() == SIZE
        assert pool.submit(pool_tasks.total, np.ones(SIZE)).result() == SIZE
    assert store.stats().puts == 2


def test_pools_share_a_store_and_have_pools_below_them(make_pool: Make) -> None:
    array, first, second = np.ones(SIZE), make_pool(1), make_pool(1)
    assert first.submit(pool_tasks.nested, array).result() == [SIZE, SIZE]
    first.shutdown()
    assert second.submit(pool_tasks.echo, array).result().sum() == SIZE


def test_bad_arguments_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    bad: Any = 1
    with pytest.raises(ValueError, match="threshold is 0 bytes: it must be at least 1"):
        Pool(threshold=0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Pool(initializer=bad)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Pool(0)
    gc.collect()
    assert helpers.stores(folder) == []


@pytest.mark.once("shows what its page shows")
@libraries.needed("pandas")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/pool.md", folder)
