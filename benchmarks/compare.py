"""The calls of this working tree against those of an earlier commit, in one run.

    python -m benchmarks.compare HEAD~1

Builds the commit in a folder of its own. Then processes of the one and of the other take turns, so
that what the machine does besides hits both; the figure is the median of the ratios of neighbours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stress import ROOT
from stress.measure import ratios, spread
from stress.support import duration, table

# Run by an interpreter that imports one build or the other; prints seconds per call.
CHILD = """
import json, time
import refstore
from refstore import _core

def per_call(call, n):
    call(n // 10)
    began = time.perf_counter()
    call(n)
    return (time.perf_counter() - began) / n

small, large = bytes(64), bytes(5 << 20)
with refstore.Store.temporary("64MiB") as store:
    ref = store.put(small, name="hot")

    def get(n):
        for _ in range(n):
            with store.get(ref):
                pass

    def get_by_name(n):
        for _ in range(n):
            with store.get("hot"):
                pass

    def put_and_delete(n, data=small):
        for _ in range(n):
            store.delete(store.put(data))

    def replace(n):
        for _ in range(n):
            store.put(small, name="hot two", replace=True)

    print(json.dumps({
        "get": per_call(get, 300_000),
        "get, the core alone": _core.bench_get(store, ref, 2_000_000) / 2_000_000,
        "get by name": per_call(get_by_name, 200_000),
        "put and delete 64 B": per_call(put_and_delete, 300_000),
        "the same, the core alone": _core.bench_put_delete(store, 64, 1_000_000) / 1_000_000,
        "replace a name, 64 B": per_call(replace, 100_000),
        "put and delete 5 MiB": per_call(lambda n: put_and_delete(n, large), 200),
    }))
"""

Times = dict[str, float]  # seconds of each call


def build(commit: str, folder: Path) -> Path:
    """Compiles that commit's package; the folder to import it from."""
    subprocess.run(
        ["git", "worktree", "add", "--quiet", "--detach", folder / "tree", commit],
        cwd=ROOT,
        check=True,
    )
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", folder / "lib"],
        cwd=folder / "tree",
        check=True,
        capture_output=True,
    )
    return folder / "lib"


def times(package: Path) -> Times:
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": str(package)},
        cwd=package,
        check=True,
        capture_output=True,
        text=True,
    )
    found: Times = json.loads(child.stdout)
    return found


def compare(before: Path, now: Path, rounds: int) -> list[list[str]]:
    pairs = [(times(before), times(now)) for _ in range(rounds)]
    rows = [["call", "before", "now", "now / before", "quartiles"]]
    for call in pairs[0][0]:
        earlier, later = ([each[call] for each in column] for column in zip(*pairs, strict=True))
        ratio = ratios(later, earlier)
        medians = [duration(spread(values).median) for values in (earlier, later)]
        rows.append([call, *medians, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            before = build(options.commit, folder)
            print(table(compare(before, ROOT, options.rounds)))
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", folder / "tree"], cwd=ROOT, check=False
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
