"""Processes that do the same work at the same time, window after window."""

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from stress.measure import Loop, window
from stress.support import reaped

Setup = Callable[[int], Mapping[str, Loop]]  # called in each child with its number

# Forked: the loops are set up by closures, and use the stores that the parent has open.
_FORK = multiprocessing.get_context("fork")
_DISTURBED = 0.12  # share of the cores that neighbours may take; the kernel counts in hundredths
_ENOUGH = 7  # undisturbed pairs: with fewer, all count
_LEAD = 0.001  # seconds from the barrier to the common start
_PATIENCE = 60.0


@dataclass(frozen=True)
class Window:
    """The work of one stretch of time."""

    speed: float  # turns per second, of all its processes together
    others: float  # share of all cores that went to other processes


@dataclass(frozen=True)
class PairedRun:
    """Turns per second of two loops, pair by pair."""

    ours: list[float]
    floor: list[float]
    rounds: str  # how many pairs count, in words


class Workers:
    """Forked processes that run named loops together when told to.

    They are dealt out to the cores: left alone, two of them often spend a window on the same one.
    The parent waits meanwhile, so it takes no core away from them.
    """

    def __init__(self, procs: int, setup: Setup) -> None:
        self._start = _FORK.RawValue("d", 0.0)
        self._barrier = _FORK.Barrier(procs, action=self._set_start)
        pipes = [_FORK.Pipe() for _ in range(procs)]
        self._connections = [ours for ours, _ in pipes]
        self._children = [
            _FORK.Process(target=self._serve, args=(theirs, setup, index), daemon=True)
            for index, (_, theirs) in enumerate(pipes)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "Workers":
        self._stack.enter_context(reaped(self._children))
        for child in self._children:
            child.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            for connection in self._connections:
                connection.send(None)
        self._stack.__exit__(kind, error, trace)

    def window(self, loop: str, seconds: float) -> Window:
        """Runs that loop in all processes at once."""
        busy, began = _busy_seconds(), time.perf_counter()
        for connection in self._connections:
            connection.send((loop, seconds))
        speed = own = 0.0
        for connection, child in zip(self._connections, self._children, strict=True):
            if connection not in wait([connection, child.sentinel]):
                raise RuntimeError(f"a worker died, exit code {child.exitcode}")
            answer = connection.recv()
            if isinstance(answer, str):
                raise RuntimeError(f"a worker failed:\n{answer}")
            speed += answer[0]
            own += answer[1]
        capacity = (time.perf_counter() - began) * len(os.sched_getaffinity(0))
        return Window(speed, (_busy_seconds() - busy - own) / capacity)

    def paired_run(self, ours: str, floor: str, seconds: float, rounds: int) -> PairedRun:
        """Runs windows of two loops in turn; the pairs that nobody disturbed count.

        What a neighbour takes from the cores, it takes from the loop that could have used them
        all, and hardly from one that waits for a lock.
        """
        self.window(floor, seconds)
        self.window(ours, seconds)
        pairs = [(self.window(floor, seconds), self.window(ours, seconds)) for _ in range(rounds)]
        quiet = [pair for pair in pairs if max(window.others for window in pair) < _DISTURBED]
        counted = quiet if len(quiet) >= _ENOUGH else pairs
        return PairedRun(
            ours=[window.speed for _, window in counted],
            floor=[window.speed for window, _ in counted],
            rounds=f"{len(counted)} of {rounds}" + ("" if counted is quiet else ", disturbed"),
        )

    def _set_start(self) -> None:
        # Run by one of them while the others wait. The clock is the same for all processes.
        self._start.value = time.perf_counter() + _LEAD

    def _serve(self, connection: Connection, setup: Setup, index: int) -> None:
        gc.disable()
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
        try:
            loops = setup(index)
            lengths = dict.fromkeys(loops, 1)
            while (order := connection.recv()) is not None:
                name, seconds = order
                self._barrier.wait(_PATIENCE)
                own = time.process_time()
                speed, lengths[name] = window(
                    loops[name], self._start.value, seconds, lengths[name]
                )
                connection.send((speed, time.process_time() - own))
        except Exception:
            connection.send(traceback.format_exc())


def _busy_seconds() -> float:
    """Seconds that all cores have worked since the machine was started, for any process."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
