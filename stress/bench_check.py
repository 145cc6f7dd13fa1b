"""What moved by more than 15 % between a run on record and a new one, on whatever machine.

Times differ from machine to machine, ratios hardly do: compared is how many times better refstore
is than each floor and each peer that needs no server, and the ratios of the goals. Exit status 1
if one got worse by more than that and the two spreads do not even touch.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

from stress.measure import Spread
from stress.side_by_side.cells import Report
from stress.support import table

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "performance.json"
MOVED = 0.15
# What a server's socket takes depends on how deeply the cores sleep.
COMPARED = ("dict", "copy, warm", "shared_memory", "LMDB", "iceoryx2")


@dataclass(frozen=True)
class Move:
    """A ratio that is not what it was; more is better."""

    what: str
    before: Spread
    now: Spread

    @property
    def change(self) -> float:
        return self.now.median / self.before.median - 1

    @property
    def apart(self) -> bool:
        """The quartiles of the one run do not touch those of the other."""
        return self.now.high < self.before.low or self.now.low > self.before.high

    @property
    def worse(self) -> bool:
        return self.change < 0 and self.apart

    def cells(self) -> list[str]:
        verdict = "within the spread"
        if self.apart:
            verdict = "better" if self.change > 0 else "WORSE"
        return [self.what, _words(self.before), _words(self.now), f"{self.change:+.0%}", verdict]


HEAD = ["how many times better refstore is", "on record", "now", "change", ""]


def _words(value: Spread) -> str:
    return f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"


def advantages(report: Report) -> dict[str, Spread]:
    """All ratios that can be compared, turned so that more is better."""
    found = {
        f"{cell.work}, {cell.case}, against {cell.peer}": cell.ratio
        for cell in report.cells
        if cell.ratio and cell.peer in COMPARED
    }
    for row in report.goals:
        if row["ratio"]:
            ratio = Spread(**row["ratio"])
            found[row["what"]] = ratio if row["goal"].startswith(">") else _inverse(ratio)
    return found


def _inverse(ratio: Spread) -> Spread:
    return Spread(1 / ratio.high, 1 / ratio.median, 1 / ratio.low)


def compare(
    before: Mapping[str, Spread], now: Mapping[str, Spread], tolerance: float = MOVED
) -> list[Move]:
    """Those in both that moved by more than the tolerance, the worst first."""
    moves = [Move(what, before[what], now[what]) for what in now if what in before]
    moves = [move for move in moves if abs(move.change) > tolerance]
    return sorted(moves, key=lambda move: move.change)


def new_run() -> Report:
    """A quick one of what is compared, told apart from the record's by its own file."""
    path = ROOT / "build" / "bench" / "check.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    peers = [f"--peer={name}" for name in ("refstore", "shared_memory", "LMDB", "iceoryx2")]
    command = [sys.executable, "stress/bench.py", "--quick", "--part=goals", "--part=speed"]
    subprocess.run(
        [*command, *peers, f"--json={path}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return Report.load(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("found", type=Path, nargs="?", help="a run; default: make a quick one")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    before = advantages(Report.load(options.record))
    now = advantages(Report.load(options.found) if options.found else new_run())
    moves = compare(before, now)
    both = len(before.keys() & now.keys())
    if moves:
        print(table([HEAD, *(move.cells() for move in moves)]))
    print(f"{len(moves)} of {both} ratios moved by more than {MOVED:.0%}")
    if not both:
        print("the two runs have nothing in common", file=sys.stderr)
        return 2
    return 1 if any(move.worse for move in moves) else 0


if __name__ == "__main__":
    sys.exit(main())
