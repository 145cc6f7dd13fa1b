"""Frames of pandas in a store: by `store.put()`, and as tables of Arrow."""

from __future__ import annotations

from typing import Any

import arrow_workers
import helpers
import libraries
import numpy as np
import pytest
from children import child_process

import refstore

pandas, pyarrow = libraries.Late("pandas"), libraries.Late("pyarrow")
arrow = libraries.Late("refstore.arrow")

pytestmark = libraries.needed("pandas", "pyarrow")

ROWS = 5000


def of_numpy() -> Any:
    return pandas.DataFrame(
        {
            "i": np.arange(ROWS),
            "j": np.arange(ROWS) + 1,
            "f": np.linspace(0, 1, ROWS),
            "b": np.arange(ROWS) % 3 == 0,
            "t": pandas.date_range("2024-01-01", periods=ROWS, freq="h"),
            "c": pandas.Categorical(["red", "green"] * (ROWS // 2)),
            "m": pandas.array([1, None] * (ROWS // 2), dtype="Int64"),
        },
        index=pandas.Index(np.arange(ROWS) * 2, name="key"),
    )


def of_arrow() -> Any:
    types = {"i": "int64[pyarrow]", "f": "double[pyarrow]", "t": "timestamp[ns][pyarrow]"}
    frame = of_numpy()[list(types)].astype(types).reset_index(drop=True)
    frame["s"] = pandas.array([f"text {i}" for i in range(ROWS)], dtype="string[pyarrow]")
    frame["d"] = pandas.array(["a", "b"] * (ROWS // 2), pandas.ArrowDtype(pyarrow.string()))
    return frame


def lies_in(store: refstore.Store, column: Any) -> bool:
    return helpers.lies_in(store.path, helpers.address(column.to_numpy()))


@pytest.mark.parametrize("made", [of_numpy, of_arrow])
def test_frames_come_back(store: refstore.Store, made: Any) -> None:
    given = made()
    pickled = store.get(store.put(given)).value
    pandas.testing.assert_frame_equal(pickled, given)
    table = arrow.get(store, arrow.put(store, given))
    mapper = pandas.ArrowDtype if made is of_arrow else None
    if made is of_numpy:
        pandas.testing.assert_frame_equal(table.to_pandas(), given)
    else:
        back = table.to_pandas(types_mapper=mapper)
        assert back.astype(object).equals(given.astype(object))


def test_numbers_lie_in_the_store(store: refstore.Store) -> None:
    given = of_numpy()
    pickled = store.get(store.put(given)).value
    for name in ("i", "j", "f", "t"):
        assert lies_in(store, pickled[name]), name
    assert helpers.lies_in(store.path, helpers.address(pickled["c"].array.codes))
    table = arrow.get(store, arrow.put(store, given[["f"]].reset_index(drop=True)))
    assert lies_in(store, table.to_pandas(split_blocks=True)["f"])


def test_columns_of_arrow_lie_in_the_store(store: refstore.Store) -> None:
    given = of_arrow()
    pickled = store.get(store.put(given)).value
    table = arrow.get(store, arrow.put(store, given))
    for frame in (pickled, table.to_pandas(types_mapper=pandas.ArrowDtype)):
        for name in ("i", "f", "s", "d"):
            for chunk in pyarrow.chunked_array(frame[name].array.__arrow_array__()).chunks:
                for buffer in chunk.buffers():
                    if buffer is not None and buffer.size > 64:
                        assert helpers.lies_in(store.path, buffer.address), name


def test_a_change_never_reaches_the_store(store: refstore.Store) -> None:
    given = of_numpy()
    ref = store.put(given)
    frame = store.get(ref).value
    frame["f"] = frame["f"] * 2
    frame["new"] = 1
    with pytest.raises(ValueError, match="read-only"):
        frame.loc[4, "i"] = -1
    for own in (frame.copy(), store.get(ref, writable=True).value):
        own.loc[4, "i"] = -1
        assert own.loc[4, "i"] == -1
    pandas.testing.assert_frame_equal(store.get(ref).value, given)


def test_a_part_of_a_frame_takes_its_part(store: refstore.Store) -> None:
    given = of_arrow()
    whole, part = store.put(given), store.put(given.iloc[10:20])
    assert store.info(part).nbytes < store.info(whole).nbytes / 20
    whole, part = arrow.put(store, given), arrow.put(store, given.iloc[10:20])
    assert store.info(part).nbytes < store.info(whole).nbytes / 20


def test_a_frame_outlives_its_object(store: refstore.Store) -> None:
    given = of_numpy()
    for frame in (
        store.get(store.put(given)).value,
        arrow.get(store, arrow.put(store, given)).to_pandas(),
    ):
        store.clear()
        helpers.fill_with_junk(store)
        pandas.testing.assert_frame_equal(frame, given)
        del frame


@pytest.mark.parametrize("how", ["sum_by_pandas", "sum_by_pandas_over_arrow"])
def test_another_process_copies_no_column(make_store: Any, how: str) -> None:
    rows = 1_000_000
    store = make_store("64MiB")
    frame = pandas.DataFrame({"x": np.ones(rows), "y": np.arange(rows)})
    for name, one in (("small", frame.head(1000)), ("large", frame)):
        if how == "sum_by_pandas":
            store.put(one, name=name)
        else:
            arrow.put(store, one, name=name)
    with child_process(store.path) as child:
        private, answer = child.do(arrow_workers.use_table, how)
    assert answer == rows
    assert private <= 0.1 * store.info("large").nbytes
