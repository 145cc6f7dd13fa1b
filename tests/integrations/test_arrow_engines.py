"""Processes read one copy of a table, and DuckDB and datafusion query it where it lies."""

from __future__ import annotations

import decimal
import importlib.util
from pathlib import Path
from typing import Any

import arrow_workers
import documented
import libraries
import numpy as np
import pytest
from children import child_process

import refstore

pyarrow = libraries.Late("pyarrow")
arrow = libraries.Late("refstore.arrow")

pytestmark = libraries.needed("pyarrow")

ROWS = 1_000_000
COLUMN = (
    16 * ROWS
)  # bytes of the text as of the prices, which readers copy that find them unaligned
ANSWERS = {
    "sum_by_arrow": ROWS,
    "query_by_duckdb": (ROWS, float(ROWS), decimal.Decimal(ROWS - 1) / 100),
    "query_by_datafusion": (ROWS, float(ROWS), decimal.Decimal(ROWS - 1) / 100),
}


def trips(rows: int) -> Any:
    """Text behind views and decimals: 16 bytes each, which have to lie at a multiple of that."""
    prices = np.zeros((rows, 2), "i8")
    prices[:, 0] = np.arange(rows)
    return pyarrow.table(
        {
            "flag": pyarrow.array(np.zeros(rows, "i1")),
            "x": np.ones(
                rows, "i8"
            ),  # datafusion takes 8 bytes a row to add floats, wherever they lie
            "text": pyarrow.array(["a text"] * rows, pyarrow.string_view()),
            "price": pyarrow.Array.from_buffers(
                pyarrow.decimal128(20, 2), rows, [None, pyarrow.py_buffer(prices)]
            ),
        }
    )


@pytest.fixture
def large(make_store: Any) -> refstore.Store:
    store: refstore.Store = make_store("128MiB")
    arrow.put(store, trips(1000), name="small")
    arrow.put(store, trips(ROWS), name="large")
    return store


@pytest.mark.parametrize("how", ANSWERS)
def test_no_column_is_copied(large: refstore.Store, how: str) -> None:
    library = how.rpartition("_")[2]
    if importlib.util.find_spec("pyarrow" if library == "arrow" else library) is None:
        pytest.skip(f"needs {library}")
    with child_process(large.path) as child:
        private, answer = child.do(arrow_workers.use_table, how)
    assert answer == ANSWERS[how]
    assert private <= 0.6 * COLUMN  # datafusion takes half of that, wherever the table lies
    assert large.holders() == []


def test_a_copy_would_be_seen(large: refstore.Store) -> None:
    with child_process(large.path) as child:
        private, _ = child.do(arrow_workers.use_table, "sum_by_arrow", True)
    assert private >= 0.9 * large.info("large").nbytes


def test_a_result_is_put_as_it_comes(store: refstore.Store) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        ref = arrow.put(store, connection.sql("select range as x from range(10)"))
    assert arrow.get(store, ref)["x"].to_pylist() == list(range(10))


@pytest.mark.once("shows what its page shows")
@libraries.needed("duckdb", "datafusion", "pandas")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/arrow.md", folder)
