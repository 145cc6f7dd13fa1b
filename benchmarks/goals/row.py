"""A row of the table of goals, and how long to measure for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stress.measure import Loop, Spread, Timed, interleave, ratios, spread
from stress.support import duration, rate
from stress.workers import PairedRun


@dataclass(frozen=True)
class Effort:
    """Lengths of the measurements: short for a look (`--quick`), long for the record."""

    rounds: int  # of measurements in turn in this process
    window: float  # seconds of each: short, so that both of a pair see the same machine
    worker_rounds: int  # of measurements in turn in several processes
    worker_window: float  # seconds of each
    objects: int  # in the full store
    cycles: int  # of put and delete before a churned store is measured
    operations: int  # of random sizes


QUICK = Effort(31, 0.002, 11, 0.1, 100_000, 200_000, 100_000)
THOROUGH = Effort(301, 0.002, 101, 0.1, 1_000_000, 10_000_000, 10_000_000)


@dataclass(frozen=True)
class Goal:
    """A bound of a ratio, from above or from below."""

    bound: float
    at_least: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    floor: str
    ours: str
    ratio: Spread | None
    goal: str
    met: bool | None  # None if there is no goal, or it could not be measured
    rounds: str = "-"  # that count

    def cells(self) -> list[str]:
        """The row as the table shows it."""
        ratio = self.ratio.text() if self.ratio else "-"
        met = {True: "yes", False: "no", None: "-"}[self.met]
        return [self.what, self.floor, self.ours, ratio, self.goal, met, self.rounds]


HEAD = ["what", "floor", "ours", "ratio (quartiles)", "goal", "met?", "rounds"]
Rows = Callable[[Effort], Sequence[Row]]


def compared(
    what: str,
    ours: Sequence[float],
    floor: Sequence[float],
    goal: Goal | None,
    unit: Callable[[float], str],
    rounds: str,
) -> Row:
    """A row of two lists of figures, each with its neighbour in time."""
    ratio = ratios(ours, floor)
    return Row(
        what,
        unit(spread(floor).median),
        unit(spread(ours).median),
        ratio,
        str(goal or "-"),
        goal.met(ratio.median) if goal else None,
        rounds,
    )


def timed(
    what: str, effort: Effort, ours: Loop, floor: Loop, goal: Goal | None, warm: int = 1
) -> Row:
    """A row of two loops in this process: seconds per turn."""
    subjects = [Timed(loop, effort.window, warm) for loop in (floor, ours)]
    floors, values = interleave(subjects, effort.rounds)
    return compared(what, values, floors, goal, duration, str(effort.rounds))


def by_the_clock(
    what: str,
    effort: Effort,
    ours: Callable[[], object],
    floor: Callable[[], object],
    goal: Goal | None,
) -> Row:
    """A row of two calls in turn: libraries of columns work in several threads."""
    floors, values = interleave([lambda: seconds(floor), lambda: seconds(ours)], effort.rounds)
    return compared(what, values, floors, goal, duration, str(effort.rounds))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def throughput(what: str, run: PairedRun, goal: Goal) -> Row:
    """A row of operations per second, of several processes."""
    return compared(what, run.ours, run.floor, goal, rate, run.rounds)
