"""Several dead processes pinned one object: its room comes back all the same, unasked."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import helpers
import pytest
import workers
from children import child_process, child_processes

import refstore

DATA = helpers.pattern(1, 100_000)


def counts(store: refstore.Store) -> tuple[int, int]:
    stats = store.stats()
    return stats.used, stats.condemned


def pinned_by_the_killed(path: str, key: Any, count: int) -> None:
    """So many processes pin it, all at once, and are killed."""
    with child_processes(count, path) as children:
        for child in children:
            child.do(workers.hold, key)
        for child in children:
            child.kill()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_what_killed_pinners_kept_comes_back_at_a_delete(
    store: refstore.Store, path: str, count: int
) -> None:
    ref = store.put(DATA)
    pinned_by_the_killed(path, ref, count)
    store.delete(ref)
    assert counts(store) == (0, 0)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_what_killed_pinners_kept_comes_back_at_the_last_release(
    store: refstore.Store, path: str, count: int
) -> None:
    ref = store.put(DATA)
    with child_processes(count, path) as children:
        for child in children:
            child.do(workers.hold, ref)
        with store.get(ref) as buf:
            store.delete(ref)  # while all live
            for child in children:
                child.kill()
            assert store.stats().condemned == 1
            assert bytes(buf) == DATA
        assert counts(store) == (0, 0)


def test_a_living_pinner_among_the_dead_keeps_its_bytes(store: refstore.Store, path: str) -> None:
    ref = store.put(DATA)
    with child_processes(5, path) as (first, second, living, *others):
        for child in (first, second, living, *others):
            child.do(workers.hold, ref)
        for child in (first, second, *others):
            child.kill()
        store.delete(ref)
        assert store.stats().condemned == 1
        helpers.fill_with_junk(store)
        assert living.do(workers.show) == DATA
        living.do(workers.drop)
        assert counts(store) == (0, 0)


def test_a_pool_that_came_and_went_keeps_no_room(
    store: refstore.Store,
) -> None:
    """Its processes inherit the pin, and end without a word."""
    ref = store.put(DATA)
    with store.get(ref) as buf, helpers.forking_on_purpose():
        with multiprocessing.get_context("fork").Pool(6, maxtasksperchild=2) as pool:
            assert pool.map(abs, range(-30, 0), 1) == list(range(30, 0, -1))
            pool.close()
            pool.join()
        assert bytes(buf) == DATA
    store.delete(ref)
    assert counts(store) == (0, 0)


def replace_by_put(store: refstore.Store) -> None:
    store.put(b"new", name="n", replace=True)


def replace_by_item(store: refstore.Store) -> None:
    store["n"] = b"new"


def replace_by_writer(store: refstore.Store) -> None:
    with store.create(3, name="n", replace=True) as writer:
        memoryview(writer)[:] = b"new"


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("replace", [replace_by_put, replace_by_item, replace_by_writer])
def test_what_killed_pinners_kept_comes_back_when_replaced(
    store: refstore.Store, path: str, replace: Callable[[refstore.Store], None], count: int
) -> None:
    store["n"] = DATA
    pinned_by_the_killed(path, "n", count)
    replace(store)
    used, condemned = counts(store)
    assert condemned == 0
    assert used < len(DATA)
    assert bytes(store["n"]) == b"new"


def test_what_is_replaced_while_a_pinner_lives_stays_for_it(
    store: refstore.Store, path: str
) -> None:
    store["n"] = DATA
    with child_process(path) as child:
        child.do(workers.hold, "n")
        store["n"] = b"new"
        assert store.stats().condemned == 1
        helpers.fill_with_junk(store)
        assert child.do(workers.show) == DATA
        child.do(workers.drop)
        assert store.stats().condemned == 0


def test_the_dead_are_found_though_a_living_one_pins_too(store: refstore.Store, path: str) -> None:
    first, second = store.put(DATA), store.put(DATA)
    with child_process(path) as living:
        living.do(workers.hold, second)
        store.delete(second)
        pinned_by_the_killed(path, first, 2)
        store.delete(first)
        assert store.stats().condemned == 1
