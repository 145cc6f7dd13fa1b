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

from stress.baseline.workloads import WORKLOADS, beside_baseline, prepared
from stress.measure import ratios
from stress.support import parse_counts, rate, table
from stress.workers import PairedRun, Workers

HEAD = ["processes", "refstore", "scaling", "baseline", "scaling", "ratio", "rounds"]


def measure(procs: Sequence[int], seconds: float, rounds: int) -> dict[str, dict[int, PairedRun]]:
    """Speeds that each number of processes reached, by workload."""
    found: dict[str, dict[int, PairedRun]] = {workload: {} for workload in WORKLOADS}
    with prepared() as setup:
        for count in procs:
            with Workers(count, setup) as workers:
                for workload in WORKLOADS:
                    found[workload][count] = beside_baseline(workers, workload, seconds, rounds)
    return found


def report(results: dict[int, PairedRun]) -> str:
    """One workload's table."""
    rows = [HEAD]
    first = next(iter(results.values()))
    for count, run in results.items():
        rows.append(
            [
                str(count),
                rate(median(run.ours)),
                f"{median(run.ours) / median(first.ours):.2f}",
                rate(median(run.floor)),
                f"{median(run.floor) / median(first.floor):.2f}",
                ratios(run.ours, run.floor).text(),
                run.rounds,
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
