"""Measures refstore: against its peers, and against the goals that the project holds itself to.

Nothing here asserts: a figure that is missed is printed as missed, a peer that is not here is
named. `python -m benchmarks.check` compares two runs.
"""

import argparse
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import latency, lifecycle, machine, plots, space, throughput, traffic
from benchmarks.comparison.results import Report
from benchmarks.comparison.rounds import QUICK, THOROUGH, US, Comparison, on_many_cores, progress
from benchmarks.comparison.tables import terminal
from benchmarks.goals import (
    batches,
    cache,
    fresh_memory,
    makers,
    many_processes,
    objects,
    one_process,
    row,
    waiting,
    weights,
)
from benchmarks.goals import space as space_goals
from benchmarks.peers.registry import FLOORS, PEERS, SLOW, present
from stress.support import MIB, table

GOALS: dict[str, row.Rows] = {
    "get": one_process.get,
    "put-delete": one_process.put_delete,
    "create-seal": one_process.create_seal,
    "array": one_process.array,
    "small-objects": objects.small_objects,
    "many-small-arrays": objects.many_small_arrays,
    "put-5mib": one_process.put_5mib,
    "fresh-memory": fresh_memory.fresh_memory,
    "one-store-or-two": many_processes.one_store_or_two,
    "many-objects": one_process.many_objects,
    "churn": one_process.churn,
    "usable": space_goals.usable,
    "mixed": space_goals.mixed,
    "records": space_goals.records,
    "attached": many_processes.attached,
    "attach": many_processes.attach,
    "stats": many_processes.stats,
    "get-many": batches.many_gets,
    "put-many": batches.many_puts,
    "wake": waiting.wake,
    "idle": waiting.idle,
    "get-or-put": makers.present,
    "hand-over": makers.hand_over,
    "weights": weights.published,
    "hit-rates": cache.hit_rates,
    "cache": cache.churn,
    "baseline": many_processes.baseline,
}
PARTS = ("goals", "speed", "traffic", "space", "kill", "plots")
_CAPACITY = 512 * MIB
_COMPARED = ("dict", "copy, warm", "copy, cold", "refstore, cold", "empty adapter")


def goals(names: Sequence[str], quick: bool) -> list[row.Row]:
    """All rows asked for; one that fails is a row that says so."""
    rows: list[row.Row] = []
    with progress("goals", len(names)) as bar:
        for name in names:
            bar.set_postfix_str(name)
            try:
                rows += GOALS[name](row.QUICK if quick else row.THOROUGH)
            except Exception as error:
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}"[:60]
                rows.append(row.Row(name, "-", why, None, "-", None))
            bar.update()
    return rows


def speed(comparison: Comparison) -> None:
    """Measures all that needs one large store of each peer, all there at the same time."""
    machine.run(comparison)
    procs = max(2, *comparison.effort.procs)
    floors = [name for name in _COMPARED if name in comparison.floors]
    with (
        comparison.hosts(_CAPACITY, comparison.peers, procs) as hosts,
        comparison.hosts(_CAPACITY, floors, 1) as floor_hosts,
    ):
        latency.run(comparison, {**hosts, **floor_hosts})
        latency.across(comparison, hosts)
        throughput.run(comparison, hosts)
        lifecycle.attach(comparison, hosts)


SIDE_BY_SIDE: dict[str, Callable[[Comparison], None]] = {
    "speed": speed,
    "traffic": traffic.run,
    "space": space.run,
    "kill": lifecycle.kill,
    "plots": plots.run,
}


def measured_on() -> dict[str, object]:
    """The machine that the figures are of."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load before": os.getloadavg()[0],
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def participants(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Descriptions of peers and floors, and reasons why some cannot run."""
    wanted = options.peer or list(PEERS)
    left_out = {}
    if options.quick and not options.peer:
        left_out = dict.fromkeys(SLOW, "left out of a quick look")
    names = [US, *(name for name in wanted if name != US and name not in left_out)]
    here, missing = present([*names, *FLOORS])
    return here, {**left_out, **missing}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not for the record")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all of them")
    parser.add_argument(
        "--only", choices=GOALS, action="append", metavar="ROW", help=", ".join(GOALS)
    )
    parser.add_argument("--peer", choices=PEERS, action="append", help="default: all of them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    parts = options.part or (["goals"] if options.only else list(PARTS))
    here, missing = participants(options)
    report = Report(measured_on(), options.quick, here, missing)
    print(", ".join(f"{key} {value}" for key, value in report.machine.items()), flush=True)
    if "goals" in parts:
        rows = goals(options.only or list(GOALS), options.quick)
        report.goals = [asdict(each) for each in rows]
        print(table([row.HEAD, *(each.cells() for each in rows)]), flush=True)
    effort = QUICK if options.quick else on_many_cores(THOROUGH)
    comparison = Comparison(report, effort)
    for part in parts:
        if part in SIDE_BY_SIDE:
            SIDE_BY_SIDE[part](comparison)
            if options.json:
                report.save(options.json)  # after each part: a long run may be cut short
    report.missing |= comparison.lost
    print(terminal(report))
    if options.json:
        report.save(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
