"""Everything else: pickled by protocol 5, its buffers beside it and rebuilt without a copy."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pickle
import threading
from collections.abc import Callable
from typing import Any

import helpers
import ml_dtypes
import numpy as np
import pytest
from helpers import Array

import refstore


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float
    trace: Array | None = None


class Subclass(np.ndarray[Any, Any]):
    pass


class Tagged(np.ndarray[Any, Any]):
    """An ndarray subclass with an attribute that its pickle carries."""

    tag = "none"

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: Any = super().__reduce__()
        rebuild, args, state = reduced
        return rebuild, args, (self.tag, *state)

    def __setstate__(self, state: Any, /) -> None:
        self.tag = state[0]
        super().__setstate__(state[1:])


Pair = collections.namedtuple("Pair", "left right")

PLAIN: dict[str, object] = {
    "None": None,
    "a bool": True,
    "a big int": 3**400,
    "a float": -0.0,
    "a string": "häßlich 🙂",
    "a tuple": (1, (2, (3,))),
    "a dict": {"a": [1, 2, {"b": {3, 4}}], 5: None},
    "an empty dict": {},
    "a named tuple": Pair(1, "r"),
    "an ordered dict": collections.OrderedDict(a=1, b=2),
    "a date": datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
    "a decimal": decimal.Decimal("1.10"),
    "a fraction": fractions.Fraction(1, 3),
    "an enum": Colour.GREEN,
    "a dataclass": Point(1.5, -2.5),
    "a class": Point,
    "a function": helpers.pattern,
    "an exception": ("wrapped", KeyError),
    "a slice": slice(1, None, 2),
    "bytes inside": [b"raw" * 1000, bytearray(b"array" * 1000)],
}
LARGE: dict[str, Callable[[], object]] = {  # made when they are needed
    "a long string": lambda: "é" * 300_000,
    "a million ints": lambda: list(range(1_000_000)),
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN.keys())
def test_any_picklable_object_comes_back(store: refstore.Store, value: object) -> None:
    assert_comes_back(store, value)


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE.keys())
def test_a_large_object_comes_back(store: refstore.Store, make: Callable[[], object]) -> None:
    assert_comes_back(store, make())


def assert_comes_back(store: refstore.Store, value: object) -> None:
    with store.get(store.put(value)) as buf:
        assert buf.kind == "object"
        assert buf.value == value
        assert type(buf.value) is type(value)
        assert len(buf) == buf.nbytes


def test_a_bytearray_inside_an_object_comes_back_as_one(store: refstore.Store) -> None:
    ref = store.put({"a": bytearray(b"x" * 5000)})
    with store.get(ref) as buf:
        value = buf.value["a"]
        assert type(value) is bytearray
        value[:] = b"y" * 5000
        with store.get(ref) as again:
            assert again.value["a"] == b"x" * 5000


def test_identity_inside_an_object_is_kept(store: refstore.Store) -> None:
    array = np.arange(1000)
    loop: list[Any] = [array, array]
    loop.append(loop)
    with store.get(store.put(loop)) as buf:
        back = buf.value
        assert back[0] is back[1]
        assert back[2] is back


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.float32(-0.1),
        np.int8(-3),
        np.bool_(True),
        np.complex128(1 + 2j),
        np.datetime64("2024-02-29", "ns"),
        np.timedelta64(5, "m"),
        np.str_("text"),
        np.bytes_(b"raw"),
    ],
    ids=lambda scalar: type(scalar).__name__,
)
def test_numpy_scalars_are_objects_and_keep_their_type(
    store: refstore.Store, scalar: np.generic
) -> None:
    with store.get(store.put(scalar)) as buf:
        assert buf.kind == "object"
        assert type(buf.value) is type(scalar)
        assert buf.value == scalar


def test_a_structured_scalar_comes_back(store: refstore.Store) -> None:
    scalar = np.array([(1, 2.5)], "i4,f8")[0]
    with store.get(store.put(scalar)) as buf:
        assert buf.kind == "object"
        assert buf.value == scalar
        assert buf.value.dtype == scalar.dtype


# -- arrays that are not plain ----------------------------------------------------------------


def test_a_subclass_of_ndarray_keeps_its_type_and_attributes(store: refstore.Store) -> None:
    array = np.arange(1000.0).view(Tagged)
    array.tag = "kept"
    with store.get(store.put(array)) as buf:
        assert buf.kind == "object"
        assert type(buf.value) is Tagged
        assert buf.value.tag == "kept"
        assert np.array_equal(np.asarray(buf.value), np.arange(1000.0))


def test_a_masked_array_keeps_its_mask(store: refstore.Store) -> None:
    array = np.ma.masked_array(np.arange(10.0), mask=np.arange(10) % 2 == 0)
    with store.get(store.put(array)) as buf:
        assert buf.kind == "object"
        assert isinstance(buf.value, np.ma.MaskedArray)
        assert np.array_equal(buf.value.mask, array.mask)
        assert buf.value.sum() == array.sum()


def test_a_record_array_keeps_its_type(store: refstore.Store) -> None:
    array = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    with store.get(store.put(array)) as buf:
        assert buf.kind == "object"
        assert type(buf.value) is np.recarray
        assert buf.value.b.tolist() == [2.0, 4.0]


def test_an_array_of_objects_is_pickled(store: refstore.Store) -> None:
    array = np.array([1, "two", [3], None], dtype=object)
    with store.get(store.put(array)) as buf:
        assert buf.kind == "object"
        assert buf.value.dtype == object
        assert buf.value.tolist() == array.tolist()


def test_records_with_an_object_field_are_pickled(store: refstore.Store) -> None:
    array = np.zeros(3, [("a", "i4"), ("b", "O")])
    array["b"] = ["x", None, {"y": 1}]
    with store.get(store.put(array)) as buf:
        assert buf.kind == "object"
        assert buf.value["b"].tolist() == ["x", None, {"y": 1}]


def test_an_array_of_variable_strings_holds_no_stray_pointers(store: refstore.Store) -> None:
    array = np.array(["short", "long enough to lie outside " * 9], np.dtypes.StringDType())
    ref = store.put(array)
    expected = array.tolist()
    array[:] = ["", ""]
    with store.get(ref) as buf:
        assert buf.kind == "object"
        assert buf.value.tolist() == expected


def test_a_variable_string_outlives_the_process_that_put_it(
    store: refstore.Store, path: str
) -> None:
    helpers.run_clean(
        """
        import sys, numpy as np, refstore
        with refstore.Store(sys.argv[1], create=False) as store:
            store["strings"] = np.array(["a" * 100, "b" * 1000], np.dtypes.StringDType())
        """,
        path,
    )
    assert store["strings"].value.tolist() == ["a" * 100, "b" * 1000]


# -- buffers out of band ----------------------------------------------------------------------


def test_arrays_in_an_object_are_rebuilt_in_place(store: refstore.Store, path: str) -> None:
    tree: dict[str, Any] = {
        "weights": [np.random.default_rng(i).random((50, 7 + i)) for i in range(5)],
        "nested": {"deep": (np.arange(1000, dtype="i2"), {"deeper": np.ones((33, 30), order="F")})},
        "point": Point(1.0, 2.0, np.arange(500.0)),
        "plain": "text",
    }
    with store.get(store.put(tree)) as buf:
        back = buf.value
        pairs = [
            *zip(back["weights"], tree["weights"], strict=True),
            (back["nested"]["deep"][0], tree["nested"]["deep"][0]),
            (back["nested"]["deep"][1]["deeper"], tree["nested"]["deep"][1]["deeper"]),
            (back["point"].trace, tree["point"].trace),
        ]
        for got, put in pairs:
            assert np.array_equal(got, put)
            assert got.strides == put.strides
            assert helpers.lies_in(path, helpers.address(got))
            assert helpers.address(got) % 64 == 0
            assert not got.flags.writeable
        assert back["plain"] == "text"
        del back, pairs, got


def test_two_values_of_one_object_share_its_memory(store: refstore.Store) -> None:
    ref = store.put({"a": np.arange(10_000)})
    with store.get(ref) as first, store.get(ref) as second:
        assert np.shares_memory(first.value["a"], second.value["a"])


def test_an_object_with_a_thousand_buffers_comes_back(store: refstore.Store, path: str) -> None:
    arrays = [np.full(600 + i, i, "u2") for i in range(1000)]
    with store.get(store.put(arrays)) as buf:
        for got, put in zip(buf.value, arrays, strict=True):
            assert np.array_equal(got, put)
            assert helpers.address(got) % 64 == 0
        assert helpers.lies_in(path, helpers.address(got))
        del got


def test_empty_buffers_in_an_object_come_back(store: refstore.Store) -> None:
    tree = [np.zeros(0), np.zeros((0, 3), "i2"), np.arange(100), np.zeros((5, 0))]
    with store.get(store.put(tree)) as buf:
        for got, put in zip(buf.value, tree, strict=True):
            assert (got.shape, got.dtype, got.tolist()) == (put.shape, put.dtype, put.tolist())


def test_a_non_contiguous_array_in_an_object_comes_back(store: refstore.Store) -> None:
    array = np.arange(10_000).reshape(100, 100)
    with store.get(store.put([array[::2, ::3], array[::-1], array.T])) as buf:
        got = buf.value
        assert np.array_equal(got[0], array[::2, ::3])
        assert np.array_equal(got[1], array[::-1])
        assert np.array_equal(got[2], array.T)


def test_a_pickle_buffer_goes_out_of_band(store: refstore.Store, path: str) -> None:
    data = helpers.pattern(3, 100_000)
    with store.get(store.put([pickle.PickleBuffer(bytearray(data))])) as buf:
        back = buf.value[0]
        assert bytes(back) == data
        assert helpers.lies_in(path, helpers.address_of(back))
        del back


def test_an_array_in_an_object_pins_the_block(store: refstore.Store) -> None:
    ref = store.put({"a": np.arange(1000), "b": np.zeros(1000)})
    with store.get(ref) as buf:
        array = buf.value["a"]
    assert buf.closed
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert np.array_equal(array, np.arange(1000))
    assert store.stats().condemned == 1
    del array
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


def test_a_value_without_buffers_pins_nothing(store: refstore.Store) -> None:
    ref = store.put({"a": [1, 2, 3]})
    with store.get(ref) as buf:
        value = buf.value
    assert store.refcount(ref) == 1
    assert value == {"a": [1, 2, 3]}


# -- what cannot be stored --------------------------------------------------------------------


class Raises:
    """Pickling it raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        raise self.error


