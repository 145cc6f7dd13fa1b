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

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

from stress.crew import Crew
from stress.measure import Spread, ratios, spread
from stress.rivals import WORKLOADS, contest, rivals
from stress.support import parse_counts, rate, table

Result = tuple[Spread, Spread, Spread]  # refstore and baseline a second, and their ratio


def measure(procs: Sequence[int], seconds: float, rounds: int) -> dict[str, dict[int, Result]]:
    """For each workload, what each number of processes reached."""
    found: dict[str, dict[int, Result]] = {workload: {} for workload in WORKLOADS}
    with rivals() as setup:
        for count in procs:
            with Crew(count, setup) as crew:
                for workload in WORKLOADS:
                    ours, theirs = contest(crew, workload, seconds, rounds)
                    found[workload][count] = spread(ours), spread(theirs), ratios(ours, theirs)
    return found


def report(results: dict[int, Result]) -> str:
    """One workload's table."""
    rows = [["processes", "refstore", "scaling", "baseline", "scaling", "refstore / baseline"]]
    first_ours, first_theirs, _ = next(iter(results.values()))
    for count, (ours, theirs, ratio) in results.items():
        rows.append(
            [
                str(count),
                rate(ours.median),
                f"{ours.median / first_ours.median:.2f}",
                rate(theirs.median),
                f"{theirs.median / first_theirs.median:.2f}",
                f"{ratio.median:.3g} ({ratio.low:.3g} to {ratio.high:.3g})",
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
