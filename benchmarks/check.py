"""Ratios that moved by more than 15 % between a run on record and a new one, on any machine.

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

from benchmarks.comparison.results import Report
from stress import ROOT
from stress.measure import Spread
from stress.support import table

RECORD = ROOT / "docs" / "performance.json"
MOVED = 0.15
# The time of a server's socket depends on how deeply the cores sleep.
COMPARED = ("dict", "copy, warm", "shared_memory", "LMDB", "iceoryx2")


@dataclass(frozen=True)
class Move:
    """A ratio that has changed; more is better."""

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
        return [self.what, self.before.text(), self.now.text(), f"{self.change:+.0%}", verdict]


HEAD = ["how many times better refstore is", "on record", "now", "change", ""]


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


def moves(
    before: Mapping[str, Spread], now: Mapping[str, Spread], tolerance: float = MOVED
) -> list[Move]:
    """Ratios in both that moved by more than the tolerance, the worst first."""
    found = [Move(what, before[what], now[what]) for what in now if what in before]
    found = [move for move in found if abs(move.change) > tolerance]
    return sorted(found, key=lambda move: move.change)


def new_run() -> Report:
    """A quick run of what is compared."""
    path = ROOT / "build" / "bench" / "check.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    peers = [f"--peer={name}" for name in ("refstore", "shared_memory", "LMDB", "iceoryx2")]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--part=goals", "--part=speed"]
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
    found = moves(before, now)
    both = len(before.keys() & now.keys())
    if found:
        print(table([HEAD, *(move.cells() for move in found)]))
    print(f"{len(found)} of {both} ratios moved by more than {MOVED:.0%}")
    if not both:
        print("the two runs have nothing in common", file=sys.stderr)
        return 2
    return 1 if any(move.worse for move in found) else 0


if __name__ == "__main__":
    sys.exit(main())