def leaves_nothing(store: refstore.Store, value: object, error: type[BaseException]) -> None:
    """A put that must raise, in a store that then holds just what it held."""
    before = helpers.usage(store)
    with pytest.raises(error):
        store.put(value, name="never")
    assert helpers.usage(store) == before
    assert "never" not in store
    assert store.check() == []


def test_an_unpicklable_object_amid_arrays_leaves_nothing(store: refstore.Store) -> None:
    value = {"before": np.ones(100_000), "bad": {"deep": [threading.Lock()]}, "after": np.ones(9)}
    leaves_nothing(store, value, TypeError)


def test_a_lambda_leaves_nothing(store: refstore.Store) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        store.put([np.ones(1000), lambda: None], name="never")
    assert helpers.usage(store)[0] == 0
    assert "never" not in store


@pytest.mark.parametrize("error", [KeyError("mine"), MemoryError("mine"), KeyboardInterrupt()])
def test_an_error_while_pickling_comes_out_unchanged(
    store: refstore.Store, error: BaseException
) -> None:
    leaves_nothing(store, [np.ones(100_000), Raises(error)], type(error))
    error.__traceback__ = None  # the error lives on, and with it all that it went through


def test_records_with_an_unpicklable_object_leave_nothing(store: refstore.Store) -> None:
    leaves_nothing(store, np.array([threading.Lock()], dtype=object), TypeError)


