"""Weights that one process publishes again and again, and eight others take up."""

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.goals.row import Effort, Goal, Row, compared
from refstore import Store
from stress.support import MIB, duration, reaped

NBYTES = 20_000_000
READERS = 8
PERIOD = 0.02  # seconds from one publication to the next
TOUCHED = 65536  # bytes that a reader reads
_NAME = "weights"
_LAST = 0  # the stamp of the version after which readers stop
_FORK = multiprocessing.get_context("fork")
_TIMEOUT = 60.0


def published(effort: Effort) -> Sequence[Row]:
    """Takes the age of each version as a reader has it: from the call of put to its wait's end."""
    versions = max(effort.worker_rounds, 50)
    with Store.temporary(READERS * 64 * MIB) as store:
        pipes = [_FORK.Pipe(duplex=False) for _ in range(READERS)]
        readers = [_FORK.Process(target=_read, args=(store, there)) for _, there in pipes]
        with reaped(readers):
            for reader in readers:
                reader.start()
            copies = _publish(store, versions)
            answers = [here.recv() for here, _ in pipes if here.poll(_TIMEOUT)]
    ages = [age for answer in answers for age in answer]
    seen = len(ages) / (len(answers) * versions)
    what = f"age of 20 MB in {READERS} readers, {1 / PERIOD:g} a second / one copy of 20 MB"
    row = compared(
        f"{what} (versions taken up: {seen:.0%})",
        sorted(ages),
        [sorted(copies)[len(copies) // 2]] * len(ages),
        Goal(2.0),
        duration,
        str(versions),
    )
    return [row]


def _publish(store: Store, versions: int) -> list[float]:
    # Returns how long a copy of as many bytes takes, each time between two publications.
    weights, target = np.ones(NBYTES // 8), np.ones(NBYTES // 8)
    stamp = weights[:1].view("i8")
    copies = []
    due = time.monotonic()
    for version in range(versions + 1):
        due += PERIOD
        began = time.perf_counter()
        np.copyto(target, weights)
        copies.append(time.perf_counter() - began)
        time.sleep(max(0.0, due - time.monotonic()))
        stamp[0] = time.monotonic_ns() if version < versions else _LAST
        store.put(weights, name=_NAME, replace=True)
    return copies


def _read(store: Store, answer: Connection) -> None:
    ages: list[float] = []
    newest = None
    with suppress(TimeoutError):
        while True:
            with store.wait(_NAME, newer_than=newest, timeout=_TIMEOUT) as buf:
                now = time.monotonic_ns()
                newest, weights = buf.ref, buf.array
                stamp = int(weights[:1].view("i8")[0])
                if stamp == _LAST:
                    break
                ages.append((now - stamp) / 1e9)
                weights[: TOUCHED // 8].sum()
                del weights
    answer.send(ages)
