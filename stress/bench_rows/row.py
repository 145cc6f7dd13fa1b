"""What a row of the table is, and how hard to try for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stress.crew import Duel
from stress.measure import Loop, Spread, Timed, interleave, ratios, spread
from stress.support import duration, rate


@dataclass(frozen=True)
class Effort:
    """How long to measure: `--quick` for a look, else for the record."""

    rounds: int  # of measurements in turn in this process
    window: float  # seconds of each: short, so that both of a pair see the same machine
    crew_rounds: int  # of measurements in turn in several processes
    crew_window: float  # seconds of each
    objects: int  # in the full store
    cycles: int  # of put and delete that a store is worn with
    operations: int  # of random churn


QUICK = Effort(31, 0.002, 11, 0.1, 100_000, 200_000, 100_000)
THOROUGH = Effort(301, 0.002, 101, 0.1, 1_000_000, 10_000_000, 10_000_000)


@dataclass(frozen=True)
class Goal:
    """What a ratio is to be at most, or at least."""

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
        """As the table shows it."""
        ratio = "-"
        if self.ratio:
            ratio = f"{self.ratio.median:.3g} ({self.ratio.low:.3g} to {self.ratio.high:.3g})"
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


def throughput(what: str, duel: Duel, goal: Goal) -> Row:
    """A row of operations per second, of several processes."""
    return compared(what, duel.ours, duel.floor, goal, rate, duel.rounds)
