"""Processes that do the same work at the same time, window after window."""

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType

from stress.measure import Loop
from stress.support import reaped

Setup = Callable[[int], Mapping[str, Loop]]  # called in each child with its number

# Forked: what a crew works on is set up by closures, and inherits the stores of its parent.
_FORK = multiprocessing.get_context("fork")
_LOOK = 0.0005  # seconds of work between two looks at the clock
_LEAD = 0.001  # seconds from the barrier to the common start
_PATIENCE = 60.0


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

    def window(self, loop: str, seconds: float) -> float:
        """Turns of that loop per second, of all processes together."""
        for connection in self._connections:
            connection.send((loop, seconds))
        total = 0.0
        for connection in self._connections:
            answer = connection.recv()
            if isinstance(answer, str):
                raise RuntimeError(f"a process of the crew failed:\n{answer}")
            total += answer
        return total

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
                speed, lengths[name] = _window(
                    loops[name], self._start.value, seconds, lengths[name]
                )
                connection.send(speed)
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
