"""Who put an object: an entry that outlives the process as long as anything names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import workers
from children import child_process

import refstore
from tests.fuzz import layout

CAPACITY, OBJECTS = 1 << 20, 200
ORIGINS = layout.constants()["ORIGINS"]
ROW_BITS = 11  # of Origin.taken

pytestmark = pytest.mark.native("looks into the table of origins")


class Table:
    """The origins of a store's file."""

    def __init__(self, path: str) -> None:
        self.path = path
        tables = {table.name: table for table in layout.native(CAPACITY, OBJECTS).tables}
        self.origin = tables["Origin"]
        assert self.origin.fields[0].name == "taken"

    def taken(self, entry: int) -> int:
        with open(self.path, "rb") as file:
            file.seek(self.origin.at + entry * self.origin.stride)
            return int.from_bytes(file.read(8), "little")

    def take(self, entry: int, row: int) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self.origin.at + entry * self.origin.stride)
            file.write((1 << ROW_BITS | row + 1).to_bytes(8, "little"))

    def used(self) -> int:
        return sum(self.taken(entry) != 0 for entry in range(ORIGINS))


@pytest.fixture
def small(path: str) -> Iterator[refstore.Store]:
    with refstore.Store(path, capacity=CAPACITY, max_objects=OBJECTS, create=True) as store:
        yield store
        assert store.check() == []
    os.unlink(path)


def test_a_process_that_puts_nothing_takes_no_entry(small: refstore.Store, path: str) -> None:
    with child_process(small.path) as child:
        child.do(workers.names)
    assert Table(path).used() == 0
    small.put(b"x")
    small.put(b"y")
    assert Table(path).used() == 1


def test_what_a_process_put_names_it_when_it_is_gone(small: refstore.Store) -> None:
    pids = {}
    for name in ("first", "second"):
        with child_process(small.path) as child:
            child.do(workers.put, b"x", name)
            pids[name] = child.pid
    assert {name: small.info(name).pid for name in pids} == pids
    assert all("ServerProcess-" in small.info(name).command for name in pids)


def test_an_entry_that_nothing_names_is_taken_again(small: refstore.Store, path: str) -> None:
    table = Table(path)
    with child_process(small.path) as child:
        child.do(workers.put, b"x", "kept")
        kept = child.pid
    for entry in range(ORIGINS):
        if not table.taken(entry):
            table.take(entry, 1000)  # a row that nobody has
    for name in ("one", "two"):
        with child_process(small.path) as child:
            child.do(workers.put, b"x", name)
            assert small.info(name).pid == child.pid
    assert small.info("kept").pid == kept
    assert {small.info(name).pid for name in ("one", "two", "kept")} != {kept}


def test_a_process_keeps_its_entry_as_long_as_it_lives(small: refstore.Store, path: str) -> None:
    table = Table(path)
    with child_process(small.path) as child:
        child.do(workers.delete, child.do(workers.put, b"x"))
        for entry in range(ORIGINS):
            if not table.taken(entry):
                table.take(entry, 1000)
        small.put(b"mine", name="mine")
        child.do(workers.put, b"x", "theirs")
        assert small.info("theirs").pid == child.pid
        assert small.info("mine").pid == os.getpid()


def test_without_an_entry_objects_are_put_all_the_same(small: refstore.Store, path: str) -> None:
    with child_process(small.path) as child:  # it has a row, and has yet to say its entry
        table = Table(path)
        for entry in range(ORIGINS):
            table.take(entry, 1)  # the row of the second that attached
        ref = small.put(b"x")
        assert small.info(ref).pid == 0
        assert small.info(ref).command == ""
        assert bytes(small.get(ref)) == b"x"
        assert child.pid
    for entry in range(ORIGINS):
        with Path(path).open("r+b") as file:
            file.seek(table.origin.at + entry * table.origin.stride)
            file.write(bytes(8))
