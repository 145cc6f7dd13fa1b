"""Large arguments and results of `Pool`, against `ProcessPoolExecutor`, whose pipes carry them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.goals.row import Effort, Goal, Row, by_the_clock
from refstore.pool import Pool
from stress.support import size

NBYTES = 200_000_000
TASKS = 8
WORKERS = 4

Run = Callable[[ProcessPoolExecutor], object]


def rows(effort: Effort) -> Sequence[Row]:
    # a round of pipes takes seconds
    effort = replace(effort, rounds=max(effort.worker_rounds // 10, 5))
    with Pool(WORKERS) as ours, ProcessPoolExecutor(WORKERS) as theirs:
        return [
            by_the_clock(
                what,
                effort,
                functools.partial(run, ours),
                functools.partial(run, theirs),
                goal,
            )
            for what, run, goal in subjects()
        ]


def subjects() -> Iterator[tuple[str, Run, Goal | None]]:
    frame = pd.DataFrame({name: np.arange(NBYTES / 80) for name in "abcdefghij"})
    numbers = range(TASKS)
    what = f"a frame of {size(NBYTES)} to {TASKS} tasks"
    frames = [frame] * TASKS
    yield f"{what} by map", lambda pool: list(pool.map(_first, frames, numbers)), Goal(1 / 20)
    yield (
        f"{what} by map, as a partial",
        lambda pool: list(pool.map(functools.partial(_first, frame), numbers)),
        Goal(1 / 20),
    )
    yield (
        f"{what} by submit",
        lambda pool: [one.result() for one in [pool.submit(_first, frame, n) for n in numbers]],
        Goal(1 / 20),
    )
    array = frame.to_numpy()
    yield (
        f"an array of {size(NBYTES)} to one task",
        lambda pool: pool.submit(_item, array, 0).result(),
        None,
    )
    yield (
        f"a result of {size(NBYTES)}, added up",
        lambda pool: pool.submit(np.ones, NBYTES // 8).result().sum(),
        None,
    )
    for nbytes in (16 << 10, 64 << 10, 256 << 10, 1 << 20):
        part = np.ones(nbytes // 8)
        yield (
            f"an array of {size(nbytes)} there and back, 100 times",
            functools.partial(_there_and_back, part),
            None,
        )
    yield (
        "1000 tasks without large arguments by map",
        lambda pool: list(pool.map(abs, range(1000))),
        None,
    )


def _first(frame: Any, row: int) -> float:
    return float(frame.iloc[row, 0])


def _item(array: Any, row: int) -> float:
    return float(array[row, 0])


def _there_and_back(value: Any, pool: ProcessPoolExecutor) -> None:
    for _ in range(100):
        pool.submit(_same, value).result()


def _same(value: Any) -> Any:
    return value
