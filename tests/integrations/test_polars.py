"""`refstore.polars`: frames of every type come back, slices take their part, nothing is copied."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import arrow_workers
import documented
import helpers
import libraries
import numpy as np
import pytest
import signals
from children import child_process

import refstore

polars, pyarrow = libraries.Late("polars"), libraries.Late("pyarrow")
of_polars, arrow = libraries.Late("refstore.polars"), libraries.Late("refstore.arrow")

pytestmark = libraries.needed("polars", "pyarrow")

ROWS = 1000


def columns() -> dict[str, Any]:
    of, numbers = polars.Series, list(range(ROWS))
    day = datetime.datetime(2024, 1, 31)
    text = [None if i % 7 == 0 else "text" * (i % 9) for i in numbers]
    return {
        "int8": of([i % 100 for i in numbers], dtype=polars.Int8),
        "uint64": of(numbers, dtype=polars.UInt64),
        "float32": of(numbers, dtype=polars.Float32),
        "bool": of([i % 3 == 0 or None for i in numbers]),
        "text": of(text),
        "binary": of([None if one is None else one.encode() for one in text]),
        "date": of([day.date()] * ROWS),
        "datetime": of([day] * ROWS),
        "zoned": of([day] * ROWS).dt.replace_time_zone("Europe/Berlin"),
        "duration": of([datetime.timedelta(1)] * ROWS),
        "time": of([datetime.time(1)] * ROWS),
        "decimal": of([decimal.Decimal(i) / 4 for i in numbers], dtype=polars.Decimal(20, 2)),
        "categories": of(["a", "b"] * (ROWS // 2), dtype=polars.Categorical),
        "enum": of(["a", "b"] * (ROWS // 2), dtype=polars.Enum(["a", "b", "c"])),
        "list": of([[1, 2], [], None, [3]] * (ROWS // 4)),
        "array": of([[1, 2], [3, 4]] * (ROWS // 2), dtype=polars.Array(polars.Int64, 2)),
        "struct": of([{"a": i, "b": {"c": str(i)}} for i in numbers]),
        "texts": of([["a", "b"], None] * (ROWS // 2)),
        "null": of([None] * ROWS),
    }


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.polars as module

    documented.require_all(module, store)
    assert store.holders() == []


def test_every_type_comes_back(store: refstore.Store) -> None:
    for kind, column in columns().items():
        for given in (column, column.rename("x"), column.slice(13, 17), column.slice(0, 0)):
            for one in (given, given.to_frame()):
                back = of_polars.get(store, of_polars.put(store, one))
                assert type(back) is type(one)
                assert back.equals(one), kind
                if isinstance(one, polars.Series):
                    assert (back.name, back.dtype) == (one.name, one.dtype)
                else:
                    assert back.schema == one.schema
                del back
        store.clear()
    assert store.stats().used == 0


def test_a_frame_of_all_types_comes_back_in_chunks(store: refstore.Store) -> None:
    frame = polars.DataFrame(columns()).drop("null")  # which polars joins
    given = polars.concat([frame, frame.slice(5, 10)], rechunk=False)
    back = of_polars.get(store, of_polars.put(store, given))
    assert back.equals(given)
    assert back.schema == given.schema
    assert back.n_chunks() == 2


def test_columns_lie_in_the_store(store: refstore.Store) -> None:
    frame = polars.DataFrame(columns())
    back = of_polars.get(store, of_polars.put(store, frame))
    table = back.to_arrow(compat_level=polars.CompatLevel.newest())
    copied = {
        name
        for name in frame.columns
        for buffer in table[name].chunk(0).buffers()
        if buffer is not None and not helpers.lies_in(store.path, buffer.address)
    }
    assert copied <= {"categories", "enum"}


def test_a_slice_takes_its_part(store: refstore.Store) -> None:
    frame = polars.DataFrame(
        {"x": range(50_000), "text": [f"{i} is no short text" for i in range(50_000)]}
    )
    for part in (frame.slice(40_000, 100), frame.filter(polars.col("x") % 500 == 3)):
        ref = of_polars.put(store, part)
        assert store.info(ref).nbytes < 100 * (8 + 16 + 32) + 4096
        assert of_polars.get(store, ref).equals(part)


def test_what_is_sorted_is_known_to_be(store: refstore.Store) -> None:
    for descending in (False, True):
        given = polars.Series("x", [3, 1, 2]).sort(descending=descending)
        back = of_polars.get(store, of_polars.put(store, given))
        for flag in ("SORTED_ASC", "SORTED_DESC"):
            assert back.flags[flag] == given.flags[flag]


def test_a_name_may_be_empty(store: refstore.Store) -> None:
    for given in (polars.DataFrame({"": [1], "column_0": [2]}), polars.Series([1, 2])):
        assert of_polars.get(store, of_polars.put(store, given)).equals(given)
        back = store.get(store.put(given)).value
        assert back.equals(given)
        assert type(back) is type(given)


def test_an_unnamed_series_that_is_pickled_is_not_copied(store: refstore.Store) -> None:
    with store.get(store.put(polars.Series(np.arange(1000)))) as buf:
        assert helpers.lies_in(store.path, helpers.address(buf.value.to_numpy()))


def test_what_is_got_can_be_changed_without_the_store(store: refstore.Store) -> None:
    ref = of_polars.put(store, polars.DataFrame({"x": range(1000)}))
    frame = of_polars.get(store, ref)
    frame[5, "x"] = -1
    frame = frame.with_columns(y=polars.col("x") * 2)
    assert frame.row(5) == (-1, -2)
    assert of_polars.get(store, ref)["x"].to_list() == list(range(1000))


def test_a_query_reads_where_it_lies(store: refstore.Store) -> None:
    of_polars.put(store, polars.DataFrame({"x": range(1000), "y": ["text"] * 1000}), name="n")
    lazy = of_polars.scan(store, "n")
    store.delete("n")
    helpers.fill_with_junk(store)
    assert lazy.filter(polars.col("x") > 990).select("x").collect()["x"].sum() == 8955
    del lazy
    helpers.assert_full_capacity_fits(store)
    ref = of_polars.put(store, polars.Series("x", [1, 2]))
    assert of_polars.scan(store, ref).collect().equals(polars.DataFrame({"x": [1, 2]}))


def test_a_query_in_another_process_copies_no_column(make_store: Any) -> None:
    rows = 1_000_000
    store = make_store("128MiB")
    frame = polars.DataFrame(
        {
            "flag": np.zeros(rows, "i1"),
            "x": np.ones(rows),
            "text": ["a text"] * rows,
            "price": polars.Series(range(rows)).cast(polars.Decimal(20, 2)),
        }
    )
    for name, one in (("small", frame.head(1000)), ("large", frame)):
        of_polars.put(store, one, name=name)
    with child_process(store.path) as child:
        private, answer = child.do(arrow_workers.use_table, "query_by_polars")
    assert answer == (rows, float(rows), decimal.Decimal(rows - 1))
    assert private <= 0.1 * store.info("large").nbytes


def test_tables_of_arrow_are_frames_and_the_other_way_round(store: refstore.Store) -> None:
    table = pyarrow.table({"x": [1, 2], "t": ["a", None]})
    frame = polars.DataFrame({"x": [1, 2], "t": ["a", None]})
    assert of_polars.get(store, arrow.put(store, table)).equals(frame)
    assert of_polars.get(store, arrow.put(store, table["x"])).to_list() == [1, 2]
    assert of_polars.get(store, arrow.put(store, frame)).equals(frame)
    back = arrow.get(store, of_polars.put(store, frame))
    assert back.to_pydict() == table.to_pydict()


def test_the_options_are_those_of_put(store: refstore.Store) -> None:
    series = polars.Series("x", [1])
    of_polars.put(store, series, name="n", owned=True, evictable=True, meta=b"mine")
    info = store.info("n")
    assert (info.owned, info.evictable, store.get("n").meta) == (True, True, b"mine")
    with pytest.raises(refstore.ObjectExistsError):
        of_polars.put(store, series, name="n")
    of_polars.put(store, series, name="n", replace=True)
    with signals.done_while_waiting(lambda: of_polars.put(store, series, name="m")):
        assert of_polars.get(store, "m", timeout=helpers.BUSY_TIMEOUT).equals(series)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: polars.DataFrame({"x": [1]}).lazy(), "has no rows yet: put frame.collect"),
        (lambda: [1], "list is no DataFrame or Series of polars"),
        (lambda: polars.Series("x", [object()], dtype=polars.Object), "'x' of Object: cast it"),
        (
            lambda: polars.DataFrame({"a": [1], "x": polars.Series([1], dtype=polars.Int128)}),
            "no such column as 'x' of Int128: cast it, or put the frame by store.put",
        ),
    ],
)
def test_what_cannot_be_is_refused(store: refstore.Store, given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        of_polars.put(store, given())
    assert store.stats().used == 0


def test_pickled_frames_are_refused(store: refstore.Store) -> None:
    store.put(polars.DataFrame({"x": [1]}), name="n")
    with pytest.raises(TypeError, match="of kind 'object', and not bytes"):
        of_polars.get(store, "n")


@pytest.mark.once("shows what its page shows")
@libraries.needed("polars")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/polars.md", folder)
