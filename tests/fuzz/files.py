"""The sound files that are damaged: populated stores of both engines, as images in memory.

They are the same in every run, but for pids and clocks: what is random in a store's header is not
random here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickletools
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np

import refstore
from refstore._paths import TEMPORARY_PREFIX
from refstore.engines import choice as engines
from refstore.engines.filelock import layout as locked
from refstore.payload import frames
from tests.fuzz import layout
from tests.native.crash import image

CAPACITY = 256 << 10
OBJECTS = 200
MID_CHANGE = 12  # files whose last user died amid a change
STREAM = b"\x80\x05\x95"  # begins a pickle of protocol 5
SOME_BYTES = bytes(range(200))

Ref = bytes


class File(NamedTuple):
    """A sound file."""

    name: str
    engine: str
    layout: layout.Layout
    pieces: tuple[tuple[int, bytes], ...]  # what is not zero
    used: tuple[tuple[int, ...], ...]  # of each table of the layout, entries that are not zero
    alive: tuple[int, ...]  # rows in use: whoever holds their locks lives
    refs: tuple[Ref, ...]  # live, condemned and gone
    names: tuple[str, ...]
    is_temporary: bool

    @property
    def file_name(self) -> str:
        return TEMPORARY_PREFIX + "1-fuzz" if self.is_temporary else "store"


class Shelf:
    """What goes into a store, and what is known of it afterwards."""

    def __init__(self, store: refstore.Store) -> None:
        self.store = store
        self.refs: list[Ref] = []

    def put(self, obj: object, name: str | None = None, **options: Any) -> None:
        with contextlib.suppress(refstore.StoreFullError):
            self.refs.append(bytes(self.store.put(obj, name=name, **options)))

    def delete(self, number: int) -> None:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            self.store.delete(refstore.ObjectRef(self.refs[number]))


def objects() -> dict[str, object]:
    """One of each kind that is stored in a way of its own."""
    cube = np.arange(24, dtype="i4").reshape(2, 3, 4)
    long = [(f"a long field name, number {k}", "<f4", (2,)) for k in range(4)]
    spilled = [(f"a long field name, number {k}", "<f4") for k in range(60)]
    return {
        "bytes": SOME_BYTES,
        "nothing": b"",
        "large": bytes(range(256)) * 160,
        "C": cube,
        "F": np.asfortranarray(cube),
        "K": cube.transpose(1, 2, 0),
        "times": np.arange(6).astype("M8[s]").reshape(2, 3).T,
        "record": np.zeros(3, [("x", "i2"), ("y", "f8", (2,))]),
        "described": np.zeros(5, long),
        "spilled": np.zeros(2, spilled),
        "zero size": np.zeros((0, 3), "f4"),
        "scalar": np.array(5.0),
        "many axes": np.zeros((1,) * 9 + (3,), "u1"),
        "text": np.array(["ab", "cde"]),
        "object": {"w": np.arange(400.0), "v": np.arange(300, dtype="i2"), "step": 1},
        "nested": [np.asfortranarray(cube), ("x", {"y": bytearray(5000)}), None],
        "masked": np.ma.masked_array(np.arange(300.0), np.arange(300) % 7 == 0),
        "broadcast": np.broadcast_to(np.arange(3.0), (50, 3)),
        "plain": ["no buffer", 1, 2.5],
    }


def _populate(shelf: Shelf, *, times: int = 1) -> None:
    for k in range(times):
        for name, obj in objects().items():
            shelf.put(obj, f"{name} {k}" if k else name)
        shelf.put(b"with meta", f"meta {k}", meta=b"m" * 40)
        shelf.put(np.arange(700.0), f"evictable {k}", evictable=True)
        for size in (1, 64, 110, 700, 3000):
            shelf.put(bytes([size % 251]) * size)


def _empty(shelf: Shelf) -> None:
    pass


def _populated(shelf: Shelf) -> None:
    _populate(shelf)
    shelf.put(b"gone")
    shelf.delete(-1)


def _full(shelf: Shelf) -> None:
    _populate(shelf)
    for size in (30_000, 5000, 700, 64):
        for _ in range(40):
            shelf.put(bytes([size % 251]) * size)


def _full_of_slots(shelf: Shelf) -> None:
    _populate(shelf)
    for k in range(OBJECTS):
        shelf.put(b"", f"name {k}" if k % 3 else None)
    for number in range(-20, -1, 5):
        shelf.delete(number)


def _fragmented(shelf: Shelf) -> None:
    _populate(shelf)
    first = len(shelf.refs)
    for k in range(60):
        shelf.put(bytes([k]) * (64 << k % 8))
    for k in range(5):
        shelf.put(bytes([k]) * (4096 * (9 + k)))
    for number in range(first, len(shelf.refs), 2):
        shelf.delete(number)


def _replaced(shelf: Shelf) -> None:
    _populate(shelf)
    for k in range(12):
        for name in ("bytes", "C", "object", "é" * 100):
            shelf.put(bytes([k]) * (40 * k), name, replace=True)
    shelf.delete(3)


def _held(shelf: Shelf) -> None:
    """Held by somebody who is gone: pins, deleted objects, open Writers, a claim, a name in the
    making, and what it owned."""
    _populate(shelf)
    first = len(shelf.refs)
    for size in (20, 5000, 40_000):
        shelf.put(bytes([7]) * size)
    _another(shelf.store, lambda store: _hold(store, shelf.refs[first:]))


def _hold(store: refstore.Store, deleted: list[Ref]) -> object:
    held = [store.get(ref) for ref in store]
    for raw in deleted:
        store.delete(refstore.ObjectRef(raw))
    writers = [store.create(9000, name="unfinished"), store.create(shape=(3, 4), dtype="i2")]
    writers.append(store.create(300, name="claimed", claim=True))
    store.put(b"owned", name="owned", owned=True)
    kept = held, writers, memoryview(writers[0])
    store.get_or_put("in the making", lambda: os.kill(os.getpid(), signal.SIGKILL))
    return kept


def _crowded(shelf: Shelf) -> None:
    """Many rows whose processes are gone, each with pins."""
    _populate(shelf)
    for k in range(3):
        _another(shelf.store, functools.partial(_hold_some, k))


def _hold_some(k: int, store: refstore.Store) -> object:
    return [store.get(ref) for ref in list(store)[k::3]]


def _another(store: refstore.Store, work: Callable[[refstore.Store], object]) -> None:
    """A process that attaches, does something, and is killed."""
    path = store.path
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            kept = refstore.Store(path, create=False)
            held = work(kept)
            assert held is not None
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    os.waitpid(child, 0)


def _cached(shelf: Shelf) -> None:
    """More than there is room for, in a store that evicts; some of it is read, some often."""
    _populate(shelf)
    for k in range(150):
        shelf.put(bytes([k]) * (64 << k % 9), f"cached {k}", evictable=k % 5 != 0)
        for name in (f"cached {k // 2}", "evictable 0"):
            if name in shelf.store:
                shelf.store.get(name).release()


def _mid_change(shelf: Shelf, number: int) -> None:
    """Whoever was at it died at a failpoint; of a build without them, at the end."""
    _populate(shelf)
    _another(shelf.store, functools.partial(_die, number))


def _die(number: int, store: refstore.Store) -> object:
    from refstore import _core

    if _core.DEBUG:
        _core._arm(len(_core._failpoints()) * number // MID_CHANGE + 3, signal.SIGKILL)
    for _ in range(2):
        for size in (50, 1500, 36_000):
            store.put(bytes(size))
            store.put(bytes(size), name="bytes", replace=True)
        for name in ("C", "object", "large"):
            with store.get(name):
                store.delete(name)
            store.put(SOME_BYTES, name=name)
            store.delete_many(store.put_many([b"", bytes(900), bytes(40_000)]))
    store.trim()
    return [store.get(ref) for ref in store]


KINDS: dict[str, Callable[[Shelf], None]] = {
    "empty": _empty,
    "populated": _populated,
    "full": _full,
    "full of slots": _full_of_slots,
    "fragmented": _fragmented,
    "replaced": _replaced,
    "held": _held,
    "crowded": _crowded,
}


# --- made, and taken


def make_all(engine: str, folder: str) -> list[File]:
    """Every file of an engine. This process is attached to none of them afterwards."""
    made = [_make(engine, folder, name, fill) for name, fill in KINDS.items()]
    made.append(_make(engine, folder, "temporary", _populated, is_temporary=True))
    made.append(_make(engine, folder, "lru", _cached, evict="lru"))
    made.append(_make(engine, folder, "s3fifo", _cached, evict="s3fifo"))
    made.append(_make(engine, folder, "larger", _populated, capacity=1 << 20, objects=2000))
    if engine == "native":
        for number in range(MID_CHANGE):
            fill = functools.partial(_mid_change, number=number)
            made.append(_make(engine, folder, f"mid change {number}", fill))
    else:
        made.append(_with_journal(next(file for file in made if file.name == "populated")))
    return made


def _make(
    engine: str,
    folder: str,
    name: str,
    fill: Callable[[Shelf], None],
    *,
    capacity: int = CAPACITY,
    objects: int = OBJECTS,
    is_temporary: bool = False,
    evict: Literal["lru", "s3fifo"] | None = None,
) -> File:
    path = os.path.join(folder, "store")
    with _not_random(name):
        claim = engines.load(engine).make_file(path, capacity, objects, 0o600, is_temporary, evict)
    with refstore.Store(path, create=False) as store:
        shelf = Shelf(store)
        fill(shelf)
        names = tuple(sorted(store.names()))
    if claim is not None:
        claim.give_back()
    taken = image.take(path)
    for entry in os.scandir(folder):
        _remove(entry.path)
    shape = layout.of(engine, capacity, objects)
    return File(
        name=name,
        engine=engine,
        layout=shape,
        pieces=taken.pieces,
        used=used_entries(shape, taken),
        alive=tuple(taken.rows()) if engine == "native" else (),
        refs=tuple(shelf.refs),
        names=names,
        is_temporary=is_temporary,
    )


def _remove(path: str) -> None:
    if os.path.isdir(path):
        for entry in os.listdir(path):
            os.unlink(os.path.join(path, entry))
        os.rmdir(path)
    else:
        os.unlink(path)


@contextlib.contextmanager
def _not_random(name: str) -> Iterator[None]:
    chance = random.Random(name)
    with mock.patch("os.urandom", chance.randbytes):
        yield


def _with_journal(file: File) -> File:
    """Its last user died when a change was in the journal: as it is, it changes nothing."""
    octets = bytearray(file.layout.file_size)
    for at, data in file.pieces:
        octets[at : at + len(data)] = data
    words = memoryview(octets).cast("Q")
    slots = next(table for table in file.layout.tables if table.name == "Slot")
    first = slots.at // 8
    indices = [locked.SLOTS_USED, locked.FREE_SLOT, first, first + 16, first + 33, first + 39]
    for number, index in enumerate(indices):
        words[locked.JOURNAL + 2 * number] = index
        words[locked.JOURNAL + 2 * number + 1] = words[index]
    words[locked.COUNT] = len(indices)
    words[locked.HOLDER] = 1
    head = 16 << 10
    pieces = [(0, bytes(octets[:head]))]
    for at, data in file.pieces:
        if at + len(data) > head:
            skip = max(head - at, 0)
            pieces.append((at + skip, data[skip:]))
    taken = image.Image(file.layout.file_size, tuple(pieces))
    return file._replace(name="journal", pieces=taken.pieces, used=used_entries(file.layout, taken))


def used_entries(shape: layout.Layout, taken: image.Image) -> tuple[tuple[int, ...], ...]:
    """Of each table, the entries that are not zero; of frames, what begins like one."""
    found: list[tuple[int, ...]] = []
    for table in shape.tables:
        end = table.at + table.stride * table.entries
        seen: list[int] = []
        for at, data in taken.pieces:
            first, last = max(at, table.at), min(at + len(data), end)
            if first < last:
                begin = (first - table.at) // table.stride
                for number in range(begin, -(-(last - table.at) // table.stride)):
                    offset = table.at + number * table.stride - at
                    octets = data[max(offset, 0) : offset + table.stride]
                    if any(octets) and (table.name != "Frame" or octets.startswith(frames.MAGIC)):
                        seen.append(number)
        found.append(tuple(seen))
    return tuple(found)


def streams(files: list[File]) -> set[bytes]:
    """Every pickle that is in one of the files."""
    found = set()
    for file in files:
        for _, data in file.pieces:
            at = data.find(STREAM)
            while at >= 0:
                with contextlib.suppress(ValueError):
                    *_, (_, _, end) = pickletools.genops(data[at:])
                    found.add(data[at : at + (end or 0) + 1])
                at = data.find(STREAM, at + 1)
    return found
