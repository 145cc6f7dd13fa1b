"""Slices of Arrow arrays and of polars frames: what they show is stored, and no more."""

from __future__ import annotations

import datetime
from typing import Any

import helpers
import libraries
import numpy as np
import pytest

import refstore
from refstore.payload.ndarrays import IN_STREAM

pyarrow, arrays = libraries.Late("pyarrow"), libraries.Late("arrow_arrays")

pytestmark = libraries.needed("pyarrow")

KINDS = (
    "int64",
    "bool",
    "decimal",
    "timestamp",
    "fixed binary",
    "interval",
    "null",
    "string",
    "large string",
    "string view",
    "binary",
    "binary view",
    "list",
    "large list",
    "list view",
    "large list view",
    "fixed list",
    "map",
    "struct",
    "struct of lists",
    "list of structs",
    "dictionary",
    "dense union",
    "sparse union",
    "runs",
    "extension",
)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    with arrays.pairs_registered():
        yield


def slices(array: Any) -> list[Any]:
    """At bits amid a byte and at its edge, of slices too, at both ends, and of nothing."""
    count = len(array)
    cuts = [(0, count), (0, 10), (13, 500), (7, 10), (16, 64), (count - 9, 9), (9, 0), (count, 0)]
    first = [array.slice(*cut) for cut in cuts]
    return [*first, first[2].slice(5, 100), first[2].slice(3).slice(0, 1)]


def test_each_kind_is_tried() -> None:
    assert tuple(arrays.ARRAYS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_slice_comes_back(store: refstore.Store, kind: str) -> None:
    put = slices(arrays.ARRAYS[kind])
    for obj in (put, pyarrow.chunked_array(put, arrays.ARRAYS[kind].type)):
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
    for kind, array in arrays.ARRAYS.items():
        with store.get(store.put(array)) as buf:
            whole = buf.nbytes
        for start in (0, arrays.ROWS // 2 + 3):
            with store.get(store.put(array.slice(start, arrays.ROWS // 10))) as buf:
                assert buf.nbytes < whole / 10 * 1.3 + 2000, kind


def buffers_of(array: Any) -> list[Any]:
    return [one for one in array.buffers() if one is not None and one.size]


def test_a_slice_lies_in_the_store(store: refstore.Store, path: str) -> None:
    ref = store.put({kind: array.slice(13, 1000) for kind, array in arrays.ARRAYS.items()})
    with store.get(ref) as buf:
        back = buf.value
        for kind, array in back.items():
            is_small = arrays.ARRAYS[kind].get_total_buffer_size() <= IN_STREAM
            for buffer in buffers_of(array):
                assert helpers.lies_in(path, buffer.address) != is_small, kind
                assert buffer.address % 8 == 0, kind
        del buffer
    store.delete(ref)
    helpers.fill_with_junk(store)
    for kind, array in back.items():
        assert array.to_pylist() == arrays.ARRAYS[kind].slice(13, 1000).to_pylist()
    del back, array
    helpers.assert_full_capacity_fits(store)


def test_shards_of_a_table_take_the_room_of_the_table(store: refstore.Store) -> None:
    table = pyarrow.table(
        {kind: arrays.ARRAYS[kind] for kind in arrays.ARRAYS if kind != "dictionary"}
    )
    table = table.replace_schema_metadata({"of": "a test"})
    with store.get(store.put(table)) as buf:
        whole = buf.nbytes
    total = 0
    for start in range(0, arrays.ROWS, 240):
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
    whole = pyarrow.array([f"{i:0100}" for i in range(arrays.ROWS)], pyarrow.string_view())
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
    table = pyarrow.table({"a": arrays.NUMBERS, "b": arrays.NUMBERS, "s": arrays.ARRAYS["string"]})
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
            "n": pandas.Series(arrays.NUMBERS.to_pylist(), dtype="int64[pyarrow]"),
            "s": pandas.Series(arrays.TEXT, dtype="string[pyarrow]"),
            "f": np.arange(float(arrays.ROWS)),
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
            "n": np.arange(arrays.ROWS),
            "s": arrays.TEXT,
            "l": arrays.LISTS,
            "b": arrays.GAPS,
            "d": [datetime.date(2024, 1, 1)] * arrays.ROWS,
            "t": [datetime.timedelta(1)] * arrays.ROWS,
            "r": [{"a": 1, "b": "x"}] * arrays.ROWS,
            "c": polars.Series(["u", "v"] * (arrays.ROWS // 2), dtype=polars.Categorical),
            "e": polars.Series(["u", "v"] * (arrays.ROWS // 2), dtype=polars.Enum(["u", "v"])),
            "f": polars.Series([[1, 2]] * arrays.ROWS, dtype=polars.Array(polars.Int8, 2)),
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
