"""Rows of objects that one process makes for all."""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from itertools import repeat
from multiprocessing.connection import Connection

from benchmarks.goals.row import Effort, Goal, Row, timed
from refstore import Store
from stress import loops
from stress.measure import Loop
from stress.support import MIB, duration, reaped

MOST = 0.2  # seconds
_FORK = multiprocessing.get_context("fork")
_TIMEOUT = 60.0
_PAUSE = 0.005  # seconds in which whoever waits for a maker has gone to sleep
_STAMP = 8  # bytes


def present(effort: Effort) -> Sequence[Row]:
    """Asks for what is there already."""
    with Store.temporary(MIB) as store:
        store.put(bytes(64), name="n")
        what = "get_or_put of a name that is there / get by name"
        return [timed(what, effort, _asked(store), loops.gets(store, "n"), Goal(1.1))]


def _asked(store: Store) -> Loop:
    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.get_or_put("n", bytes):
                pass

    return run


def hand_over(effort: Effort) -> Sequence[Row]:
    """Kills the maker of an object that another process waits for, until that one's turn comes."""
    rounds = effort.worker_rounds * 4
    here, there = _FORK.Pipe()
    with Store.temporary(MIB) as store:
        successor = _FORK.Process(target=_succeed, args=(store, there))
        with reaped([successor]):
            successor.start()
            taken = sorted(_handed_over(store, here, f"{k}") for k in range(rounds))
            here.send(None)
    ours = taken[int(rounds * 0.99)]
    what = "from a maker's SIGKILL to the call of another's factory, 99 of 100"
    return [Row(what, "-", duration(ours), None, f"<= {duration(MOST)}", ours <= MOST, f"{rounds}")]


def _handed_over(store: Store, successor: Connection, name: str) -> float:
    here, there = _FORK.Pipe(duplex=False)
    maker = _FORK.Process(target=store.get_or_put, args=(name, lambda: _make(there)))
    with reaped([maker]):
        maker.start()
        if not here.poll(_TIMEOUT):
            raise RuntimeError("the maker does not begin")
        successor.send(name)
        time.sleep(_PAUSE)
        assert maker.pid is not None
        killed = time.monotonic_ns()
        os.kill(maker.pid, signal.SIGKILL)
        maker.join()
        if not successor.poll(_TIMEOUT):
            raise RuntimeError("nobody takes over")
        began: int = successor.recv()
    return (began - killed) / 1e9


def _make(told: Connection) -> None:
    told.send(None)
    signal.pause()


def _succeed(store: Store, commands: Connection) -> None:
    def stamp() -> bytes:
        return time.monotonic_ns().to_bytes(_STAMP, "little")

    while (name := commands.recv()) is not None:
        with store.get_or_put(name, stamp) as buf:
            commands.send(int.from_bytes(bytes(buf), "little"))
        store.delete(name)
