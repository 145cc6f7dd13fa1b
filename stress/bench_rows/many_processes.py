"""Rows that need several processes."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event, Semaphore

from refstore import Store
from stress import loops, rivals
from stress.bench_rows.row import Effort, Goal, Row, throughput, timed
from stress.crew import Crew
from stress.measure import Loop, spread
from stress.support import MIB, duration, fresh_name, reaped

SMALL = bytes(64)
_IDLE = 200
_FORK = multiprocessing.get_context("fork")
_PATIENCE = 60.0
_ATTACH_SECONDS = 0.010


def one_store_or_two(effort: Effort) -> Sequence[Row]:
    """Two processes on one store against the same two on a store each."""
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
                    ("churn", loops.cycles(store, SMALL)),
                    ("hot", loops.gets(store, hot[store])),
                )
            }

        rows = []
        with Crew(2, setup) as crew:
            for kind, what in (("churn", "put/get/delete of 64 B"), ("hot", "get of a hot object")):
                duel = crew.duel(
                    f"{kind} one", f"{kind} two", effort.crew_window, effort.crew_rounds
                )
                label = f"two processes on one store / on two: {what}"
                rows.append(throughput(label, duel, Goal(0.95, at_least=True)))
        return rows


def attached(effort: Effort) -> Sequence[Row]:
    """A store that many processes have open and do nothing with."""
    with Store.temporary(64 * MIB) as crowded, _idle(crowded), Store.temporary(64 * MIB) as alone:
        what = f"put/get/delete of 64 B with {_IDLE} idle processes attached / none"
        loop, floor = loops.cycles(crowded, SMALL), loops.cycles(alone, SMALL)
        return [timed(what, effort, loop, floor, Goal(1.3))]


@contextmanager
def _idle(store: Store) -> Iterator[None]:
    ready, stop = _FORK.Semaphore(0), _FORK.Event()
    children: list[BaseProcess] = [
        _FORK.Process(target=_wait_attached, args=(store, ready, stop), daemon=True)
        for _ in range(_IDLE)
    ]
    with reaped(children):
        for child in children:
            child.start()
        for _ in children:
            if not ready.acquire(timeout=_PATIENCE):
                raise RuntimeError(f"not all of {_IDLE} processes could attach")
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
    """In a new process each time: a second attachment of the same process is no work at all."""
    name = fresh_name("attach")
    store = Store(name, capacity="1TiB", create=True)
    store.close()
    try:
        taken = spread([_attach_once(name) for _ in range(effort.crew_rounds)])
    finally:
        Store(name, create=False).unlink()
    return [
        Row(
            "attach to a store of 1 TiB",
            "-",
            f"{duration(taken.median)} ({duration(taken.low)} to {duration(taken.high)})",
            None,
            f"< {duration(_ATTACH_SECONDS)}",
            taken.median < _ATTACH_SECONDS,
        )
    ]


def _attach_once(name: str) -> float:
    ours, theirs = _FORK.Pipe()
    child = _FORK.Process(target=_time_attach, args=(name, theirs), daemon=True)
    with reaped([child]):
        child.start()
        if not ours.poll(_PATIENCE):
            raise RuntimeError("a process could not attach")
        seconds: float = ours.recv()
        return seconds


def _time_attach(name: str, answer: Connection) -> None:
    began = time.perf_counter()
    store = Store(name, create=False)
    answer.send(time.perf_counter() - began)
    store.close()


def baseline(effort: Effort) -> Sequence[Row]:
    """Four processes each, on this store and on the one that it replaces."""
    goals = {
        rivals.SMALL: 3.5,
        rivals.BESIDE: 3.5,
        rivals.LARGE: 3.5,
        rivals.LOOKUP: 5.0,
        rivals.CORE: 50.0,
    }
    rows = []
    with rivals.rivals() as setup, Crew(4, setup) as crew:
        for workload, bound in goals.items():
            what = f"4 processes / in the old store: {workload}"
            goal = Goal(bound, at_least=True)
            if workload not in rivals.WORKLOADS:
                rows.append(Row(what, "-", "-", None, str(goal), None))
                continue
            duel = rivals.contest(crew, workload, effort.crew_window, effort.crew_rounds)
            rows.append(throughput(what, duel, goal))
    return rows
