"""Arrays whose slot or label was written to by something else: an error that names the field."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore.engines.filelock import layout
from refstore.payload import arrays

READS = """
    import sys, refstore
    store = refstore.Store(sys.argv[1], create=False)
    looks = (lambda b: b.array.sum(), lambda b: b.value, memoryview, lambda b: b.kind)
    for look in looks:
        try:
            with store["n"] as buf:
                look(buf)
        except refstore.StoreCorruptedError as error:
            print(error)
        else:
            print("nothing")
"""
ARRAY = np.arange(7 * 11 * 13, dtype="f8").reshape(7, 11, 13)


def what_readers_say(path: str) -> list[str]:
    """In a process of its own, since it may be a crash."""
    said = helpers.run_warm_clean(READS, path).splitlines()
    helpers.remove(path)
    return said


def change(path: str, at: int, octets: bytes) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.seek(at)
        file.write(octets)


def put(path: str, array: helpers.Array) -> None:
    with refstore.Store(path, capacity="1MiB", max_objects=64) as store:
        store["n"] = array


# -- the native engine's slot, 128 bytes of which 40 are the shape

KIND, DTYPE, NDIM, ORDER, SHAPE, NBYTES = 46, 47, 60, 61, 80, 24


@pytest.mark.native("its slots have these fields")
@pytest.mark.parametrize(
    ("at", "octets", "field"),
    [
        (DTYPE, b"\xff", "for the dtype of the array;"),
        (DTYPE, b"\x12", "for the dtype of the array;"),
        (DTYPE, b"\x00", "for the length of the description of the array;"),
        (NDIM, b"\x07", "for the number of axes of the array;"),
        (NDIM, b"\xff", "for the number of axes of the array;"),
        (NDIM, b"\x02", "for the shape of the array;"),
        (ORDER, b"X", "for the order of the axes of the array;"),
        (SHAPE, struct.pack("<Q", 1 << 63), "for the shape of the array;"),
        (SHAPE, struct.pack("<3Q", 0, 1 << 62, 1 << 62), "for the shape of the array;"),
        (SHAPE, struct.pack("<3Q", 1 << 32, 1 << 32, 1), "for the shape of the array;"),
        (SHAPE, struct.pack("<Q", 8), "for the shape of the array;"),
        (NBYTES, struct.pack("<Q", 8000), "for the shape of the array;"),
    ],
)
def test_a_number_in_the_slot_that_cannot_be_is_named(
    path: str, at: int, octets: bytes, field: str
) -> None:
    put(path, ARRAY)
    shape = struct.pack("<5Q", *ARRAY.shape, 0, 0)
    image = Path(path).read_bytes()
    assert image.count(shape) == 1
    change(path, image.index(shape) - SHAPE + at, octets)
    *three, kind = what_readers_say(path)
    assert all(field in said for said in three)
    assert kind == "nothing"


@pytest.mark.native("its slots have this field")
def test_a_kind_that_cannot_be_is_named(path: str) -> None:
    put(path, ARRAY)
    image = Path(path).read_bytes()
    change(path, image.index(struct.pack("<3Q", *ARRAY.shape)) - SHAPE + KIND, b"\x03")
    assert all("for the kind of the object;" in said for said in what_readers_say(path))


@pytest.mark.filelock("its slots have these fields")
@pytest.mark.parametrize(
    ("word", "number", "field"),
    [
        (layout.SHAPE, 3 | 1 << 8 | 40 << 32, "for the kind of the object;"),
        (layout.SHAPE, 1 | 1 << 8, "for the length of the description of the array;"),
        (layout.SHAPE, 1 | 1 << 8 | 900 << 32, "for the length of the description;"),
        (layout.NBYTES, (1 << 64) - 1, "for the place of the object;"),
        (layout.NBYTES, 8000, "for the shape of the array;"),
    ],
)
def test_a_word_of_the_slot_that_cannot_be_is_named(
    path: str, word: int, number: int, field: str
) -> None:
    put(path, ARRAY)
    slot = layout.lay_out(1 << 20, 64).slots  # the first one
    assert np.fromfile(path, "u8")[slot + layout.NBYTES] == ARRAY.nbytes
    change(path, (slot + word) * 8, struct.pack("<Q", number))
    assert all(field in said for said in what_readers_say(path)[:3])


# -- what both engines keep in a label

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an axis twice": (lambda text: text[:25] + b"\x01\x01\x02" + text[28:], "order of the axes"),
    "another axis": (lambda text: text[:25] + b"\x01\x03\x02" + text[28:], "order of the axes"),
    "repeated": (lambda text: text[:25] + b"\x01\x80\x02" + text[28:], "shape"),
    "an extent": (lambda text: text[:1] + struct.pack("<Q", 1 << 63) + text[9:], "shape"),
    "more axes": (lambda text: b"\xff" + text[1:], "number of axes"),
    "fewer axes": (lambda text: b"\x02" + text[1:], "order of the axes"),
    "objects": (lambda text: text[:28] + b"t|O8", "dtype"),
}


@pytest.mark.parametrize(("damage", "field"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_label_is_named(path: str, damage: Callable[[bytes], bytes], field: str) -> None:
    array: Any = ARRAY.astype(">f8").transpose(1, 0, 2)
    put(path, array)
    text = arrays.describe(array.dtype, array.shape, (1, 0, 2))
    image = Path(path).read_bytes()
    assert image.count(text) == 1
    change(path, image.index(text), damage(text))
    *three, kind = what_readers_say(path)
    assert all(f"for the {field} of the array;" in said for said in three)
    assert kind == "nothing"


def test_a_field_that_leads_out_of_its_dtype_is_named(path: str) -> None:
    dtype = np.dtype([("a", ">i4"), ("b", "f8")])
    put(path, np.zeros(300, dtype))
    octets = Path(path).read_bytes()
    description = arrays.describe_dtype(dtype)
    at, wrong = octets.index(description), dtype.fields["b"][1]  # type: ignore[index]
    last = max(
        where
        for opcode, argument, where in pickletools.genops(description[1:])
        if where is not None and opcode.name == "BININT1" and argument == wrong
    )
    for offset in (13, 200):
        change(path, at + 1 + last + 1, bytes([offset]))
        with refstore.Store(path, create=False) as store, store["n"] as buf:
            for look in (lambda: buf.array, lambda: buf.value, lambda: memoryview(buf)):
                with pytest.raises(refstore.StoreCorruptedError, match="the dtype of the array"):
                    look()
    helpers.remove(path)
