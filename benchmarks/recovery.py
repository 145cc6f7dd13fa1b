"""The time until what a killed process held is free again.

Each figure begins with a process that is really killed. It was forked from one that is attached,
so it had a row and pins of its own, and the kernel says by the row's lock when it is gone.

recovery       one call of recover(), in a process that uses the store, and in one that has just
               come and has none of its tables in its page tables yet
blocked reap   one delete of an object that the dead process pinned, until its space is free
row lock       from the kill, and from the parent's wait for it, until the row's lock is free
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import refstore
from stress.measure import spread
from stress.support import MIB, duration, forked, fresh_name, fresh_seed, table

SMALL = 1000
PINS = 1000  # that a process dies with
STEP = 1024  # slots whose pins share a page
ROWS = 1024
SPARE = 64 * MIB  # beside the objects themselves
HALF_MADE = 1 * MIB

F_OFD_GETLK = 36  # fcntl names it from Python 3.13 on
_FLOCK = struct.Struct("hhqqi4x")

Refs = list[refstore.ObjectRef]
Prepare = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """One thing measured several times."""

    what: str
    slots: int
    seconds: list[float]
    goal: float | None = None


class Doomed:
    """A child that gets ready to die, and then waits for it."""

    def __init__(self, prepare: Prepare) -> None:
        ready, theirs = os.pipe()

        def live() -> None:
            held = prepare()
            os.write(theirs, b"x")
            signal.pause()
            del held

        self.pid = forked(live)
        os.close(theirs)
        told = os.read(ready, 1)
        os.close(ready)
        if told != b"x":
            raise AssertionError("the process that was to be killed ended by itself")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Newcomer:
    """A child, whose page tables hold nothing of the store, that recovers when told to."""

    def __init__(self, store: refstore.Store) -> None:
        told, self._tell = os.pipe()
        self._answer, answer = os.pipe()

        def live() -> None:
            os.read(told, 1)
            os.write(answer, struct.pack("d", recover_one(store)))
            store.close()

        self._pid = forked(live)
        os.close(told)
        os.close(answer)

    def recover(self) -> float:
        os.write(self._tell, b"x")
        (seconds,) = struct.unpack("d", os.read(self._answer, 8))
        os.waitpid(self._pid, 0)
        os.close(self._tell)
        os.close(self._answer)
        return float(seconds)


def recover_one(store: refstore.Store) -> float:
    began = time.perf_counter()
    recovered = store.recover()
    taken = time.perf_counter() - began
    if recovered.processes != 1:
        raise AssertionError(f"{recovered.processes} dead processes were found, and one was killed")
    return taken


@contextlib.contextmanager
def filled(slots: int) -> Iterator[tuple[refstore.Store, Refs]]:
    """A store all of whose slots are in use, but for the one that dies half written."""
    name = fresh_name("recovery")
    with refstore.Store(name, capacity=64 * slots + SPARE, max_objects=slots, create=True) as store:
        try:
            yield store, [store.put(bytes(64)) for _ in range(slots - 1)]
        finally:
            store.unlink()


def holding(store: refstore.Store, refs: Sequence[refstore.ObjectRef]) -> Prepare:
    """Pins those, and writes half an object."""

    def prepare() -> object:
        held = [store.get(ref) for ref in refs]
        writer = store.create(HALF_MADE)
        memoryview(writer)[: HALF_MADE // 2] = bytes(HALF_MADE // 2)
        return held, writer

    return prepare


def require_nothing_left(store: refstore.Store, used: int) -> None:
    stats = store.stats()
    if stats.used != used or stats.pinned or stats.condemned or stats.processes != 1:
        raise AssertionError(f"something is left of the dead process: {stats}")


def measure_recovery(
    store: refstore.Store, pinned: Refs, repeats: int, *, by_newcomer: bool
) -> list[float]:
    used = store.stats().used
    taken = []
    for _ in range(repeats):
        doomed = Doomed(holding(store, pinned))
        newcomer = Newcomer(store) if by_newcomer else None
        doomed.kill()
        taken.append(newcomer.recover() if newcomer is not None else recover_one(store))
        require_nothing_left(store, used)
    return taken


def measure_blocked_reap(store: refstore.Store, refs: Refs, repeats: int) -> list[float]:
    used = store.stats().used
    taken = []
    for _ in range(repeats):
        at = random.randrange(len(refs))
        Doomed(holding(store, [refs[at]])).kill()
        began = time.perf_counter()
        store.delete(refs[at])
        taken.append(time.perf_counter() - began)
        recover_one(store)  # reports the process that the delete has recovered
        refs[at] = store.put(bytes(64))
        require_nothing_left(store, used)
    return taken


def is_locked(fd: int, row: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(fd, F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)


def measure_row_lock(
    store: refstore.Store, pinned: Refs, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds from the kill, and from the wait for it, to the first probe that finds it free."""
    from_kill, from_wait = [], []
    with open(store.path, "r+b") as file:
        fd = file.fileno()
        for _ in range(repeats):
            before = {row for row in range(ROWS) if is_locked(fd, row)}
            doomed = Doomed(holding(store, pinned))
            (row,) = {row for row in range(ROWS) if is_locked(fd, row)} - before
            killed = time.perf_counter()
            os.kill(doomed.pid, signal.SIGKILL)
            os.waitpid(doomed.pid, 0)
            waited = time.perf_counter()
            while is_locked(fd, row):
                pass
            free = time.perf_counter()
            from_kill.append(free - killed)
            from_wait.append(free - waited)
            recover_one(store)
    return from_kill, from_wait


def measure(slots: int, repeats: int) -> list[Figure]:
    figures = []
    for n in (SMALL, slots):
        with filled(n) as (store, refs):
            dead = {
                f"{PINS:,} random pins": random.choices(refs, k=PINS),
                "a pin on every page of pins": refs[::STEP],
            }
            for what, pinned in dead.items():
                for who, by_newcomer in (("in use", False), ("just come", True)):
                    taken = measure_recovery(store, pinned, repeats, by_newcomer=by_newcomer)
                    figures.append(Figure(f"recovery, {what}, {who}", n, taken, 0.020))
            taken = measure_blocked_reap(store, refs, repeats)
            figures.append(Figure("delete blocked by a dead process", n, taken, 0.100))
            from_kill, from_wait = measure_row_lock(store, refs[:PINS], repeats)
            figures.append(Figure("row lock free after kill()", n, from_kill))
            figures.append(Figure("row lock free after waitpid()", n, from_wait))
    return figures


def report(figures: Sequence[Figure]) -> str:
    rows = [["slots", "what", "median", "quartiles", "worst", "goal"]]
    for figure in figures:
        found = spread(figure.seconds)
        rows.append(
            [
                f"{figure.slots:,}",
                figure.what,
                duration(found.median),
                f"{duration(found.low)} to {duration(found.high)}",
                duration(max(figure.seconds)),
                "" if figure.goal is None else duration(figure.goal),
            ]
        )
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=fresh_seed())
    parser.add_argument("--json", action="store_true", help="every measurement, in seconds")
    options = parser.parse_args()
    random.seed(options.seed)
    figures = measure(options.slots, options.repeats)
    print(json.dumps([asdict(figure) for figure in figures]) if options.json else report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