class PutsAnother:
    """Pickling it stores something else in the same store."""

    def __init__(self, store: refstore.Store) -> None:
        self.store = store

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (bytes(self.store.put(b"from within")),)


def test_a_put_within_a_put_works(store: refstore.Store) -> None:
    with store.get(store.put([np.ones(1000), PutsAnother(store)])) as buf:
        inner = refstore.ObjectRef(buf.value[1])
    with store.get(inner) as buf:
        assert bytes(buf) == b"from within"
    assert len(store) == 2


WHATEVER = [  # dtypes that not all of numpy can spell
    *(ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, ml_dtypes.int4),
    np.dtype("u1,f8,u1", align=True),
    np.dtype([("a", np.dtype("f8", metadata={"unit": "m"})), ("b", "u1")]),
    np.dtype([("a", ">U0")]),
    np.dtype([("a", ">i4", (3,)), ("b", "S5")]),
]
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": lambda a: a,
    "F": np.asfortranarray,
    "axes swapped": lambda a: a.swapaxes(0, 1),
    "reversed": lambda a: a[::-1, :, ::-1],
    "repeated": lambda a: np.broadcast_to(a[:, :, :1], a.shape),
    "gaps": lambda a: a[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", WHATEVER, ids=str)
def test_arrays_of_any_dtype_and_layout_come_back(
    store: refstore.Store, dtype: Any, layout: str
) -> None:
    some = np.frombuffer(helpers.pattern(1, 24 * 20 * 30 * 40), np.uint8)
    size = np.dtype(dtype).itemsize
    values = some[: 20 * 30 * 40 * size].view(dtype) if size else np.zeros(20 * 30 * 40, dtype)
    if dtype is ml_dtypes.int4:
        values = (some[: 20 * 30 * 40] % 8).astype(dtype)
    array = LAYOUTS[layout](values.reshape(20, 30, 40))
    with store.get(store.put([array, array.view(Subclass)])) as buf:
        for back, put in zip(buf.value, (np.ndarray, Subclass), strict=True):
            assert type(back) is put
            assert (back.dtype, back.shape) == (array.dtype, array.shape)
            for name in array.dtype.names or ((),):  # between fields there may be anything
                assert back[name].tobytes() == array[name].tobytes()
        del back
