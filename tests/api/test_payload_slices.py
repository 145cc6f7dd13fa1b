"""Slices of Arrow arrays and of polars frames: what they show is stored, and no more."""

from __future__ import annotations

import datetime
from typing import Any

import helpers
import numpy as np
import pytest

import refstore

pyarrow = pytest.importorskip("pyarrow")

ROWS = 1200
RNG = np.random.default_rng(1)
GAPS = RNG.random(ROWS) < 0.2


def holed(values: Any) -> list[Any]:
    return [None if gap else value for gap, value in zip(GAPS, values, strict=True)]


TEXT = holed("é" * int(n) for n in RNG.integers(0, 40, ROWS))
LISTS = holed([*range(int(n))] for n in RNG.integers(0, 5, ROWS))
NUMBERS = pyarrow.array(holed(range(ROWS)))


class Pairs(pyarrow.ExtensionType):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__(pyarrow.list_(pyarrow.int16()), "refstore.tests.pairs")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Pairs:
        return cls()


def dense_union() -> Any:
    types = pyarrow.array(np.arange(ROWS) % 2, pyarrow.int8())
    offsets = pyarrow.array(np.arange(ROWS) // 2, pyarrow.int32())
    return pyarrow.UnionArray.from_dense(types, offsets, [NUMBERS, pyarrow.array(TEXT)])


def sparse_union() -> Any:
    types = pyarrow.array(np.arange(ROWS) % 2, pyarrow.int8())
    return pyarrow.UnionArray.from_sparse(types, [NUMBERS, pyarrow.array(TEXT)])


def runs() -> Any:
    stops = pyarrow.array(np.arange(1, ROWS // 3 + 1) * 3, pyarrow.int32())
    return pyarrow.RunEndEncodedArray.from_arrays(stops, pyarrow.array(TEXT[: ROWS // 3]))


def many() -> dict[str, Any]:
    of, int8 = pyarrow.array, pyarrow.int8()
    return {
        "int64": NUMBERS,
        "bool": of(holed(RNG.random(ROWS) < 0.5)),
        "decimal": of(range(ROWS)).cast(pyarrow.decimal128(22, 2)),
        "timestamp": of(holed(range(ROWS)), pyarrow.timestamp("us", "UTC")),
        "fixed binary": of([b"abc"] * ROWS, pyarrow.binary(3)),
        "interval": of([pyarrow.MonthDayNano([1, 2, 3])] * ROWS),
        "null": pyarrow.nulls(ROWS),
        "string": of(TEXT),
        "large string": of(TEXT, pyarrow.large_string()),
        "string view": of(TEXT, pyarrow.string_view()),
        "binary": of(TEXT).cast(pyarrow.binary()),
        "binary view": of(TEXT).cast(pyarrow.binary()).cast(pyarrow.binary_view()),
        "list": of(LISTS, pyarrow.list_(int8)),
        "large list": of(LISTS, pyarrow.large_list(int8)),
        "list view": of(LISTS, pyarrow.list_view(int8)),
        "large list view": of(LISTS, pyarrow.large_list_view(int8)),
        "fixed list": of([[1, None, 3]] * ROWS, pyarrow.list_(int8, 3)),
        "map": of(holed([[("k", 1), ("l", None)]] * ROWS), pyarrow.map_(pyarrow.string(), int8)),
        "struct": of(holed([{"a": i, "b": "x"} for i in range(ROWS)])),
        "struct of lists": of(holed([{"a": ["x", None], "b": {"c": [i]}} for i in range(ROWS)])),
        "list of structs": of(holed([[{"a": ["x", None]}] * 2] * ROWS)),
        "dictionary": of(holed(["red", "green", "blue"] * (ROWS // 3))).dictionary_encode(),
        "dense union": dense_union(),
        "sparse union": sparse_union(),
        "runs": runs(),
        "extension": pyarrow.ExtensionArray.from_storage(
            Pairs(), of(LISTS, pyarrow.list_(pyarrow.int16()))
        ),
    }


ARRAYS = many()


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    pyarrow.register_extension_type(Pairs())
    yield
    pyarrow.unregister_extension_type("refstore.tests.pairs")


def slices(array: Any) -> list[Any]:
    """At bits amid a byte and at its edge, of slices too, at both ends, and of nothing."""
    count = len(array)
    cuts = [(0, count), (0, 10), (13, 500), (7, 10), (16, 64), (count - 9, 9), (9, 0), (count, 0)]
    first = [array.slice(*cut) for cut in cuts]
    return [*first, first[2].slice(5, 100), first[2].slice(3).slice(0, 1)]


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_slice_comes_back(store: refstore.Store, kind: str) -> None:
    put = slices(ARRAYS[kind])
    for obj in (put, pyarrow.chunked_array(put, ARRAYS[kind].type)):
        with store.get(store.put(obj)) as buf:
            back = buf.value if isinstance(obj, list) else buf.value.chunks
            for got, one in zip(back, put, strict=True):
                got.validate(full=True)
                assert type(got) is type(one)
                assert got.type == one.type
                assert got.equals(one)
                assert got.to_pylist() == one.to_pylist()
                assert got.null_count == one.null_count
            del back, got


def test_a_slice_takes_its_part_of_the_room(store: refstore.Store) -> None:
    for kind, array in ARRAYS.items():
        with store.get(store.put(array)) as buf:
            whole = buf.nbytes
        for start in (0, ROWS // 2 + 3):
            with store.get(store.put(array.slice(start, ROWS // 10))) as buf:
                assert buf.nbytes < whole / 10 * 1.3 + 2000, kind


def buffers_of(array: Any) -> list[Any]:
    return [one for one in array.buffers() if one is not None and one.size]


def test_a_slice_lies_in_the_store(store: refstore.Store, path: str) -> None:
    ref = store.put({kind: array.slice(13, 1000) for kind, array in ARRAYS.items()})
    with store.get(ref) as buf:
        arrays = buf.value
        for kind, array in arrays.items():
            for buffer in buffers_of(array):
                assert helpers.lies_in(path, buffer.address), kind
                assert buffer.address % 8 == 0, kind
        del buffer
    store.delete(ref)
    helpers.fill_with_junk(store)
    for kind, array in arrays.items():
        assert array.to_pylist() == ARRAYS[kind].slice(13, 1000).to_pylist()
    del arrays, array
    helpers.assert_full_capacity_fits(store)


def test_shards_of_a_table_take_the_room_of_the_table(store: refstore.Store) -> None:
    table = pyarrow.table({kind: ARRAYS[kind] for kind in ARRAYS if kind != "dictionary"})
    table = table.replace_schema_metadata({"of": "a test"})
    with store.get(store.put(table)) as buf:
        whole = buf.nbytes
    total = 0
    for start in range(0, ROWS, 240):
        shard = table.slice(start, 240)
        for obj in (shard, shard.to_batches()[0]):
            with store.get(store.put(obj)) as buf:
                back = buf.value
                assert back.equals(obj)
                assert back.schema.equals(obj.schema, check_metadata=True)
                total += buf.nbytes
                del back
    assert total < 2 * 1.3 * whole


def test_few_views_into_much_text_take_little_room(store: refstore.Store) -> None:
    whole = pyarrow.array([f"{i:0100}" for i in range(ROWS)], pyarrow.string_view())
    _, views, *texts = whole.buffers()
    for rows in (slice(5, None, 400), slice(500, 700), slice(0, 1)):
        chosen = np.frombuffer(views, "V16")[rows].copy()
        parts = [None, pyarrow.py_buffer(chosen), *texts]
        array = pyarrow.Array.from_buffers(whole.type, len(chosen), parts)
        with store.get(store.put(array)) as buf:
            back = buf.value
            back.validate(full=True)
            assert back.equals(array)
            assert buf.nbytes < 2 * 120 * len(array) + 1000
            del back


def test_buffers_that_columns_share_are_stored_once_and_shared(store: refstore.Store) -> None:
    table = pyarrow.table({"a": NUMBERS, "b": NUMBERS, "s": ARRAYS["string"]})
    table = table.append_column("t", table["s"])
    for put in (table, table.slice(101, 1000)):
        with store.get(store.put(put)) as buf:
            back = buf.value
            assert back.equals(put)
            for one, other in (("a", "b"), ("s", "t")):
                pairs = [buffers_of(back[name].chunk(0)) for name in (one, other)]
                assert [one.address for one in pairs[0]] == [one.address for one in pairs[1]]
            assert buf.nbytes < 0.6 * sum(column.nbytes for column in put.columns) + 2000
            del back, pairs


def test_pandas_frames_over_arrow_are_cut_too(store: refstore.Store) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "n": pandas.Series(NUMBERS.to_pylist(), dtype="int64[pyarrow]"),
            "s": pandas.Series(TEXT, dtype="string[pyarrow]"),
            "f": np.arange(float(ROWS)),
        }
    )
    with store.get(store.put(frame)) as buf:
        whole = buf.nbytes
        pandas.testing.assert_frame_equal(buf.value, frame)
    part = frame.iloc[500:620]
    with store.get(store.put(part)) as buf:
        pandas.testing.assert_frame_equal(buf.value, part)
        assert buf.nbytes < whole / 10 * 1.3 + 3000


# --- polars


def polars_frame() -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame(
        {
            "n": np.arange(ROWS),
            "s": TEXT,
            "l": LISTS,
            "b": GAPS,
            "d": [datetime.date(2024, 1, 1)] * ROWS,
            "t": [datetime.timedelta(1)] * ROWS,
            "r": [{"a": 1, "b": "x"}] * ROWS,
            "c": polars.Series(["u", "v"] * (ROWS // 2), dtype=polars.Categorical),
            "e": polars.Series(["u", "v"] * (ROWS // 2), dtype=polars.Enum(["u", "v"])),
            "f": polars.Series([[1, 2]] * ROWS, dtype=polars.Array(polars.Int8, 2)),
        }
    ).with_columns(polars.col("n").set_sorted())


def test_a_polars_frame_comes_back_over_the_store(store: refstore.Store, path: str) -> None:
    frame = polars_frame()
    ref = store.put({"frame": frame})
    with store.get(ref) as buf:
        back = buf.value["frame"]
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert type(back) is type(frame)
    assert back.schema == frame.schema
    assert back.flags == frame.flags
    assert back.equals(frame)
    numbers = back["n"].to_numpy(allow_copy=False)
    assert helpers.lies_in(path, helpers.address(numbers))
    del back, numbers
    helpers.assert_full_capacity_fits(store)


def test_parts_of_polars_frames_come_back_and_take_their_part(store: refstore.Store) -> None:
    polars = pytest.importorskip("polars")
    frame = polars_frame()
    with store.get(store.put(frame)) as buf:
        whole = buf.nbytes
    with store.get(store.put(frame[500:620])) as buf:
        assert buf.value.equals(frame[500:620])
        assert buf.nbytes < whole / 10 * 1.3 + 6000
    others = [frame[:0], polars.concat([frame, frame], rechunk=False), polars.DataFrame()]
    with store.get(store.put(others)) as buf:
        for got, put in zip(buf.value, others, strict=True):
            assert got.equals(put)
            assert got.schema == put.schema
        del got


def test_polars_series_come_back(store: refstore.Store) -> None:
    polars = pytest.importorskip("polars")
    frame = polars_frame()
    put = [*frame, frame["s"][5:50].rename("t"), polars.Series([1, 2]), polars.Series([])]
    put += [polars.Series("wide", [1, 2], dtype=polars.Int128)]
    with store.get(store.put(put)) as buf:
        for got, one in zip(buf.value, put, strict=True):
            assert (got.name, got.dtype) == (one.name, one.dtype)
            assert got.equals(one)
        del got
