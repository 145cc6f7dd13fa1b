"""Throughput against the number of processes, beside the store that refstore replaces.

Windows of the two stores take turns, and each one's scaling is against itself with the first
number of processes. With more processes than cores nothing can scale further: the number of cores
is printed with the figures.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

from stress.crew import Crew, Duel
from stress.measure import ratios
from stress.rivals import WORKLOADS, contest, rivals
from stress.support import parse_counts, rate, table

HEAD = ["processes", "refstore", "scaling", "baseline", "scaling", "ratio", "rounds"]


def measure(procs: Sequence[int], seconds: float, rounds: int) -> dict[str, dict[int, Duel]]:
    """For each workload, what each number of processes reached."""
    found: dict[str, dict[int, Duel]] = {workload: {} for workload in WORKLOADS}
    with rivals() as setup:
        for count in procs:
            with Crew(count, setup) as crew:
                for workload in WORKLOADS:
                    found[workload][count] = contest(crew, workload, seconds, rounds)
    return found


def report(results: dict[int, Duel]) -> str:
    """One workload's table."""
    rows = [HEAD]
    first = next(iter(results.values()))
    for count, duel in results.items():
        ratio = ratios(duel.ours, duel.floor)
        rows.append(
            [
                str(count),
                rate(median(duel.ours)),
                f"{median(duel.ours) / median(first.ours):.2f}",
                rate(median(duel.floor)),
                f"{median(duel.floor) / median(first.floor):.2f}",
                f"{ratio.median:.3g} ({ratio.low:.3g} to {ratio.high:.3g})",
                duel.rounds,
            ]
        )
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--procs", type=parse_counts, default=[1, 2, 4], help="such as 1,2,4")
    parser.add_argument("--seconds", type=float, default=0.1, help="of one window")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores", flush=True)
    for workload, results in measure(options.procs, options.seconds, options.rounds).items():
        print(f"\n{workload}\n{report(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
