"""Reads and writes of zarr arrays in a store, against those in zarr's `MemoryStore`.

zarr has threads of its own, so these are seconds on the clock, of reads in turn.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from benchmarks.goals.row import Effort, Goal, Row, compared
from refstore import Store
from refstore.zarr import RefstoreStore
from stress.measure import Subject, interleave
from stress.support import GIB, duration

ROWS, COLUMNS = 8000, 7813  # of float64: 500 MB
CHUNKS = (800, 782)  # 5 MB each
SMALL_CHUNKS = 1000  # of 8 KB each
READ, WRITE = Goal(1.2), None


def rows(effort: Effort) -> Sequence[Row]:
    data = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).round(2)
    small = data.reshape(-1)[: SMALL_CHUNKS * 1000]
    found = []
    for backend in ("native", "filelock"):
        for what, source, chunks, compressors in (
            ("500 MB, uncompressed", data, CHUNKS, None),
            ("500 MB, zarr's default compression", data, CHUNKS, "auto"),
            ("1000 chunks of 8 KB, uncompressed", small, (1000,), None),
        ):
            with _arrays(backend, source, chunks, compressors) as (ours, floor):
                pairs: list[tuple[str, Callable[[Any], Subject], Goal | None]] = [
                    (f"{backend}: read of {what}", _reads, READ if source is data else None),
                    (f"{backend}: write of {what}", _writes(source), WRITE),
                ]
                for label, subject, goal in pairs:
                    rounds = max(5, effort.worker_rounds // 5)
                    floors, values = interleave([subject(floor), subject(ours)], rounds)
                    found.append(compared(label, values, floors, goal, duration, str(rounds)))
    return found


@contextmanager
def _arrays(
    backend: Any, data: Any, chunks: tuple[int, ...], compressors: Any
) -> Iterator[tuple[Any, Any]]:
    """The same array in a store and in a MemoryStore."""
    with Store.temporary(2 * GIB, backend=backend) as store:
        made = [
            zarr.create_array(
                where, shape=data.shape, chunks=chunks, dtype="f8", compressors=compressors
            )
            for where in (RefstoreStore(store), MemoryStore())
        ]
        for array in made:
            array[:] = data
        yield made[0], made[1]


def _reads(array: Any) -> Subject:
    def run() -> float:
        began = time.perf_counter()
        array[:]
        return time.perf_counter() - began

    return run


def _writes(data: Any) -> Callable[[Any], Subject]:
    def of(array: Any) -> Subject:
        def run() -> float:
            began = time.perf_counter()
            array[:] = data
            return time.perf_counter() - began

        return run

    return of
