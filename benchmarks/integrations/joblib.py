"""Large arrays as arguments of `joblib.Parallel`, against joblib's own memory-mapped files."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel

import refstore.joblib
from benchmarks.goals.row import Effort, Goal, Row, by_the_clock
from stress.support import size

NBYTES = 200_000_000
TASKS = 8

BACKENDS = ("loky", "multiprocessing")


def rows(effort: Effort) -> Sequence[Row]:
    effort = replace(effort, rounds=max(effort.worker_rounds // 5, 5))
    theirs = {name: parallel.BACKENDS[name] for name in BACKENDS}
    with refstore.joblib.installed():
        ours = {name: parallel.BACKENDS[name] for name in BACKENDS}
        return [
            by_the_clock(
                what,
                effort,
                functools.partial(by, ours, backend, run),
                functools.partial(by, theirs, backend, run),
                Goal(1.0),
            )
            for what, backend, run in subjects()
        ]


def by(kinds: dict[str, Any], backend: str, run: Callable[[], object]) -> None:
    """Run it by one kind of back ends, whose workers are the same."""
    parallel.register_parallel_backend(backend, kinds[backend])
    run()


def subjects() -> Iterator[tuple[str, str, Callable[[], object]]]:
    array = np.arange(NBYTES / 8)
    for backend in BACKENDS:
        for task, how in ((_item, "look into"), (_total, "add up")):
            what = f"{backend}: {TASKS} tasks {how}"
            each = functools.partial(_run, backend, task, array)
            yield f"{what} the same {size(NBYTES)} again", backend, each
            yield f"{what} {size(NBYTES)} that are new", backend, functools.partial(each, new=True)


def _run(backend: str, task: Callable[[Any, int], float], array: Any, new: bool = False) -> None:
    given = array + 1 if new else array
    Parallel(n_jobs=2, backend=backend)(delayed(task)(given, n) for n in range(TASKS))


def _item(array: Any, index: int) -> float:
    return float(array[index])


def _total(array: Any, number: int) -> float:
    return float(array.sum()) + number
