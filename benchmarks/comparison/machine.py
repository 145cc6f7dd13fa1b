"""Floors that need no store: times of the processor, the kernel and the interpreter."""

from statistics import fmean

from benchmarks.comparison.results import SECONDS, Cell
from benchmarks.comparison.rounds import Comparison, progress
from stress.baseline.build import compiled
from stress.loops import memoryviews, nothing
from stress.measure import Subject, Timed, interleave, spread

WORK = "floors"
_TURNS = 1_000_000
_TRIPS = 20_000


def run(comparison: Comparison) -> None:
    """Measures seconds of one of each."""
    native = compiled("benchmarks.machine_floors")
    subjects: dict[str, Subject] = {
        "an atomic add": lambda: native.atomic_adds(_TURNS),
        "a futex round trip": lambda: fmean(native.futex_round_trips(_TRIPS)),
        "with memoryview(b)": Timed(memoryviews(bytes(64)), comparison.effort.window),
        "an empty turn of a loop": Timed(nothing, comparison.effort.window),
    }
    rounds = comparison.effort.rounds
    with progress("floors", 1) as bar:
        found = interleave(list(subjects.values()), rounds)
        bar.update()
    for what, values in zip(subjects, found, strict=True):
        cell = Cell(WORK, what, "machine", SECONDS, value=spread(values), rounds=rounds)
        comparison.report.cells.append(cell)
