"""Measures refstore: against its peers, and against the goals that the project holds itself to.

Nothing here asserts: a figure that is missed is printed as missed, a peer that is not here is
named. `bench_check.py` is the program that compares two runs.
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

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

import numpy as np

from stress.bench_rows import fresh_memory, many_processes, one_process, space
from stress.bench_rows.row import HEAD, Row, Rows
from stress.bench_rows.row import QUICK as QUICK_ROWS
from stress.bench_rows.row import THOROUGH as THOROUGH_ROWS
from stress.peers.registry import FLOORS, PEERS, SLOW, present
from stress.side_by_side import drawn, latency, machine, processes, room, throughput, traffic
from stress.side_by_side.bench import QUICK, THOROUGH, US, Bench, on_many_cores, progress
from stress.side_by_side.cells import Report
from stress.side_by_side.tables import terminal
from stress.support import MIB, table

GOALS: dict[str, Rows] = {
    "get": one_process.get,
    "put-delete": one_process.put_delete,
    "create-seal": one_process.create_seal,
    "array": one_process.array,
    "put-5mib": one_process.put_5mib,
    "fresh-memory": fresh_memory.fresh_memory,
    "one-store-or-two": many_processes.one_store_or_two,
    "many-objects": one_process.many_objects,
    "wear": one_process.wear,
    "usable": space.usable,
    "mixed": space.mixed,
    "attached": many_processes.attached,
    "attach": many_processes.attach,
    "baseline": many_processes.baseline,
}
PARTS = ("goals", "speed", "traffic", "room", "kill", "drawn")
_CAPACITY = 512 * MIB
_COMPARED = ("dict", "copy, warm", "copy, cold", "refstore, cold", "empty adapter")


def goals(names: Sequence[str], quick: bool) -> list[Row]:
    """All rows asked for; one that fails is a row that says so."""
    rows: list[Row] = []
    with progress("goals", len(names)) as bar:
        for name in names:
            bar.set_postfix_str(name)
            try:
                rows += GOALS[name](QUICK_ROWS if quick else THOROUGH_ROWS)
            except Exception as error:
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}"[:60]
                rows.append(Row(name, "-", why, None, "-", None))
            bar.update()
    return rows


def speed(bench: Bench) -> None:
    """All that needs one large store, the peers' stores being there at the same time."""
    machine.run(bench)
    procs = max(2, *bench.effort.procs)
    with (
        bench.hosts(_CAPACITY, bench.peers, procs) as hosts,
        bench.hosts(_CAPACITY, [name for name in _COMPARED if name in bench.floors], 1) as floors,
    ):
        latency.run(bench, {**hosts, **floors})
        latency.across(bench, hosts)
        throughput.run(bench, hosts)
        processes.attach(bench, hosts)


def rooms(bench: Bench) -> None:
    room.overhead(bench)
    room.usable(bench)
    room.mixed(bench)


SIDE_BY_SIDE: dict[str, Callable[[Bench], None]] = {
    "speed": speed,
    "traffic": traffic.run,
    "room": rooms,
    "kill": processes.kill,
    "drawn": drawn.run,
}


def measured_on() -> dict[str, object]:
    """What the figures were measured on."""
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
    """What peers and floors say of themselves, and why those that cannot run do not."""
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
        report.goals = [asdict(row) for row in rows]
        print(table([HEAD, *(row.cells() for row in rows)]), flush=True)
    effort = QUICK if options.quick else on_many_cores(THOROUGH)
    bench = Bench(report, effort)
    for part in parts:
        if part in SIDE_BY_SIDE:
            SIDE_BY_SIDE[part](bench)
            if options.json:
                report.save(options.json)  # after each part: a long run may be cut short
    report.missing |= bench.lost
    print(terminal(report))
    if options.json:
        report.save(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
