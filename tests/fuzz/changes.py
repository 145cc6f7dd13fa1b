"""What is done to a file: fields by name, bits, words, entries and pages, its length, its kind.

All that is left to chance comes from a `random.Random`, so an image is made again by its seeds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Callable

from tests.fuzz.files import File
from tests.fuzz.layout import Field, Table

PAGE = 4096
WEIGHTS = {  # of tables; 1 for those that are not named
    "Header": 4,
    "Pool": 8,
    "Row": 6,
    "NameLock": 2,
    "Run": 8,
    "Slot": 30,
    "Label": 14,
    "Bucket": 6,
    "PageTag": 4,
    "pins": 5,
    "Frame": 8,
    "Journal": 6,
    "bins": 3,
    "buckets": 5,
    "tags": 6,
}
TEXTS = (
    *(b"O", b"|O", b"t", b"p", b"t|O8", b"t<f8", b"t>c16", b"t|V0", b"t|S0", b"t<U99999999"),
    *(b"t|S2147483647", b"t<M8[s]", b"t<M8[99999999999s]", b"t<m8[ps/7]", b"t|b1", b"t\xff\xfe"),
    *(b"t(9999999,9999999)f8", b"tf8,O", b"ti4, (2,3)f8", b"t{}", b"\xff", b"\x80", b"\0", b"\xed"),
)


class Hand:
    """Changes one file, by chance."""

    def __init__(
        self, fd: int, file: File, chance: random.Random, say: Callable[[str], object]
    ) -> None:
        self.fd = fd
        self.file = file
        self.chance = chance
        self.say = say  # what was changed, for people
        self.tables = file.layout.tables
        self._weights = list(
            itertools.accumulate(WEIGHTS.get(table.name, 1) for table in self.tables)
        )

    def change(self, *, may_cut: bool) -> None:
        """One to sixteen changes, most often one."""
        draw = self.chance.random()
        times = 1 if draw < 0.6 else 2 + int(4 * self.chance.random())
        if draw > 0.94:
            times = 16
        for _ in range(times):
            self.one(may_cut)

    def one(self, may_cut: bool) -> None:
        """One change."""
        draw = self.chance.random()
        if draw < 0.80:
            self.field()
        elif draw < 0.84:
            self.bit()
        elif draw < 0.87:
            self.word()
        elif draw < 0.95:
            self.entries()
        elif draw < 0.98 or not may_cut:
            self.pages()
        else:
            self.length()

    # --- fields by name

    def table(self) -> int:
        return self.chance.choices(range(len(self.tables)), cum_weights=self._weights)[0]

    def entry(self, number: int) -> int:
        """An entry of a table, most often one that is in use."""
        table, used = self.tables[number], self.file.used[number]
        draw = self.chance.random()
        if used and (draw < 0.85 or table.name == "Frame"):
            return self.chance.choice(used)
        if used and draw < 0.93:
            return min(used[-1] + 1, table.entries - 1)
        if draw < 0.97:
            return int(min(table.entries, 4) * self.chance.random())
        return int(table.entries * self.chance.random())

    def field(self) -> None:
        """A field gets a value that is extreme, near a limit, or near what it was."""
        number = self.table()
        table = self.tables[number]
        entry = self.entry(number)
        field = self.chance.choice(table.fields)
        at = table.at + entry * table.stride + field.at
        if field.n > 16 and field.width == 1 and self.chance.random() < 0.5:
            self.text(table, entry, field, at)
            return
        element = self.element(field, at)
        at += element * field.width
        old = self.read(at, field.width)
        new = self.value(old, field)
        self.write(at, new.to_bytes(field.width, "little"))
        index = f"[{element}]" if field.n > 1 else ""
        self.say(f"{table.name}[{entry}].{field.name}{index}: {old:#x} -> {new:#x}")

    def element(self, field: Field, at: int) -> int:
        if field.n == 1:
            return 0
        if self.chance.random() < 0.6:
            octets = os.pread(self.fd, field.n * field.width, at)
            used = [i for i, octet in enumerate(octets) if octet]
            if used:
                return self.chance.choice(used) // field.width
        return int(field.n * self.chance.random())

    def text(self, table: Table, entry: int, field: Field, at: int) -> None:
        """Some letters of a name or of a description."""
        text = self.chance.choice(TEXTS)
        draw = self.chance.random()
        n = 0
        if draw > 0.3:
            old = os.pread(self.fd, field.n, at).rstrip(b"\0")
            n = int((len(old) + 1) * self.chance.random())
        if draw > 0.9:
            text = text * 300
        self.write(at + n, text[: field.n - n])
        self.say(f"{table.name}[{entry}].{field.name}[{n}:] = {text[:20]!r}")

    def value(self, old: int, field: Field) -> int:
        if field.parts and self.chance.random() < 0.6:
            first, bits = self.chance.choice(field.parts)
            mask = (1 << bits) - 1
            return old & ~(mask << first) | self.number(old >> first & mask, bits) << first
        return self.number(old, 8 * field.width)

    def number(self, old: int, bits: int) -> int:
        """A number of so many bits to put in the place of `old`."""
        top = (1 << bits) - 1
        chance = self.chance
        draw = int(12 * chance.random())
        if draw == 0:
            new = chance.choice((0, 1, top, top - 1, top >> 1, (top >> 1) + 1))
        elif draw == 1:
            new = int(16 * chance.random())
        elif draw < 4:
            new = old ^ 1 << int(bits * chance.random())
        elif draw < 6:
            new = old + chance.choice((-64, -2, -1, 1, 2, 64, 4096))
        elif draw < 10:
            new = chance.choice(self.file.layout.numbers) + chance.choice((-1, 0, 0, 1))
        elif draw == 10:
            new = 1 << int(bits * chance.random())
        else:
            new = chance.getrandbits(bits)
        return new & top

    # --- without names

    def place(self) -> int:
        """Some byte that is not in a hole."""
        at, data = self.chance.choice(self.file.pieces)
        return at + int(len(data) * self.chance.random())

    def bit(self) -> None:
        at = self.place()
        old = self.read(at, 1)
        self.write(at, bytes([old ^ 1 << int(8 * self.chance.random())]))
        self.say(f"a bit of the byte at {at:#x}")

    def word(self) -> None:
        at = self.place() & ~7
        new = self.number(self.read(at, 8), 64)
        self.write(at, new.to_bytes(8, "little"))
        self.say(f"the word at {at:#x} = {new:#x}")

    def entries(self) -> None:
        """An entry is what another one was, both are each other, or nothing is left of it."""
        number = self.table()
        table = self.tables[number]
        places = [table.at + self.entry(number) * table.stride for _ in range(2)]
        self.regions(table.name, places, table.stride)

    def pages(self) -> None:
        places = [self.place() // PAGE * PAGE for _ in range(2)]
        self.regions("page", places, PAGE)

    def regions(self, what: str, places: list[int], nbytes: int) -> None:
        octets = [os.pread(self.fd, nbytes, at) for at in places]
        draw = int(5 * self.chance.random())
        if draw == 0:
            self.write(places[0], bytes(nbytes))
        elif draw == 1:
            self.write(places[0], b"\xff" * nbytes)
        else:
            self.write(places[0], octets[1])
        if draw == 4:
            self.write(places[1], octets[0])
        ways = ("zeros", "ones", "copied", "copied", "swapped")
        self.say(f"{what} at {places[0]:#x}, {places[1]:#x}: {ways[draw]}")

    def length(self) -> None:
        size = self.file.layout.file_size
        limits = (0, 1, 4095, 4096, size - 1, size + 1, size - PAGE, size + PAGE, 2 * size)
        new = self.chance.choice((*limits, int(size * self.chance.random())))
        os.ftruncate(self.fd, new)
        self.say(f"the file has {new} bytes and not {size}")

    # --- bytes

    def read(self, at: int, width: int) -> int:
        return int.from_bytes(os.pread(self.fd, width, at), "little")

    def write(self, at: int, data: bytes) -> None:
        os.pwrite(self.fd, data, at)


# --- something else in its place


def _folder(path: str, chance: random.Random) -> None:
    os.mkdir(path)


def _fifo(path: str, chance: random.Random) -> None:
    os.mkfifo(path)


def _nowhere(path: str, chance: random.Random) -> None:
    os.symlink(path + "-nowhere", path)


def _link(path: str, chance: random.Random) -> None:
    os.symlink(path + "-else", path)


def _hard_link(path: str, chance: random.Random) -> None:
    os.link(path + "-else", path)


def _bytes(path: str, chance: random.Random) -> None:
    _write(path, chance.randbytes(int(9000 * chance.random())))


def _short(path: str, chance: random.Random) -> None:
    with open(path + "-else", "rb") as file:
        _write(path, file.read(int(9000 * chance.random())))


def _empty(path: str, chance: random.Random) -> None:
    _write(path, b"")


def _socket(path: str, chance: random.Random) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


def _head_of_other_engine(path: str, chance: random.Random) -> None:
    with open(path + "-else", "rb") as file:
        head = bytearray(file.read())
    head[12:13] = bytes([chance.choice((1, 2, 3))])
    _write(path, bytes(head))


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


KINDS: tuple[Callable[[str, random.Random], None], ...] = (
    *(_folder, _fifo, _nowhere, _link, _hard_link, _bytes, _short, _empty, _socket),
    _head_of_other_engine,
)


def put_another_kind(path: str, chance: random.Random) -> str:
    """Something else where a store's file is; who has that keeps it. Returns what."""
    kind = chance.choice(KINDS)
    with contextlib.suppress(FileNotFoundError):  # a temporary store may have been removed
        os.rename(path, path + "-else")
        kind(path, chance)
    return kind.__name__.strip("_").replace("_", " ")
