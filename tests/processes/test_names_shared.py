"""Names under concurrent writers and readers: always one object, whole, never going back."""

from __future__ import annotations

import itertools

import engines
import helpers
import pytest
import workers
from children import child_processes

import refstore


@pytest.mark.parametrize("size", [1, 1000, 40_000])
def test_a_published_name_always_resolves_while_it_is_replaced(
    store: refstore.Store, path: str, size: int
) -> None:
    versions = engines.rounds(3000 if size < 10_000 else 800, 10)
    store.put(bytes(size), name="model")
    with child_processes(3, path) as (writer, *readers):
        for reader in readers:
            reader.tell(workers.follow, "model", versions, size)
        writer.tell(workers.publish, "model", versions, size)
        writer.answer()
        assert all(reader.answer() >= 1 for reader in readers)
    assert store["model"].nbytes == size + versions
    assert len(store) == 1
    del store["model"]
    helpers.assert_full_capacity_fits(store)


def test_two_writers_of_one_name_leave_one_object(store: refstore.Store, path: str) -> None:
    versions = engines.rounds(1500)
    store.put(b"", name="model")
    with child_processes(3, path) as children:
        for child in children:
            child.tell(workers.publish, "model", versions, 64)
        for child in children:
            child.answer()
    assert len(store) == 1
    assert store["model"].nbytes == 64 + versions
    assert store.stats().condemned == 0
    del store["model"]
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


def test_the_first_to_publish_wins_and_the_others_are_told(
    store: refstore.Store, path: str
) -> None:
    with child_processes(3, path) as children:
        for mark, child in enumerate(children):
            child.tell(workers.take_names, 500, mark)
        won = [child.answer() for child in children]
    assert sorted(itertools.chain.from_iterable(won)) == list(range(500))
    for mark, numbers in enumerate(won):
        for number in numbers:
            assert bytes(store[f"prize {number}"]) == bytes([mark])
    assert len(store) == 500


def test_each_object_is_deleted_by_just_one_process(store: refstore.Store, path: str) -> None:
    refs = [store.put(helpers.pattern(i, 100 + i)) for i in range(1000)]
    with child_processes(3, path) as children:
        for child in children:
            child.tell(workers.delete_all, refs)
        assert sum(child.answer() for child in children) == 1000
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)
