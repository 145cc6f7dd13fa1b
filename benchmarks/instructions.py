"""Instructions per get, put and delete, counted by callgrind: the same on a noisy machine.

Prints the counts that moved by more than 5 % against docs/instructions.json; --save writes that
file anew. Counts belong to a Python and a compiler: on record are those that it was written with.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path

from refstore import Store
from stress import ROOT, loops
from stress.baseline.build import compiled
from stress.measure import Loop
from stress.support import MIB, table

RECORD = ROOT / "docs" / "instructions.json"
MOVED = 0.05
_WARM, _TURNS = 200, 2_000  # the first are not counted: they pay for first pins and caches
# callgrind counts within that function alone
_COUNTED = "__pyx_pw_10benchmarks_14machine_floors_*collected"
_CORE = "_core"  # in the name of the file that the store's own instructions lie in
_NOTHING = "loop"
FLOORS = "benchmarks.machine_floors"
_CACHED = "get from a cache"
WORKS = ("get", _CACHED, "put + delete", "put + get + delete", "put + delete by name", _NOTHING)

Counts = dict[str, float]


def work(name: str) -> None:
    """Runs one work while callgrind counts; in a process of its own."""
    small = bytes(64)
    with Store.temporary(MIB, evict="lru" if name == _CACHED else None) as store:
        ref = store.put(small)
        works: dict[str, Loop] = {
            "get": loops.gets(store, ref),
            _CACHED: loops.gets(store, ref),
            "put + delete": loops.puts(store, small),
            "put + get + delete": loops.cycles(store, small),
            "put + delete by name": loops.named_puts(store, small, "name"),
            _NOTHING: loops.nothing,
        }
        run = works[name]
        run(_WARM)
        compiled(FLOORS).collected(run, _TURNS)


def by_file(lines: Iterable[str]) -> Counter[str]:
    """Instructions of each program file, from callgrind's output.

    A line of two numbers is a cost of the function named last, unless it follows `calls=`: then it
    is the cost of the called one, which stands elsewhere as its own.
    """
    found: Counter[str] = Counter()
    names: dict[str, str] = {}
    current, called = "", False
    for line in lines:
        if line.startswith("ob="):
            number, _, name = line[3:].strip().partition(" ")
            current = names.setdefault(number, name)
        elif line.startswith(("cob=", "cfn=", "cfi=", "cfl=")):
            if line.startswith("cob="):
                number, _, name = line[4:].strip().partition(" ")
                names.setdefault(number, name)
        elif line.startswith("calls="):
            called = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            numbers = line.split()
            if not called and len(numbers) == 2:
                found[current] += int(numbers[1])
            called = False
    return found


def per_turn(name: str) -> tuple[float, float]:
    """Instructions of one turn: all of them, and the core's."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
        program = f"from benchmarks.instructions import work; work({name!r})"
        subprocess.run(
            [*command, f"--toggle-collect={_COUNTED}", sys.executable, "-c", program],
            cwd=ROOT,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)},
        )
        taken = by_file(out.read_text().splitlines())
    core = sum(count for file, count in taken.items() if Path(file).name.startswith(_CORE))
    return taken.total() / _TURNS, core / _TURNS


def count() -> Counts:
    """Counts of `get`, of `get, core alone`, and so on."""
    compiled(FLOORS)  # before two processes ask for it at once, under valgrind
    found: Counts = {}
    with ThreadPool(2) as pool:
        for name, (whole, core) in zip(WORKS, pool.map(per_turn, WORKS), strict=True):
            found[name] = round(whole, 1)
            if name != _NOTHING:
                found[f"{name}, core alone"] = round(core, 1)
    return found


def moved(before: Counts, now: Counts, tolerance: float = MOVED) -> list[str]:
    """Counts that changed by more than that, in words."""
    return [
        f"{name}: {before[name]:.0f} -> {value:.0f} ({value / before[name] - 1:+.1%})"
        for name, value in now.items()
        if before.get(name) and abs(value / before[name] - 1) > tolerance
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    options = parser.parse_args()
    now = count()
    before: Counts = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    rows = [[name, f"{value:.0f}", f"{before.get(name, 0):.0f}"] for name, value in now.items()]
    print(table([["instructions of", "now", "on record"], *rows]))
    for line in moved(before, now):
        print(f"moved by more than {MOVED:.0%}: {line}")
    if options.save:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
