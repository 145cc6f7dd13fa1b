"""`refstore.dask` against plain Dask: two clusters on this machine, measured in turn.

Memory is what all workers have for themselves, without what they share, beside the size of the
object: of 8 workers that read it, plain Dask adds 8. Times are of 4 workers, since more only wait
for a processor here. The clients of both talk to the workers directly (`direct_to_workers=True`),
but for the rows that say otherwise.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask.config
import numpy as np
from distributed import Client, LocalCluster

import refstore.dask
from benchmarks.goals.row import Effort, Goal, Row, compared
from stress.measure import interleave
from stress.support import duration, size

WORKERS, TIMED = 8, 4
LARGE, WEIGHTS, SYNCS = 100_000_000, 5_000_000, 10  # bytes, bytes, syncs in one measurement
ROUNDS, TIMED_ROUNDS = 5, 31  # at most
_SETTLED = 60.0  # seconds to let go of an object
_NO_PRELOAD = ["json"]  # one that does nothing
_CONFIG = {
    # which would take copies away meanwhile
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
    "logging.distributed": "error",
    "refstore.capacity": "1 GiB",
}
_SUBJECT = "object of 100 MB"


# --- in workers


def private() -> int:
    """Bytes of memory that this process has for itself."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def read(array: Any) -> int:
    """A look at every page."""
    return int(array[::4096].sum(dtype="i8"))


def made(nbytes: int) -> Any:
    return np.ones(nbytes, "u1")


# --- clusters


class Subject:
    """A cluster, and what is measured of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._workers = list(client.scheduler_info(n_workers=-1)["workers"])

    def scatter(self, nbytes: int, direct: bool = True) -> Any:
        data = np.random.default_rng().integers(0, 255, nbytes, dtype="u1")
        return lambda: self._client.scatter(data, broadcast=True, direct=direct, hash=False)

    def make(self, nbytes: int) -> Any:
        return lambda: self._client.submit(made, nbytes, pure=False, workers=self._workers[:1])

    def read_by_all(self, future: Any) -> None:
        self._client.gather(
            [self._client.submit(read, future, pure=False, workers=[w]) for w in self._workers]
        )

    def private(self) -> int:
        return sum(self._client.run(private).values())

    def seconds_of_making(self) -> float:
        """Until an object is made that nobody reads."""
        gc.collect()
        started = time.perf_counter()
        future = self.make(LARGE)()
        future.exception()  # waits for its end, and gathers nothing
        return time.perf_counter() - started

    def let_go(self, before: int, slack: int) -> None:
        gc.collect()  # which is off while subjects take turns; futures are in circles
        until = time.monotonic() + _SETTLED
        while self.private() > before + slack and time.monotonic() < until:
            time.sleep(0.1)

    def memory(self, prepare: Callable[[], Any]) -> float:
        """Bytes that all workers have for themselves, after they have read an object."""
        begin = prepare()
        before = self.private()
        future = begin()
        self.read_by_all(future)
        added = self.private() - before
        del future
        self.let_go(before, LARGE // 2)
        return max(float(added), 1.0)

    def seconds(self, prepare: Callable[[], Any]) -> float:
        """Until all have read an object."""
        begin = prepare()
        gc.collect()
        started = time.perf_counter()
        future = begin()
        self.read_by_all(future)
        return time.perf_counter() - started

    def seconds_of_syncs(self) -> float:
        """A sync, of several in a row."""
        return sum(self.seconds(lambda: self.scatter(WEIGHTS)) for _ in range(SYNCS)) / SYNCS


@contextmanager
def subjects(workers: int) -> Iterator[tuple[Subject, Subject]]:
    """Plain Dask, and the same with refstore."""
    common: dict[str, Any] = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
    common |= {"dashboard_address": ":0"}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        refstore.dask.install()
        stack.callback(refstore.dask.uninstall)
        ours = stack.enter_context(LocalCluster(**common, data=refstore.dask.Data))
        plain = stack.enter_context(LocalCluster(**common, preload=_NO_PRELOAD))
        # the first client that there is decides on the store
        clients = [
            stack.enter_context(Client(cluster, direct_to_workers=True, set_as_default=False))
            for cluster in (ours, plain)
        ]
        for client in clients:
            client.wait_for_workers(workers)
        yield Subject(clients[1]), Subject(clients[0])


# --- rows


def of_memory(effort: Effort) -> Iterator[Row]:
    rounds = min(effort.rounds, ROUNDS)
    with subjects(WORKERS) as (plain, ours):
        for what, prepare in (
            (f"scatter of an {_SUBJECT}, read by {WORKERS}", lambda each: each.scatter(LARGE)),
            (
                "the same through the scheduler",
                lambda each: each.scatter(LARGE, direct=False),
            ),
            (f"{_SUBJECT} of one worker, read by {WORKERS}", lambda each: each.make(LARGE)),
        ):
            found = interleave(
                [_memory(subject, prepare) for subject in (plain, ours)],
                rounds,
            )
            whole = [float(LARGE)] * rounds
            for name, values, goal in zip(
                ("plain Dask", "refstore"), found, (None, Goal(0.1)), strict=True
            ):
                label = f"{what}: memory added, {name}"
                yield compared(label, values, whole, goal, size, str(rounds))


def _memory(subject: Subject, prepare: Callable[[Subject], Any]) -> Callable[[], float]:
    return lambda: subject.memory(lambda: prepare(subject))


def of_time(effort: Effort) -> Iterator[Row]:
    rounds = min(effort.rounds, TIMED_ROUNDS)
    with subjects(TIMED) as (plain, ours):
        for what, prepare in (
            (f"scatter of an {_SUBJECT}, read by {TIMED}", lambda each: each.scatter(LARGE)),
            ("the same through the scheduler", lambda each: each.scatter(LARGE, direct=False)),
            (f"{_SUBJECT} of one worker, read by {TIMED}", lambda each: each.make(LARGE)),
            ("scatter of 10 KB, read by all", lambda each: each.scatter(10_000)),
        ):
            timed = [_seconds(subject, prepare) for subject in (plain, ours)]
            floor, values = interleave(timed, rounds)
            goal = None if "KB" in what else Goal(1)
            yield compared(what, values, floor, goal, duration, str(rounds))
        floor, values = interleave([plain.seconds_of_making, ours.seconds_of_making], rounds)
        what = f"{_SUBJECT} of one worker, read by none"
        yield compared(what, values, floor, None, duration, str(rounds))
        floor, values = interleave([plain.seconds_of_syncs, ours.seconds_of_syncs], rounds)
        what = f"{SYNCS} syncs of {size(WEIGHTS)} to {TIMED}, each"
        yield compared(what, values, floor, Goal(1), duration, str(rounds))


def _seconds(subject: Subject, prepare: Callable[[Subject], Any]) -> Callable[[], float]:
    return lambda: subject.seconds(lambda: prepare(subject))


def rows(effort: Effort) -> Sequence[Row]:
    """All figures."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return [*of_memory(effort), *of_time(effort)]
