"""Measures every figure that the project holds itself to, each against its floor in the same run.

Nothing here asserts: a figure that is missed is printed as missed.
"""

import argparse
import json
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

import numpy as np

from stress.bench_rows import many_processes, one_process, space
from stress.bench_rows.row import HEAD, QUICK, THOROUGH, Effort, Row, Rows
from stress.support import table

ROWS: dict[str, Rows] = {
    "get": one_process.get,
    "put-delete": one_process.put_delete,
    "put-5mib": one_process.put_5mib,
    "one-store-or-two": many_processes.one_store_or_two,
    "many-objects": one_process.many_objects,
    "wear": one_process.wear,
    "usable": space.usable,
    "mixed": space.mixed,
    "attached": many_processes.attached,
    "attach": many_processes.attach,
    "baseline": many_processes.baseline,
}


def measure(names: Sequence[str], effort: Effort) -> list[Row]:
    """All rows asked for; one that fails is a row that says so."""
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += ROWS[name](effort)
        except Exception as error:
            traceback.print_exc()
            rows.append(Row(name, "-", f"{type(error).__name__}: {error}"[:60], None, "-", None))
    return rows


def machine() -> dict[str, object]:
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
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute's look, not for the record")
    parser.add_argument(
        "--only", choices=ROWS, action="append", metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    measured_on = machine()
    print(", ".join(f"{key} {value}" for key, value in measured_on.items()), flush=True)
    rows = measure(options.only or list(ROWS), QUICK if options.quick else THOROUGH)
    print(table([HEAD, *(row.cells() for row in rows)]))
    if options.json:
        found = {"machine": measured_on, "quick": options.quick, "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
