"""Each bit of each hint of a store file is flipped, and no sealed object may change by it.

    python -m tests.fuzz.hints                  every bit: some minutes
    python -m tests.fuzz.hints --every=0.01     a sample by chance, seeded
    python -m tests.fuzz.hints --only=Pool      of what has that in its name

Some of the objects are pinned, some of these deleted. With the bit wrong, objects of all sizes are
put until the store is full, deleted, put again; memory is trimmed, the dead are recovered. A wrong
hint costs time: so nothing but a full store may be raised, and what fitted before fits again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import refstore
from tests.fuzz import layout
from tests.fuzz.layout import Table
from tests.native.crash import image

CAPACITY = 256 << 10
OBJECTS = 100
SIZES = (40_000, 20_000, 9000, 3000, 700, 110, 64, 1)
FIRST = 20  # small ones, while there are slots: they take what unowned blocks there are
FITS = 0.8  # of the bytes that a sound file takes: runs of another length waste more or less
BATCH = 200  # bits that one process flips before it tells

# Beside the tables of bits, all of which are hints but those of committed memory.
HINTS = {
    "Header": {"moves", "totals"},
    "Pool": {"top", "unowned_blocks", "bin_bits", "class_pages", "bin_head", "release_next"},
    "Row": {"pid", "recoverer", "command", "counters"},
    "Run": {"free", "unowned", "slots"},
    "Bucket": {"cells"},
    "PageTag": {"head", "tail", "next", "prev"},
}
ENTRIES = {"Row": 2, "Run": 24}  # as many as are used, or a few


class Bit(NamedTuple):
    """One bit of the file."""

    what: str
    at: int  # byte
    bit: int


class Populated(NamedTuple):
    """A file with objects in it, nobody attached."""

    image: image.Image
    objects: dict[bytes, bytes]  # by ref
    fits: int  # bytes that can be put into it still


def bits() -> Iterator[Bit]:
    """All that are hints."""
    for table in layout.native(CAPACITY, OBJECTS).tables:
        for entry in range(_entries(table)):
            for field in table.fields:
                if not _is_hint(table, field.name):
                    continue
                at = table.at + entry * table.stride + field.at
                for n in range(field.n * field.width * 8):
                    yield Bit(f"{table.name}[{entry}].{field.name}", at + n // 8, n % 8)


def _is_hint(table: Table, field: str) -> bool:
    return table.name.endswith("_bits") or field in HINTS.get(table.name, ())


def _entries(table: Table) -> int:
    if table.name == "used_bits":  # the table is one of pages, up to where the data begins
        return CAPACITY // 4096 // 64 + 1
    return min(table.entries, ENTRIES.get(table.name, table.entries))


def pattern(number: int, nbytes: int) -> bytes:
    """Bytes that no other number has."""
    return (number.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]


def populate(path: str) -> Populated:
    """Runs with and without free blocks, with unowned ones; extents, free pages between them."""
    store = refstore.Store(path, capacity=CAPACITY, max_objects=OBJECTS, create=True)
    small = [store.put(pattern(n, 60)) for n in range(70)]
    large = [store.put(pattern(100 + n, 8 * 4096)) for n in range(4)]
    for ref in (*(one for n, one in enumerate(small) if n % 7), large[0], large[2]):
        store.delete(ref)  # no run is empty
    some = [store.put(pattern(200 + n, 700)) for n in range(20)]
    some += [store.put(pattern(300 + n, 12_000)) for n in range(3)]
    for ref in (*some[::3], some[-1]):
        store.delete(ref)
    for n in range(4):
        store.put(pattern(400 + n, 3000), name=f"name {n}")
    for n in range(3):
        store.put(pattern(500 + n, 1500))  # slots are short: small blocks become unowned
    objects = {bytes(ref): bytes(store.get(ref)) for ref in store}
    store.close()
    taken = image.take(path)
    store = refstore.Store(path, create=False)
    fits = _fill(store, {})
    store.close()
    os.unlink(path)
    return Populated(taken, objects, fits)


def _fill(store: refstore.Store, new: dict[refstore.ObjectRef, bytes]) -> int:
    """Put objects of all sizes until none fits; how many bytes that were."""
    before = sum(map(len, new.values()))
    with contextlib.suppress(refstore.StoreFullError):
        for _ in range(FIRST):
            data = pattern(1000 + len(new), 60)
            new[store.put(data)] = data
    for size in SIZES:
        with contextlib.suppress(refstore.StoreFullError):
            while True:
                data = pattern(1000 + len(new), size)
                new[store.put(data)] = data
    return sum(map(len, new.values())) - before


def _demand(store: refstore.Store, objects: dict[bytes, bytes], what: str) -> None:
    for ref, data in objects.items():
        with store.get(refstore.ObjectRef(ref)) as buf:
            assert bytes(buf) == data, what


def play(path: str, populated: Populated, flipped: Bit, attached: bool) -> None:
    """AssertionError or RefstoreError if the bit costs more than time.

    `attached`: the bit flips while we are.
    """
    image.put_back(path, populated.image)
    if not attached:
        _flip(path, flipped)
    store = refstore.Store(path, create=False)
    live = dict(populated.objects)
    pinned = {ref: store.get(refstore.ObjectRef(ref)) for ref in list(live)[::2]}
    if attached:
        _flip(path, flipped)
    for ref in list(pinned)[::3]:
        store.delete(refstore.ObjectRef(ref))
        del live[ref]
    new: dict[refstore.ObjectRef, bytes] = {}
    fits = _fill(store, new)
    assert fits >= FITS * populated.fits, f"only {fits} bytes of {populated.fits} fit"
    _demand(store, live, "a sealed object was overwritten")
    _demand(store, {bytes(ref): data for ref, data in new.items()}, "two objects share room")
    for own in list(new)[::2]:
        store.delete(own)
        del new[own]
    store.trim()
    store.recover()
    _fill(store, new)
    _demand(store, live, "a sealed object was overwritten at last")
    _demand(store, {bytes(ref): data for ref, data in new.items()}, "two objects share room")
    for ref, buf in pinned.items():
        assert bytes(buf) == populated.objects[ref], "a pinned object was overwritten"
        buf.release()
    store.close()


def _flip(path: str, flipped: Bit) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, flipped.at)
        os.pwrite(fd, bytes([byte ^ 1 << flipped.bit]), flipped.at)
    finally:
        os.close(fd)


def play_all(folder: str, chosen: Sequence[tuple[int, Bit]]) -> list[str]:
    """In a process of its own: what was found."""
    gc.collect()
    gc.freeze()  # a full store looks for garbage first
    path = os.path.join(folder, f"store-{os.getpid()}")
    populated = populate(path)
    found = [_fault(path, populated, flipped, number % 2 == 1) for number, flipped in chosen]
    os.unlink(path)
    return [fault for fault in found if fault]


def _fault(path: str, populated: Populated, flipped: Bit, attached: bool) -> str:
    try:
        play(path, populated, flipped, attached)
    except (AssertionError, refstore.RefstoreError) as error:
        return f"bit {flipped.bit} of byte {flipped.at}, {flipped.what}: {error}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--every", type=float, default=1.0, help="share of the bits")
    parser.add_argument("--only", default="", help="a part of the names of those to flip")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    chosen = [one for one in enumerate(bits()) if options.only in one[1].what]
    chosen = [one for one in chosen if chance.random() < options.every]
    chance.shuffle(chosen)
    found = _in_batches(chosen, options.jobs)
    print(f"{len(chosen)} bits flipped, seed {options.seed}: {len(found)} findings")
    for line in found[:20]:
        print(line)
    return 1 if found else 0


def _in_batches(chosen: Sequence[tuple[int, Bit]], jobs: int) -> list[str]:
    shared = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="refstore-hints-", dir=shared if shared.is_dir() else None)
    try:
        with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
            batches = [chosen[at : at + BATCH] for at in range(0, len(chosen), BATCH)]
            asked = [pool.submit(play_all, folder, batch) for batch in batches]
            answers = zip(batches, asked, strict=True)
            return [fault for batch, answer in answers for fault in _answer(batch, answer)]
    finally:
        shutil.rmtree(folder)


def _answer(
    batch: Sequence[tuple[int, Bit]], answer: concurrent.futures.Future[list[str]]
) -> list[str]:
    try:
        return answer.result()
    except BrokenProcessPool:
        return [f"a crash, by one of the {len(batch)} bits from {batch[0][1]} on, or before it"]


if __name__ == "__main__":
    sys.exit(main())
