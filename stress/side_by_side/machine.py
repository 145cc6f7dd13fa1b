"""Floors that need no store: what the processor, the kernel and the interpreter take."""

from stress.baseline_build import compiled
from stress.loops import memoryviews
from stress.measure import Subject, Timed, interleave, spread
from stress.side_by_side.bench import Bench, progress
from stress.side_by_side.cells import SECONDS, Cell

WORK = "floors"
_TURNS = 1_000_000
_TRIPS = 20_000


def run(bench: Bench) -> None:
    """Seconds of one of each."""
    native = compiled("floors")
    subjects: dict[str, Subject] = {
        "an atomic add": lambda: native.atomic_adds(_TURNS),
        "a futex round trip": lambda: native.futex_round_trips(_TRIPS),
        "with memoryview(b)": Timed(memoryviews(bytes(64)), bench.effort.window),
        "an empty turn of a loop": Timed(_empty, bench.effort.window),
    }
    rounds = bench.effort.rounds
    with progress("floors", 1) as bar:
        found = interleave(list(subjects.values()), rounds)
        bar.update()
    for what, values in zip(subjects, found, strict=True):
        cell = Cell(WORK, what, "machine", SECONDS, value=spread(values), rounds=rounds)
        bench.report.cells.append(cell)


def _empty(turns: int) -> None:
    for _ in range(turns):
        pass
