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

from stress.measure import Loop
from stress.support import reaped

Setup = Callable[[int], Mapping[str, Loop]]  # called in each child with its number

# Forked: what a crew works on is set up by closures, and inherits the stores of its parent.
_FORK = multiprocessing.get_context("fork")
_DISTURBED = 0.12  # share of the cores that neighbours may take; the kernel counts in hundredths
_ENOUGH = 7  # undisturbed pairs: with fewer, all count
_LOOK = 0.0005  # seconds of work between two looks at the clock
_LEAD = 0.001  # seconds from the barrier to the common start
_PATIENCE = 60.0


@dataclass(frozen=True)
class Window:
    """What a crew did in one stretch of time."""

    speed: float  # turns per second, of all its processes together
    others: float  # share of all cores that went to processes not of the crew


@dataclass(frozen=True)
class Duel:
    """Turns per second of two loops, pair by pair."""

    ours: list[float]
    floor: list[float]
    rounds: str  # how many pairs count, in words


class Crew:
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

    def __enter__(self) -> "Crew":
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
        """All processes at once on that loop."""
        busy, began = _busy_seconds(), time.perf_counter()
        for connection in self._connections:
            connection.send((loop, seconds))
        speed = own = 0.0
        for connection, child in zip(self._connections, self._children, strict=True):
            if connection not in wait([connection, child.sentinel]):
                raise RuntimeError(f"a process of the crew died, exit code {child.exitcode}")
            answer = connection.recv()
            if isinstance(answer, str):
                raise RuntimeError(f"a process of the crew failed:\n{answer}")
            speed += answer[0]
            own += answer[1]
        room = (time.perf_counter() - began) * len(os.sched_getaffinity(0))
        return Window(speed, (_busy_seconds() - busy - own) / room)

    def duel(self, ours: str, floor: str, seconds: float, rounds: int) -> Duel:
        """Windows of two loops in turn, and of these the pairs that nobody disturbed.

        What a neighbour takes from the cores, it takes from the loop that could have used them
        all, and hardly from one that waits for a lock.
        """
        self.window(floor, seconds)
        self.window(ours, seconds)
        pairs = [(self.window(floor, seconds), self.window(ours, seconds)) for _ in range(rounds)]
        quiet = [pair for pair in pairs if max(window.others for window in pair) < _DISTURBED]
        counted = quiet if len(quiet) >= _ENOUGH else pairs
        return Duel(
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
                speed, lengths[name] = _window(
                    loops[name], self._start.value, seconds, lengths[name]
                )
                connection.send((speed, time.process_time() - own))
        except Exception:
            connection.send(traceback.format_exc())


def _window(loop: Loop, start: float, seconds: float, length: int) -> tuple[float, int]:
    """Turns per second, and the turns to make between two looks at the clock.

    The time runs from the common start. Where there are more processes than cores, one that has
    to wait for its turn on a core so counts the wait as well, and the sum is what was reached.
    """
    if (early := start - time.perf_counter()) > 0:
        time.sleep(early)
    turns = 0
    now = time.perf_counter()
    while now - start < seconds:
        loop(length)
        turns += length
        before, now = now, time.perf_counter()
        if now - before < _LOOK:
            length *= 2
    return turns / (now - start), length


def _busy_seconds() -> float:
    """What all cores have worked since the machine was started, for whomever."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
