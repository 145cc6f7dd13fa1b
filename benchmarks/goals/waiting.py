"""Rows of calls that wait: how soon they return, and what they cost meanwhile."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from statistics import median
from typing import Literal

from benchmarks.goals.row import Effort, Goal, Row, compared
from refstore import GetTimeoutError, Store
from stress.baseline.build import compiled
from stress.support import MIB, duration, reaped

FLOORS = "benchmarks.machine_floors"
CROWD = 1000
WAITERS, WAIT = 8, 10.0  # processes, and seconds of each
MOST = 0.01  # of a core
_ENGINES: tuple[Literal["native", "filelock"], ...] = ("native", "filelock")
_FORK = multiprocessing.get_context("fork")
_TIMEOUT = 60.0
_PAUSE = 0.0003  # seconds in which a reader has gone to sleep
_STAMP = 8  # bytes
_END = 0  # a stamp


def wake(effort: Effort) -> Sequence[Row]:
    """Takes the time from the call of put to the return of wait in another process."""
    times = effort.worker_rounds * 100
    with Store.temporary(64 * MIB) as store:
        alone = _wakes(store, times)
        with _crowd(store):
            crowded = _wakes(store, times)
    what = "wake by a put of 64 B / half a futex ping-pong"
    return [
        compared(what, *alone, Goal(4.0), duration, str(times)),
        compared(
            f"{what}, {CROWD} waiters on other names", *crowded, Goal(6.0), duration, str(times)
        ),
    ]


def idle(effort: Effort) -> Sequence[Row]:
    """Lets processes wait for a name that never comes, on each engine."""
    what = f"share of a core that {WAITERS} processes take that wait"
    used, by_polling = (_used_by_waiters(backend) for backend in _ENGINES)
    return [
        Row(what, "-", f"{used:.3%}", None, f"< {MOST:.0%}", used < MOST),
        Row(f"{what}, filelock engine", "-", f"{by_polling:.3%}", None, "-", None),
    ]


def _used_by_waiters(backend: Literal["native", "filelock"]) -> float:
    here, there = _FORK.Pipe(duplex=False)
    with Store.temporary(MIB, backend=backend) as store:
        waiters = [_FORK.Process(target=_wait_in_vain, args=(store, there)) for _ in range(WAITERS)]
        with reaped(waiters):
            for waiter in waiters:
                waiter.start()
            used: list[float] = [here.recv() for _ in waiters]
    return sum(used) / WAIT


def _wait_in_vain(store: Store, answer: Connection) -> None:
    began = time.process_time()
    with suppress(GetTimeoutError):
        store.wait("nothing", timeout=WAIT)
    answer.send(time.process_time() - began)


def _wakes(store: Store, times: int) -> tuple[list[float], list[float]]:
    # Of as many wakes, and of the machine's own; a core for each of two processes.
    cores = sorted(os.sched_getaffinity(0))
    here, there = _FORK.Pipe(duplex=False)
    reader = _FORK.Process(target=_read, args=(store, cores[-1], there))
    with reaped([reader]), pinned_to(cores[0]):
        reader.start()
        if not here.poll(_TIMEOUT):
            raise RuntimeError("the reader does not begin")
        here.recv()
        for _ in range(times):
            time.sleep(_PAUSE)
            store.put(time.monotonic_ns().to_bytes(_STAMP, "little") * 8, name="n", replace=True)
        time.sleep(_PAUSE)
        store.put(bytes(64), name="n", replace=True)
        taken = here.recv()
        trips = compiled(FLOORS).futex_round_trips(times, cores[-1])
    return taken, [median(trips) / 2] * len(taken)


def _read(store: Store, core: int, answer: Connection) -> None:
    os.sched_setaffinity(0, {core})
    taken: list[float] = []
    newest = store.put(bytes(64), name="n", replace=True)
    answer.send(None)
    while True:
        with store.wait("n", newer_than=newest, timeout=_TIMEOUT) as buf:
            now = time.monotonic_ns()
            newest = buf.ref
            stamp = int.from_bytes(bytes(buf)[:_STAMP], "little")
        if stamp == _END:
            break
        taken.append((now - stamp) / 1e9)
    answer.send(taken)


@contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """This process has one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _crowd(store: Store) -> Iterator[None]:
    ready = _FORK.Semaphore(0)
    child: BaseProcess = _FORK.Process(target=_wait_in_crowd, args=(store, ready), daemon=True)
    with reaped([child]):
        child.start()
        if not ready.acquire(timeout=_TIMEOUT):
            raise RuntimeError("the crowd does not come together")
        yield
        store.put(b"", name="end")


def _wait_in_crowd(store: Store, ready: Semaphore) -> None:
    for k in range(CROWD):
        threading.Thread(target=_wait_for, args=(store, f"other {k}"), daemon=True).start()
    ready.release()
    store.wait("end", timeout=10 * _TIMEOUT).release()
    os._exit(0)


def _wait_for(store: Store, name: str) -> None:
    store.wait(name)
