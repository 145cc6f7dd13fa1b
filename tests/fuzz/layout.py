"""Every field of a store file by name: where it is, how wide, and how many of it there are.

The native engine's come from `layout.pxd` itself, the filelock engine's from the constants of
`refstore.engines.filelock.layout`, so a change of the layout is followed here by itself.
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import types
from pathlib import Path
from typing import Any, NamedTuple

from refstore.engines.filelock import layout as locked
from refstore.payload import frames

ROOT = Path(__file__).parents[2]
INTS = {
    "uint8_t": ctypes.c_uint8,
    "char": ctypes.c_uint8,
    "uint16_t": ctypes.c_uint16,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
}


class Field(NamedTuple):
    """A number, or a row of them, in each entry of a table."""

    name: str
    at: int  # bytes from the beginning of the entry
    width: int  # bytes
    n: int = 1
    parts: tuple[tuple[int, int], ...] = ()  # first bit and bits of numbers that are packed in it


class Table(NamedTuple):
    """Entries of one kind."""

    name: str
    at: int  # bytes from the beginning of the file
    stride: int
    entries: int
    fields: tuple[Field, ...]


class Layout(NamedTuple):
    """Of one file."""

    tables: tuple[Table, ...]
    file_size: int
    data: int
    numbers: tuple[int, ...]  # sizes, counts and offsets: what is near one of them is of interest


# --- the native engine

PARTS = {
    "Slot.word": ((0, 12), (12, 4), (16, 48)),
    "Slot.extent": ((0, 32), (32, 32)),
    "Bucket.cells": ((0, 16), (16, 20), (36, 28)),
}
STRUCTS = {  # of a geometry's regions
    "pool": "Pool",
    "rows": "Row",
    "name_locks": "NameLock",
    "origins": "Origin",
    "runs": "Run",
    "slots": "Slot",
    "labels": "Label",
    "metas": "Meta",
    "index": "Bucket",
    "page_map": "PageTag",
}


class _Geometry(types.SimpleNamespace):
    """What `lay_out` fills."""


class _Cursor:
    at = 0


@functools.cache
def _source(name: str = "layout.pxd") -> str:
    return (ROOT / "refstore" / "engines" / "native" / name).read_text()


@functools.cache
def constants() -> dict[str, int]:
    """The enums of `layout.pxd`."""
    found: dict[str, int] = {}
    for body in re.findall(r"^cdef enum[^:\n]*:\n((?: +.*\n|\n)+)", _source(), re.MULTILINE):
        following = 0
        for line in body.splitlines():
            name, _, text = line.split("#")[0].partition("=")
            if name.strip():
                value = int(eval(text, {}, found)) if text else following
                found[name.strip()] = value
                following = value + 1
    return found


@functools.cache
def structs() -> dict[str, type[ctypes.Structure]]:
    """The structures of `layout.pxd`, as C lays them out."""
    found: dict[str, type[ctypes.Structure]] = {}
    pattern = r"^cdef struct (\w+):\n((?: +.*\n|\n)+)"
    for name, body in re.findall(pattern, _source(), re.MULTILINE):
        members: list[tuple[str, Any]] = []
        for line in body.splitlines():
            match = re.match(r"\s+(\w+) (\w+)(?:\[(\w+)\])?", line)
            if match:
                kind: Any = INTS.get(match[1]) or found[match[1]]
                if match[3]:
                    kind = kind * int(eval(match[3], {}, constants()))
                members.append((match[2], kind))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": members})
    return found


@functools.cache
def _fields(struct_name: str) -> tuple[Field, ...]:
    fields: list[Field] = []
    of = structs()[struct_name]
    for name, kind, *_ in of._fields_:
        where = getattr(of, name)
        n: int = getattr(kind, "_length_", 1)
        each: Any = getattr(kind, "_type_", kind) if hasattr(kind, "_length_") else kind
        if name.startswith("_pad"):
            continue
        if issubclass(each, ctypes.Structure):
            for k in range(n):
                at = where.offset + k * (where.size // n)
                inner = _fields(each.__name__)
                fields += [f._replace(name=f"{name}[{k}].{f.name}", at=at + f.at) for f in inner]
        else:
            parts = PARTS.get(f"{struct_name}.{name}", ())
            fields.append(Field(name, where.offset, where.size // n, n, parts))
    return tuple(fields)


def geometry(capacity: int, max_objects: int) -> _Geometry:
    """What `lay_out` in `geometry.pxd` says, by its own lines."""
    body = _source("geometry.pxd").partition("cdef inline void lay_out(")[2].partition(":\n")[2]
    body = body.partition("\n\n\n")[0]
    body = re.sub(r"<\w+>", "", body)
    body = re.sub(r"&at\b", "cursor", body)
    body = re.sub(r"\bat\b(?!\w)", "cursor.at", re.sub(r"cdef \w+ at\b", "at", body))
    body = re.sub(r"cdef \w+ (\w+)", r"\1", body)
    body = re.sub(r"sizeof\((\w+)\)", r"size_\1", body)

    def reserve(cursor: _Cursor, nbytes: int, unit: int) -> int:
        at = -(-cursor.at // unit) * unit
        cursor.at = at + nbytes
        return at

    def bits_nbytes(n: int) -> int:
        words = (n + 63) // 64
        return -(-words * 8 // 64) * 64 + -(-((words + 63) // 64) * 8 // 64) * 64

    g = _Geometry()
    names: dict[str, Any] = {f"size_{name}": ctypes.sizeof(s) for name, s in structs().items()}
    names |= {"capacity": capacity, "max_objects": max_objects, "g": g, "cursor": _Cursor()}
    names |= {"reserve": reserve, "bits_nbytes": bits_nbytes}
    names |= {"round_up": lambda n, unit: -(-n // unit) * unit}
    exec("if True:\n" + body, {**constants(), **names})
    return g


def native(capacity: int, max_objects: int) -> Layout:
    """Of a file of the native engine."""
    g = geometry(capacity, max_objects)
    c = constants()
    many = {
        "rows": c["MAX_ROWS"],
        "name_locks": c["NAME_LOCKS"],
        "origins": c["ORIGINS"],
        "runs": g.max_runs,
        "slots": max_objects,
        "labels": max_objects,
        "metas": max_objects,
        "index": g.buckets,
        "page_map": g.pages + 1,
    }
    tables = [Table("Header", 0, ctypes.sizeof(structs()["Header"]), 1, _fields("Header"))]
    for region, name in STRUCTS.items():
        size = ctypes.sizeof(structs()[name])
        tables.append(Table(name, getattr(g, region), size, many.get(region, 1), _fields(name)))
    word = (Field("word", 0, 8),)
    hints = [name for name in vars(g) if name.endswith(("_bits", "_ready"))]
    ends = sorted(v for v in vars(g).values() if v > g.name_locks)
    for name in sorted(hints, key=g.__dict__.__getitem__):
        at = getattr(g, name)
        end = next(v for v in ends if v > at)
        tables.append(Table(name, at, 8, max((end - at) // 8, 1), word))
    cell = (Field("pins", 0, 4),)
    entry = (Field("entry", 0, 8, 1, ((0, 36), (36, 28))),)
    tables.append(Table("queues", g.queues, 8, c["QUEUES"] * g.queue_cells, entry))
    tables.append(Table("ghosts", g.ghosts, 8, g.buckets * c["BUCKET_CELLS"], word))
    tables.append(Table("pins", g.pins, 4, c["MAX_ROWS"] * g.pins_stride // 4, cell))
    tables += _frames(g.data, g.file_size)
    numbers = {v for v in vars(g).values() if v < 1 << 62} | {capacity, max_objects}
    numbers |= {c[name] for name in ("PAGE", "CHUNK", "MAX_ROWS", "CLASSES", "SMALL_LIMIT", "BINS")}
    return Layout(tuple(tables), g.file_size, g.data, tuple(sorted(numbers)))


# --- the filelock engine

LOCKED_PARTS = {"WORD": ((0, 8), (8, 48)), "SHAPE": ((0, 8), (8, 16), (32, 32))}


def _words(*names: str, widths: dict[str, int] | None = None) -> tuple[Field, ...]:
    of, n = vars(locked), widths or {}
    return tuple(
        Field(name, 8 * of[name], 8, n.get(name, 1), LOCKED_PARTS.get(name, ())) for name in names
    )


def _locked_header() -> tuple[Field, ...]:
    widths = [8 if code == "Q" else 16 if code == "16s" else 4 for code in _codes(locked.HEADER)]
    fields, at = [], 0
    for name, width in zip(locked.Header._fields, widths, strict=False):
        fields.append(Field(name, at, 1 if width == 16 else width, 16 if width == 16 else 1))
        at += width
    moving = (
        *("COUNT", "HOLDER", "LOCK_COUNT", "SLOTS_USED"),
        *("FREE_SLOT", "TRIMS", "TOTALS", "BITMAP", "WRITES", "RECOVERIES_KNOWN"),
    )
    many = {"TOTALS": locked.COUNTERS, "BITMAP": locked.BITMAP_WORDS}
    return (*fields, *_words(*moving, widths=many))


def _codes(form: struct.Struct) -> list[str]:
    """One for each value: "QII" for "=Q2I"."""
    codes = []
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form.format):
        if code == "s":
            codes.append(count + "s")
        elif code != "x":
            codes += [code] * int(count or 1)
    return codes


def filelock(capacity: int, max_objects: int) -> Layout:
    """Of a file of the filelock engine."""
    g = locked.lay_out(capacity, max_objects)
    word = (Field("word", 0, 8),)
    pair = (Field("index", 0, 8), Field("value", 8, 8))
    row = _words(
        *("ROW_STATE", "ROW_PID", "ROW_COUNTERS", "ROW_WAITING", "ROW_COMMAND", "ROW_LABEL"),
        widths={"ROW_COUNTERS": locked.COUNTERS, "ROW_COMMAND": 12, "ROW_LABEL": 4},
    )
    past = _words(
        *("PAST_AT", "PAST_PID", "PAST_NBYTES", "PAST_COMMAND", "PAST_LABEL"),
        widths={"PAST_COMMAND": 12, "PAST_LABEL": 4},
    )
    slot = _words(
        *("WORD", "OFFSET", "UNITS", "NBYTES", "SHAPE", "MAKER", "HASH", "NEXT", "MASK"),
        widths={"MASK": 4},
    )
    label = (
        Field("name", locked.NAME_AT, 1, 255),
        Field("text", locked.TEXT_AT, 1, locked.LABEL_TEXT),
    )
    links = (Field("length", 0, 8), Field("links", 8, 8, 1, ((0, 32), (32, 32))))
    tables = [
        Table("Header", 0, 8 * locked.JOURNAL, 1, _locked_header()),
        Table("Journal", 8 * locked.JOURNAL, 16, locked.PAIRS, pair),
        Table("Past", 8 * locked.PAST, 8 * locked.PAST_WORDS, locked.RECOVERIES_KEPT, past),
        Table("bins", 8 * g.bins, 8, locked.BINS, word),
        Table("Row", 8 * g.rows, 8 * locked.ROW_WORDS, locked.MAX_ROWS, row),
        Table("buckets", 8 * g.buckets, 8, g.bucket_mask + 1, word),
        Table("Slot", 8 * g.slots, 8 * locked.SLOT_WORDS, max_objects, slot),
        Table("Label", g.labels, locked.LABEL_NBYTES, max_objects, label),
        Table("pins", 8 * g.pins, 4, 2 * locked.MAX_ROWS * g.pin_words, (Field("pins", 0, 4),)),
        Table("tags", 8 * g.tags, 16, g.units, links),
        *_frames(g.data, g.file_size),
    ]
    numbers = {*g, capacity, max_objects, locked.MAX_ROWS, locked.BINS, locked.PAIRS, locked.UNIT}
    return Layout(tuple(tables), g.file_size, g.data, tuple(sorted(numbers)))


# --- what lies in blocks, in both


def _frames(data: int, end: int) -> list[Table]:
    """What begins each block of an object: an entry for each place where a block may begin."""
    fields, at = [], 0
    for number, code in enumerate(_codes(frames.HEADER) + _codes(frames.ENTRY)):
        width = struct.calcsize("=" + code)
        is_text = code.endswith("s")
        fields.append(Field(f"word {number}", at, 1 if is_text else width, width if is_text else 1))
        at += width
    return [Table("Frame", data, 64, (end - data) // 64, tuple(fields))]


def of(engine: str, capacity: int, max_objects: int) -> Layout:
    """Of a file of either engine."""
    return (native if engine == "native" else filelock)(capacity, max_objects)
