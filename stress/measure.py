"""Measurements of two things against each other on a machine that is never quite quiet.

Times drift with the neighbours and the clock; a ratio of two measurements taken within the same
few milliseconds hardly does. So everything here is measured in turn, A B A B, each round gives a
ratio of its own, and the median of those is the figure.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Loop = Callable[[int], object]  # runs what is measured n times
Subject = Callable[[], float]  # one measurement: seconds, or operations per second

_LOOK = 0.0005  # seconds of work between two looks at the clock
_CALIBRATED = 0.5  # share of the window that a trial must fill before its length is believed


@dataclass(frozen=True)
class Spread:
    """The middle of some measurements, and the quartiles around it."""

    low: float
    median: float
    high: float

    def text(self, unit: Callable[[float], str] = "{:.3g}".format) -> str:
        """The median, and the quartiles in brackets."""
        return f"{unit(self.median)} ({unit(self.low)} to {unit(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of few values, the ends."""
    if len(values) < 4:
        return Spread(min(values), statistics.median(values), max(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def interleave(subjects: Sequence[Subject], rounds: int) -> list[list[float]]:
    """Measurements of each subject, round by round, after one round that nobody counts."""
    found: list[list[float]] = [[] for _ in subjects]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for subject in subjects:
            subject()
        for _ in range(rounds):
            for subject, values in zip(subjects, found, strict=True):
                values.append(subject())
    finally:
        if collecting:
            gc.enable()
    return found


def ratios(ours: Sequence[float], floor: Sequence[float]) -> Spread:
    """Ratios of ours to the floor, each with its neighbour in time."""
    return spread([a / b for a, b in zip(ours, floor, strict=True)])


def window(loop: Loop, start: float, seconds: float, length: int) -> tuple[float, int]:
    """Turns per second, and the turns to make between two looks at the clock.

    The time runs from a start that all processes have in common. Where there are more of them than
    cores, one that has to wait for its turn on a core so counts the wait as well, and the sum is
    what was reached.
    """
    if (early := start - time.perf_counter()) > 0:
        time.sleep(early)
    turns = 0
    now = time.perf_counter()
    while now - start < seconds or not turns:
        loop(length)
        turns += length
        before, now = now, time.perf_counter()
        if now - before < _LOOK:
            length *= 2
    return turns / (now - start), length


class Timed:
    """Seconds per turn of a loop, over a window of about the length asked for.

    They are this thread's seconds on a core: a loop in one process waits for nobody, and what
    the neighbours take is no part of it. Loops of several processes are measured by `Workers`.
    """

    def __init__(self, loop: Loop, seconds: float, warm: int = 1) -> None:
        loop(warm)  # pays for fresh pages and first pins, which would foretell too much
        self._loop = loop
        self._turns = 1
        while (taken := self._run()) < seconds * _CALIBRATED:
            # At most tenfold: the first trials still pay for cold caches.
            self._turns = int(self._turns * min(10.0, 1 + seconds / max(taken, 1e-9)))

    def _run(self) -> float:
        began = time.thread_time()
        self._loop(self._turns)
        return time.thread_time() - began

    def __call__(self) -> float:
        return self._run() / self._turns
