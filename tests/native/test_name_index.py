"""Cells of the name index: an object's end empties its own, and one that leads nowhere is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import refstore
from tests.fuzz import layout

CAPACITY, OBJECTS = 1 << 20, 200
MANY = 65_000  # names: so that buckets fill up, if they are not chosen with care
BUCKET_CELLS = layout.constants()["BUCKET_CELLS"]
LEADS_NOWHERE = 1 << 36 | 999 << 16 | 7  # slot, a generation that it has not had, part of a hash

pytestmark = pytest.mark.native("looks into the name index")


class Index:
    """The cells of a store's file."""

    def __init__(self, path: str, max_objects: int = OBJECTS) -> None:
        self.path = path
        tables = {table.name: table for table in layout.native(CAPACITY, max_objects).tables}
        self.table = tables["Bucket"]

    def cells(self) -> list[int]:
        found = []
        with open(self.path, "rb") as file:
            for bucket in range(self.table.entries):
                file.seek(self.table.at + bucket * self.table.stride)
                raw = file.read(8 * BUCKET_CELLS)
                found += [int.from_bytes(raw[k : k + 8], "little") for k in range(0, len(raw), 8)]
        return found

    def fill(self, cell: int) -> None:
        with open(self.path, "r+b") as file:
            for bucket in range(self.table.entries):
                file.seek(self.table.at + bucket * self.table.stride)
                file.write(cell.to_bytes(8, "little") * BUCKET_CELLS)


@pytest.fixture
def cache(path: str) -> Iterator[refstore.Store]:
    with refstore.Store(
        path, capacity=CAPACITY, max_objects=OBJECTS, evict="lru", create=True
    ) as store:
        yield store
        assert store.check() == []
    os.unlink(path)


def delete_each(store: refstore.Store) -> None:
    for name in store.names():
        store.delete(name)


def delete_each_by_ref(store: refstore.Store) -> None:
    for ref in store:
        store.delete(ref)


def evict_all(store: refstore.Store) -> None:
    store.delete(store.put(bytes(CAPACITY)))


def delete_what_is_pinned(store: refstore.Store) -> None:
    bufs = store.get_many(store.names())
    store.clear()
    for buf in bufs:
        buf.release()


@pytest.mark.parametrize(
    "end", [delete_each, delete_each_by_ref, evict_all, delete_what_is_pinned, refstore.Store.clear]
)
def test_the_end_of_an_object_empties_its_cell(
    cache: refstore.Store, end: Callable[[refstore.Store], object]
) -> None:
    index = Index(cache.path)
    for number in range(100):
        cache.put(b"old", name=f"n{number % 50}", replace=True)
    assert sum(cell != 0 for cell in index.cells()) == 50
    end(cache)
    assert not any(index.cells())


def test_what_is_given_up_leaves_no_cell(cache: refstore.Store) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get_or_put("made", lambda: 1 // 0)
    writer = cache.create(10, name="claimed", claim=True)
    assert any(Index(cache.path).cells())
    writer.abort()
    assert not any(Index(cache.path).cells())


def test_cells_that_lead_nowhere_take_no_room(path: str) -> None:
    names = [f"n{number}" for number in range(MANY)]
    with refstore.Store(path, capacity=CAPACITY, max_objects=MANY, create=True) as store:
        index = Index(path, MANY)
        index.fill(LEADS_NOWHERE)
        for name in names:
            store.put(b"", name=name)
        assert LEADS_NOWHERE in index.cells()
        assert sorted(store.names()) == sorted(names)
        assert all(name in store for name in names)
        store.unlink()
