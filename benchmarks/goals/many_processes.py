"""Rows that need several processes."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event, Semaphore

from benchmarks.goals.row import Effort, Goal, Row, throughput, timed
from refstore import Store
from stress import loops
from stress.baseline import workloads
from stress.measure import Loop, Timed, interleave, spread
from stress.support import MIB, child_answer, duration, fresh_name, reaped
from stress.workers import Workers

SMALL = bytes(64)
_IDLE = 200
_FORK = multiprocessing.get_context("fork")
_TIMEOUT = 60.0
_ATTACH_SECONDS = 0.010
_OBJECTS, _PINNED, _SLOTS = 100_000, 1000, 131_072
_STATS_SECONDS = 0.001


def one_store_or_two(effort: Effort) -> Sequence[Row]:
    """Runs two processes on one store against the same two on a store each."""
    with (
        Store.temporary(64 * MIB) as shared,
        Store.temporary(64 * MIB) as first,
        Store.temporary(64 * MIB) as second,
    ):
        hot = {store: store.put(SMALL) for store in (shared, first, second)}

        def setup(index: int) -> dict[str, Loop]:
            own = (first, second)[index]
            return {
                f"{kind} {where}": loop
                for where, store in (("one", shared), ("two", own))
                for kind, loop in (
                    ("cycle", loops.cycles(store, SMALL)),
                    ("hot", loops.gets(store, hot[store])),
                )
            }

        rows = []
        with Workers(2, setup) as workers:
            for kind, what in (("cycle", "put/get/delete of 64 B"), ("hot", "get of a hot object")):
                run = workers.paired_run(
                    f"{kind} one", f"{kind} two", effort.worker_window, effort.worker_rounds
                )
                label = f"two processes on one store / on two: {what}"
                rows.append(throughput(label, run, Goal(0.95, at_least=True)))
        return rows


def attached(effort: Effort) -> Sequence[Row]:
    """Works on a store that many processes have open and do nothing with."""
    with (
        Store.temporary(64 * MIB) as crowded,
        _idle(crowded, _IDLE),
        Store.temporary(64 * MIB) as alone,
    ):
        what = f"put/get/delete of 64 B with {_IDLE} idle processes attached / none"
        loop, floor = loops.cycles(crowded, SMALL), loops.cycles(alone, SMALL)
        return [timed(what, effort, loop, floor, Goal(1.3))]


def stats(effort: Effort) -> Sequence[Row]:
    """Counts a store that is nearly full of objects, with others attached and some pinned."""
    rows = []
    for nbytes in (64, 4096):
        with Store.temporary(2 * _OBJECTS * nbytes, max_objects=_SLOTS) as store, _idle(store, 3):
            refs = store.put_many([bytes(nbytes)] * _OBJECTS)
            held = store.get_many(refs[:: _OBJECTS // _PINNED])
            (seconds,) = interleave([Timed(_counted(store), effort.window)], effort.rounds)
            for buf in held:
                buf.release()
        taken = spread(seconds)
        what = f"stats() of {_OBJECTS:,} objects of {nbytes} B of {_SLOTS:,}, 4 processes attached"
        row = Row(what, "-", taken.text(duration), None, f"< {duration(_STATS_SECONDS)}", None)
        rows.append(replace(row, met=taken.median < _STATS_SECONDS, rounds=str(effort.rounds)))
    return rows


def _counted(store: Store) -> Loop:
    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.stats()

    return run


@contextmanager
def _idle(store: Store, count: int) -> Iterator[None]:
    ready, stop = _FORK.Semaphore(0), _FORK.Event()
    children: list[BaseProcess] = [
        _FORK.Process(target=_wait_attached, args=(store, ready, stop), daemon=True)
        for _ in range(count)
    ]
    with reaped(children):
        for child in children:
            child.start()
        for _ in children:
            if not ready.acquire(timeout=_TIMEOUT):
                raise RuntimeError(f"not all of {count} processes could attach")
        yield
        stop.set()


def _wait_attached(store: Store, ready: Semaphore, stop: Event) -> None:
    ref = store.put(SMALL)
    with store.get(ref):
        pass
    store.delete(ref)
    ready.release()
    stop.wait()


def attach(effort: Effort) -> Sequence[Row]:
    """Attaches in a new process each time: for the same process a second time is no work."""
    name = fresh_name("attach")
    store = Store(name, capacity="1TiB", create=True)
    store.close()
    try:
        rounds = range(effort.worker_rounds)
        taken = spread([child_answer(_FORK, _time_attach, name) for _ in rounds])
    finally:
        Store(name, create=False).unlink()
    return [
        Row(
            "attach to a store of 1 TiB",
            "-",
            taken.text(duration),
            None,
            f"< {duration(_ATTACH_SECONDS)}",
            taken.median < _ATTACH_SECONDS,
        )
    ]


def _time_attach(name: str, answer: Connection) -> None:
    began = time.perf_counter()
    store = Store(name, create=False)
    answer.send(time.perf_counter() - began)
    store.close()


def baseline(effort: Effort) -> Sequence[Row]:
    """Runs four processes on this store, and four on the one that it replaces."""
    goals = {
        workloads.SMALL: 3.5,
        workloads.BESIDE: 3.5,
        workloads.LARGE: 3.5,
        workloads.LOOKUP: 5.0,
        workloads.CORE: 50.0,
    }
    rows = []
    with workloads.prepared() as setup, Workers(4, setup) as workers:
        for workload, bound in goals.items():
            what = f"4 processes / in the old store: {workload}"
            goal = Goal(bound, at_least=True)
            if workload not in workloads.WORKLOADS:
                rows.append(Row(what, "-", "-", None, str(goal), None))
                continue
            run = workloads.beside_baseline(
                workers, workload, effort.worker_window, effort.worker_rounds
            )
            rows.append(throughput(what, run, goal))
    return rows
