"""Frames of polars in a store, against IPC files in /dev/shm."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

import refstore.polars
from benchmarks.goals.private_memory import private_memory
from benchmarks.goals.row import Effort, Goal, Row, by_the_clock
from benchmarks.integrations.arrow import NBYTES
from refstore import Store
from stress.support import GIB, size

_ROW = 56  # bytes


def rows(effort: Effort) -> Sequence[Row]:
    effort = replace(effort, rounds=effort.worker_rounds)
    return [*times(effort), *memory()]


def frame_of(nbytes: int) -> pl.DataFrame:
    """Numbers, text and decimals."""
    count = nbytes // _ROW
    numbers = pl.Series("y", np.arange(count))
    words = pl.Series([f"{i} is no short text" for i in range(1000)])
    return pl.DataFrame(
        {
            "x": np.arange(count) * 0.5,
            "y": numbers,
            "text": words.gather(numbers % len(words)),
            "price": numbers.cast(pl.Decimal(20, 2)),
        }
    )


def times(effort: Effort) -> Iterator[Row]:
    frame = frame_of(NBYTES)
    amount = size(frame.estimated_size())
    with Store.temporary(2 * GIB) as store, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = os.path.join(folder, "file.arrow")
        ref = refstore.polars.put(store, frame)
        yield by_the_clock(
            f"put of a frame of {amount} / write_ipc into a file in /dev/shm",
            effort,
            lambda: store.delete(refstore.polars.put(store, frame)),
            lambda: frame.write_ipc(path),
            Goal(1.0),
        )
        yield by_the_clock(
            f"get of a frame of {amount} / read_ipc of that file",
            effort,
            lambda: refstore.polars.get(store, ref),
            lambda: pl.read_ipc(path),
            None,
        )


def memory() -> Iterator[Row]:
    with Store.temporary(2 * GIB) as store:
        for name, nbytes in (("small", 1000 * _ROW), ("large", NBYTES)):
            refstore.polars.put(store, frame_of(nbytes), name=name)
        yield private_memory("a frame whose columns are added up", store, _add_up)
        yield private_memory("a frame that a lazy query reads", store, _query)


def _add_up(store: Store, name: str) -> None:
    frame = refstore.polars.get(store, name)
    assert isinstance(frame, pl.DataFrame)
    for column in ("x", "y", "price"):
        frame[column].sum()
    frame["text"].count()


def _query(store: Store, name: str) -> None:
    columns = pl.col("text").count(), pl.col("x").sum(), pl.col("price").max()
    refstore.polars.scan(store, name).select(*columns).collect()
