"""How arrays are described beside their bytes: every dtype, nothing that leads out of a block."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refstore.payload import arrays
from refstore.payload.arrays import REPEATED, DescriptionError

PLAIN = [*"?bBhHiIlLqQefdgFDG", ">i4", "<M8[25s]", ">M8[ns]", "m8", "S3", "S0", "U5", "V8", "V0"]
OTHERS: list[Any] = [
    [("a", "i1"), ("b", ">f8", (2, 3))],
    (np.record, [("a", "i4")]),
    {"names": ["a", "b"], "formats": ["i4", "f8"], "offsets": [8, 0], "itemsize": 40},
    {"names": ["a"], "formats": ["i4"], "titles": ["a title"]},
    [("when", "M8[us]"), ("tail", "V3")],
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4,
    ml_dtypes.uint2,
    [("a", ml_dtypes.bfloat16, (3,)), ("b", "i4")],
]


def assert_identical(one: np.dtype[Any], other: np.dtype[Any]) -> None:
    assert one == other
    assert repr(one) == repr(other)
    for name in ("char", "type", "isalignedstruct"):
        assert getattr(one, name) == getattr(other, name)
    assert one.metadata == other.metadata
    assert one.fields == other.fields


@pytest.mark.parametrize("dtype", PLAIN)
def test_a_plain_dtype_is_described_by_text(dtype: str) -> None:
    description = arrays.describe_dtype(np.dtype(dtype))
    assert description[:1] == b"t"
    assert_identical(arrays.dtype_from(description), np.dtype(dtype))


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_any_other_dtype_round_trips(dtype: Any) -> None:
    dtype = np.dtype(dtype)
    assert_identical(arrays.dtype_from(arrays.describe_dtype(dtype)), dtype)


def test_alignment_and_metadata_of_a_dtype_round_trip() -> None:
    aligned = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    described = np.dtype("f4", metadata={"unit": "m"})
    for dtype in (aligned, described):
        assert_identical(arrays.dtype_from(arrays.describe_dtype(dtype)), dtype)


WITH_OBJECTS: list[Any] = ["O", [("a", "i4"), ("b", "O")], np.dtypes.StringDType()]


@pytest.mark.parametrize("dtype", WITH_OBJECTS, ids=str)
def test_a_dtype_of_python_objects_is_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="references to Python objects"):
        arrays.describe_dtype(np.dtype(dtype))


class _Raises:
    def __reduce__(self) -> Any:
        return int, ("no number",)


NO_DTYPES = [b"", b"x", b"xf4", b"tO", b"t|O8", b"tf4", b"t<f4,<f4", b"t(2,)<f4", b"t<f3", b"t\xff"]


@pytest.mark.parametrize(
    "description",
    [*NO_DTYPES, b"p", *(b"p" + pickle.dumps(x) for x in (3, np.dtype("O"), _Raises()))],
)
def test_what_describes_no_dtype_is_reported(description: bytes) -> None:
    with pytest.raises(DescriptionError, match="the dtype"):
        arrays.dtype_from(description)


def test_a_dtype_of_a_package_that_is_not_there_is_no_damage() -> None:
    pickled = pickle.dumps(np.dtype(ml_dtypes.bfloat16), 0).replace(b"ml_dtypes", b"ml_wanted")
    with pytest.raises(pickle.UnpicklingError, match=r"'ml_wanted'.*install it"):
        arrays.dtype_from(b"p" + pickled)


def test_extents_that_no_array_has_are_refused() -> None:
    for shape, error in (((0, 1 << 40, 1 << 40), "large"), ((-1,), "negative"), ((1,) * 65, "64")):
        with pytest.raises(ValueError, match=error):
            arrays.measure(shape, np.dtype("f8"))
    assert arrays.measure(np.array([2, 3]), np.dtype("f8")) == ((2, 3), 48)


# --- what is repeated

LAYOUTS: dict[str, Any] = {
    "C": np.zeros((4, 5, 6), "f4"),
    "permuted": np.zeros((4, 5, 6), "f4").transpose(1, 2, 0),
    "gaps": np.zeros((4, 5, 6), "f4")[::2, ::-1, 1:],
    "repeated": np.broadcast_to(np.zeros((5, 1), "f4"), (4, 5, 6)),
    "one value": np.broadcast_to(np.float32(1), (3, 4)),
    "repeated and permuted": np.broadcast_to(np.zeros((5, 6), "f4").T, (4, 6, 5)).T,
    "one axis of one": np.broadcast_to(np.zeros(3, "f4"), (1, 3)),
    "empty": np.broadcast_to(np.zeros((0, 1), "f4"), (0, 5)),
    "0-d": np.array(np.float32(3)),
    "no item size": np.zeros((3, 4), "V0"),
}


def layout_of(array: Any) -> tuple[bytes, Any]:
    axes = arrays.axes_in_memory(array)
    return arrays.describe(array.dtype, array.shape, axes), arrays.stored_part(array, axes)


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_layout_has_what_repeats_once_and_no_gaps(array: Any) -> None:
    text, stored = layout_of(array)
    dtype, shape, strides = arrays.read(text, stored.nbytes)
    assert (dtype, shape) == (array.dtype, array.shape)
    assert [step == 0 for step in strides] == [
        array.nbytes > 0 and step == 0 and extent > 1
        for extent, step in zip(shape, array.strides, strict=True)
    ] or not dtype.itemsize
    memory = np.zeros(stored.nbytes, "u1")
    np.ndarray(shape, dtype, memory, 0, strides)  # raises if it leads out of the memory


# --- damage


def reach(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """The bytes that a view of such an array looks at, from its first on."""
    if 0 in shape or not itemsize:
        return 0
    return itemsize + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


NUMBERS = st.sampled_from([0, 1, 2, 63, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A description with some bytes or extents changed, cut or lengthened; and the bytes stored."""
    text, stored = layout_of(draw(st.sampled_from(list(LAYOUTS.values()))))
    octets = bytearray(text)
    for _ in range(draw(st.integers(0, 3))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    for _ in range(draw(st.integers(0, 2))):
        at = 1 + 8 * draw(st.integers(0, 2))
        if at + 8 <= len(octets):
            octets[at : at + 8] = struct.pack("<Q", draw(NUMBERS))
    end = draw(st.integers(0, len(octets) + 8))
    cut = draw(st.booleans())
    nbytes = draw(st.sampled_from([stored.nbytes, 0, 1, stored.nbytes + 1]))
    return bytes(octets[:end] if cut else octets), nbytes


@settings(max_examples=2000, deadline=None)
@given(damaged())
def test_a_damaged_description_is_reported_or_stays_in_its_block(case: tuple[bytes, int]) -> None:
    text, nbytes = case
    try:
        dtype, shape, strides = arrays.read(text, nbytes)
    except DescriptionError:
        return
    except pickle.UnpicklingError:
        assert text[1 + 9 * text[0] :][:1] == b"p"  # the marker was hit
        return
    assert not dtype.hasobject
    assert reach(shape, strides, dtype.itemsize) <= nbytes
    np.ndarray(shape, dtype, np.zeros(nbytes, "u1"), 0, strides)  # raises if it would not fit


FIELDS: dict[str, tuple[bytes, str]] = {
    "too many axes": (b"\x41" + bytes(9 * 65) + b"t<f4", "number of axes"),
    "cut short": (struct.pack("<B2Q", 2, 3, 4), "length"),
    "nothing": (b"", "length"),
    "twice the same axis": (struct.pack("<B2Q2B", 2, 1, 12, 1, 1) + b"t<f4", "order of the axes"),
    "no such axis": (struct.pack("<B2Q2B", 2, 3, 4, 0, 2) + b"t<f4", "order of the axes"),
    "one repeated once": (struct.pack("<BQB", 1, 1, REPEATED) + b"t<f4", "shape"),
    "too large": (struct.pack("<B2Q2B", 2, 1 << 63, 4, 0, 1) + b"t<f4", "shape"),
    "overflow": (struct.pack("<B3Q3B", 3, 12, 1 << 62, 4, 0, 1 | REPEATED, 2) + b"t<f4", "shape"),
    "not all of it": (struct.pack("<B2Q2B", 2, 3, 3, 0, 1) + b"t<f4", "shape"),
    "objects": (struct.pack("<B2Q2B", 2, 3, 2, 0, 1) + b"t|O", "dtype"),
}


@pytest.mark.parametrize(("text", "field"), FIELDS.values(), ids=FIELDS.keys())
def test_the_field_that_is_wrong_is_named(text: bytes, field: str) -> None:
    with pytest.raises(DescriptionError, match=field):
        arrays.read(text, 48)
