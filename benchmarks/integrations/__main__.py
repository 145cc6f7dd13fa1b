"""Measures the modules beside other libraries; figures that are missed are printed as missed."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks.integrations
from benchmarks.goals.row import HEAD, QUICK, THOROUGH, Effort, Row
from stress.support import table


def rows(library: str, effort: Effort) -> Sequence[Row]:
    """All figures of one library."""
    module = importlib.import_module(f"benchmarks.integrations.{library}")
    found: Sequence[Row] = module.rows(effort)
    return found


def main() -> int:
    libraries = [
        one.name
        for one in pkgutil.iter_modules(benchmarks.integrations.__path__)
        if one.name != "__main__"
    ]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", nargs="*", choices=libraries, default=libraries)
    parser.add_argument("--quick", action="store_true", help="a look, not for the record")
    options = parser.parse_args()
    for library in options.library:
        found = rows(library, QUICK if options.quick else THOROUGH)
        print(table([HEAD, *(each.cells() for each in found)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
