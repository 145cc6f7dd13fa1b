"""Tables of Arrow and frames of pandas in a store, against IPC files in /dev/shm."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

import datafusion
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

import refstore.arrow
from benchmarks.goals.private_memory import private_memory
from benchmarks.goals.row import Effort, Goal, Row, by_the_clock
from refstore import Store
from stress.support import GIB, size

NBYTES = 200_000_000
QUERY = "select count(text) as texts, sum(x) as numbers, max(price) as dearest from trips"


def rows(effort: Effort) -> Sequence[Row]:
    effort = replace(effort, rounds=effort.worker_rounds)
    return [*times(effort), *memory()]


def trips(nbytes: int) -> pa.Table:
    """Numbers, text behind views and decimals: 48 bytes and some a row."""
    count = nbytes // 56
    prices = np.zeros((count, 2), "i8")
    prices[:, 0] = np.arange(count)
    buffers = [None, pa.py_buffer(prices)]
    words = pa.array([f"{i % 1000} is no short text" for i in range(count // 1000)])
    return pa.table(
        {
            "x": np.arange(count) * 0.5,
            "y": np.arange(count),
            "text": pc.take(words, np.arange(count) % len(words)).cast(pa.string_view()),
            "price": pa.Array.from_buffers(pa.decimal128(20, 2), count, buffers),
        }
    )


# --- times


def times(effort: Effort) -> Iterator[Row]:
    table = trips(NBYTES)
    frame = pd.DataFrame({name: np.arange(NBYTES / 80) for name in "abcdefghij"})
    with Store.temporary(2 * GIB) as store, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = os.path.join(folder, "file.arrow")
        amount = size(table.nbytes)

        def write() -> None:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)

        def read() -> None:
            pa.ipc.open_file(pa.memory_map(path)).read_all()

        ref = refstore.arrow.put(store, table)
        yield by_the_clock(
            f"put of a table of {amount} / pa.ipc into a file in /dev/shm",
            effort,
            lambda: store.delete(refstore.arrow.put(store, table)),
            write,
            Goal(1.0),
        )
        yield by_the_clock(
            f"get of a table of {amount} / pa.ipc from that file, mapped",
            effort,
            lambda: refstore.arrow.get(store, ref),
            read,
            None,
        )
        yield by_the_clock(
            f"store.put of a frame of pandas of {size(NBYTES)} / to_feather in /dev/shm",
            effort,
            lambda: store.delete(store.put(frame)),
            lambda: frame.to_feather(path, compression="uncompressed"),
            Goal(1.0),
        )


# --- memory


def memory() -> Iterator[Row]:
    with Store.temporary(2 * GIB) as store:
        for name, nbytes in (("small", 56_000), ("large", NBYTES)):
            refstore.arrow.put(store, trips(nbytes), name=name)
        yield private_memory("a table whose columns are added up", store, _add_up)
        yield private_memory("a table that DuckDB queries", store, _by_duckdb)
        yield private_memory("a table that datafusion queries", store, _by_datafusion)
        for name, count in (("small", 1000), ("large", NBYTES // 80)):
            frame = pd.DataFrame({column: np.arange(count) * 1.0 for column in "abcdefghij"})
            store.put(frame, name=name, replace=True)
        yield private_memory("a frame of pandas that is added up", store, _by_pandas)


def _add_up(store: Store, name: str) -> None:
    table = refstore.arrow.get(store, name)
    for column in ("x", "y", "price"):
        pc.sum(table[column])
    pc.count(table["text"])


def _by_duckdb(store: Store, name: str) -> None:
    with duckdb.connect() as connection:
        connection.register("trips", refstore.arrow.get(store, name))
        connection.execute(QUERY).fetchone()


def _by_datafusion(store: Store, name: str) -> None:
    context = datafusion.SessionContext()
    context.register_record_batches("trips", [refstore.arrow.get(store, name).to_batches()])
    context.sql(QUERY).collect()


def _by_pandas(store: Store, name: str) -> None:
    with store.get(name) as buf:
        frame = buf.value
    for column in frame:
        frame[column].sum()
