"""Numbers of a filelock store's file that cannot be: each is an error that names the field."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import refstore
from refstore.engines.filelock import layout

CAPACITY, OBJECTS = 1 << 20, 16
G = layout.lay_out(CAPACITY, OBJECTS)
HUGE = (1 << 64) - 1
Work = Callable[[refstore.Store], object]


def set_word(path: str, word: int, value: int) -> None:
    with open(path, "r+b") as file:
        file.seek(word * 8)
        file.write(struct.pack("=Q", value))


def put(store: refstore.Store) -> None:
    store.put(b"x" * 1000)


def names(store: refstore.Store) -> None:
    store.names()


def look_for_many(store: refstore.Store) -> None:
    for number in range(10_000):  # which names share a chain is the file's secret
        assert f"other {number}" not in store


def slot(field: int) -> int:
    """A word of the slot of the object "n"."""
    return G.slots + field


WHOLE = layout.bin_of(G.units - 1)

DAMAGES: dict[str, tuple[int, int, Work, str]] = {
    "slots used": (layout.SLOTS_USED, OBJECTS + 1, len, "17 slots are used of 16"),
    "free slots": (layout.FREE_SLOT, 9, put, "list of free slots leads to slot 8"),
    "journal": (layout.COUNT, layout.PAIRS + 1, len, "the journal's count is 257"),
    "bitmap": (layout.BITMAP, 1 << 20, put, "the bitmap says that bin 20"),
    "bin": (G.bins + WHOLE, HUGE, put, "touches unit"),
    "size of an extent": (G.tags + 2, 0, put, "the tag of unit 1 has 0 units"),
    "generation": (slot(layout.WORD), HUGE ^ 0xFF | layout.SEALED, list, "generation"),
    "offset": (
        slot(layout.OFFSET),
        HUGE,
        lambda s: s.get("n"),
        "slot 0 has an invalid value for the place of the object",
    ),
    "size": (
        slot(layout.NBYTES),
        HUGE,
        lambda s: s.get("n"),
        "slot 0 has an invalid value for the place of the object",
    ),
    "kind": (
        slot(layout.SHAPE),
        1 << 8 | 7,
        lambda s: s.get("n"),
        "slot 0 has an invalid value for the kind of the object",
    ),
    "origin": (
        slot(layout.ORIGIN),
        OBJECTS + layout.MAX_ROWS + 1,
        lambda s: s.info("n"),
        "origin 273 of 272",
    ),
    "length of meta": (
        slot(layout.META),
        HUGE,
        lambda s: s.get("n").meta,
        "slot 0 has an invalid value for the length of the meta",
    ),
    "meta beyond its block": (
        slot(layout.META),
        1000,
        lambda s: s.get("n").meta,
        "slot 0 has an invalid value for the length of the meta",
    ),
    "length of a name": (slot(layout.SHAPE), 300 << 8, names, "name of slot 0 has 300 bytes"),
    "name": (G.labels // 8, HUGE, names, "not UTF-8"),
    "a chain's loop": (slot(layout.NEXT), 1, look_for_many, "a chain of the index leads to slot 0"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", DAMAGES)
def test_what_cannot_be_is_an_error_that_names_it(folder: Path, path: str, what: str) -> None:
    word, value, work, sentence = DAMAGES[what]
    store = refstore.Store(path, capacity=CAPACITY, max_objects=OBJECTS)
    store.put(b"x" * 10, name="n")
    set_word(path, word, value)
    with pytest.raises(refstore.StoreCorruptedError, match=sentence):
        work(store)
    del store
    for entry in folder.iterdir():
        if entry.is_dir():
            for lock in entry.iterdir():
                lock.unlink()
            entry.rmdir()
        else:
            entry.unlink()
