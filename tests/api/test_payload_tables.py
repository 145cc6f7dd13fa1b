"""Tables of pandas and Arrow come through pickle 5 without a copy."""

from __future__ import annotations

import helpers
import libraries
import numpy as np

import refstore

pandas, pyarrow = libraries.Late("pandas"), libraries.Late("pyarrow")

pytestmark = libraries.needed("pandas", "pyarrow")


def test_a_data_frame_comes_back_without_a_copy(store: refstore.Store, path: str) -> None:
    rng = np.random.default_rng(1)
    frame = pandas.DataFrame(rng.random((5000, 4)), columns=list("abcd"))
    frame["n"] = np.arange(5000)
    with store.get(store.put(frame)) as buf:
        back = buf.value
        pandas.testing.assert_frame_equal(back, frame)
        for column in ("a", "d", "n"):
            assert helpers.lies_in(path, helpers.address(back[column].to_numpy()))
        del back


def test_a_frame_of_many_kinds_of_column_comes_back(store: refstore.Store) -> None:
    frame = pandas.DataFrame(
        {
            "i": np.arange(100, dtype="i2"),
            "f": np.linspace(0, 1, 100, dtype="f4"),
            "b": np.arange(100) % 2 == 0,
            "t": pandas.date_range("2024-01-01", periods=100, freq="h"),
            "z": pandas.date_range("2024-01-01", periods=100, freq="h", tz="Europe/Berlin"),
            "s": [f"text {i}" for i in range(100)],
            "c": pandas.Categorical(["x", "y"] * 50),
            "o": [None, {"a": 1}] * 50,
            "m": pandas.array([1, None] * 50, dtype="Int64"),
        },
        index=pandas.MultiIndex.from_product([range(10), list("abcdefghij")]),
    )
    with store.get(store.put(frame)) as buf:
        pandas.testing.assert_frame_equal(buf.value, frame)


def test_a_series_outlives_its_buffer(store: refstore.Store) -> None:
    ref = store.put(pandas.Series(np.arange(10_000.0), name="s"))
    with store.get(ref) as buf:
        series = buf.value
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert np.array_equal(series.to_numpy(), np.arange(10_000.0))
    del series
    helpers.assert_full_capacity_fits(store)


def test_assigning_into_a_rebuilt_frame_never_reaches_the_store(store: refstore.Store) -> None:
    ref = store.put(pandas.DataFrame({"a": np.arange(5000.0)}))
    with store.get(ref) as buf:
        frame = buf.value
        frame["a"] = frame["a"] * 2
        frame["b"] = 1
        del frame
    with store.get(ref) as buf:
        assert np.array_equal(buf.value["a"].to_numpy(), np.arange(5000.0))


def test_an_arrow_table_comes_back_without_a_copy(store: refstore.Store, path: str) -> None:
    table = pyarrow.table(
        {
            "i": np.arange(10_000),
            "f": np.random.default_rng(2).random(10_000),
            "s": [f"row {i}" for i in range(10_000)],
            "n": [None if i % 7 == 0 else i for i in range(10_000)],
        }
    )
    with store.get(store.put(table)) as buf:
        back = buf.value
        assert back.equals(table)
        for name in ("i", "f", "s", "n"):
            for buffer in back.column(name).chunk(0).buffers():
                assert buffer is None or helpers.lies_in(path, buffer.address)
        del back, buffer


def test_a_record_batch_outlives_its_buffer(store: refstore.Store) -> None:
    ref = store.put(pyarrow.record_batch({"i": np.arange(10_000)}))
    with store.get(ref) as buf:
        column = buf.value.column(0)
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert column.to_pylist() == list(range(10_000))
    assert store.stats().condemned == 1
    del column
    helpers.assert_full_capacity_fits(store)


def test_an_arrow_buffer_over_a_pinned_buffer_pins_it(store: refstore.Store) -> None:
    data = helpers.pattern(4, 10_000)
    ref = store.put(data)
    with store.get(ref) as buf:
        buffer = pyarrow.py_buffer(buf)
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert buffer.to_pybytes() == data
    del buffer
    helpers.assert_full_capacity_fits(store)
