"""`refstore.plasma` against Plasma itself, by the same program.

Plasma lived until pyarrow 11, in Python 3.11 at the latest: `make bench-peers` installs it in an
environment of its own, which has Python 3.10. Without it there is nothing to compare with.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.goals.row import Effort, Goal, Row, compared
from stress import ROOT
from stress.measure import interleave
from stress.support import duration

PLASMA = ROOT / "build" / "plasma-venv" / "bin" / "python"
WINDOW = 0.05  # seconds
GOAL = Goal(1.0)

# Runs loops as it is told, and says the seconds of each turn. The first line says whose client.
PROGRAM = """
import sys, time
import numpy as np

class Loops:
    def __init__(self, client):
        self.client = client
        self.hot = client.put_raw_buffer(bytes(64))
        self.array = np.zeros(5 << 17)
        self.kept = client.put(self.array)
        self.table = [np.arange(1000.0)] * 10

    def put_small(self):
        self.client.delete([self.client.put_raw_buffer(bytes(64))])

    def get_small(self):
        self.client.get_buffers([self.hot])

    def create_seal(self):
        one = plasma.ObjectID.from_random()
        self.client.create(one, 1 << 20)
        self.client.seal(one)
        self.client.delete([one])

    def put_array(self):
        self.client.delete([self.client.put(self.array)])

    def get_array(self):
        self.client.get(self.kept)

    def put_list(self):
        self.client.delete([self.client.put(self.table)])

with plasma.start_plasma_store(1 << 28) as (name, _):
    loops = Loops(plasma.connect(name))
    print("ready", flush=True)
    for line in sys.stdin:
        loop, seconds = line.split()
        run, end, turns = getattr(loops, loop), time.perf_counter() + float(seconds), 0
        began = time.perf_counter()
        while not turns or time.perf_counter() < end:
            run()
            turns += 1
        print((time.perf_counter() - began) / turns, flush=True)
"""
LOOPS = {
    "put_small": "put_raw_buffer and delete of 64 B",
    "get_small": "get_buffers of 64 B",
    "create_seal": "create, seal and delete of 1 MiB",
    "put_array": "put and delete of an array of 5 MiB",
    "get_array": "get of an array of 5 MiB",
    "put_list": "put and delete of ten arrays of 8 kB in a list",
}


def rows(effort: Effort) -> Sequence[Row]:
    if not PLASMA.exists():
        return [
            Row(f"refstore.plasma / Plasma: {what}", "-", "-", None, str(GOAL), None)
            for what in LOOPS.values()
        ]
    with ExitStack() as stack:
        ours = stack.enter_context(program(sys.executable, "from refstore import plasma"))
        theirs = stack.enter_context(program(str(PLASMA), "from pyarrow import plasma"))
        return [measured(loop, ours, theirs, effort.worker_rounds) for loop in LOOPS]


def measured(loop: str, ours: "Measure", theirs: "Measure", rounds: int) -> Row:
    floors, values = interleave([lambda: theirs(loop), lambda: ours(loop)], rounds)
    what = f"refstore.plasma / Plasma: {LOOPS[loop]}"
    return compared(what, values, floors, GOAL, duration, str(rounds))


Measure = Callable[[str], float]


@contextmanager
def program(python: str, first: str) -> Iterator[Measure]:
    """Seconds per turn of a loop, in a process of that Python."""
    with subprocess.Popen(
        [python, "-W", "ignore", "-c", first + PROGRAM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        tell, answers = process.stdin, process.stdout
        assert answers.readline() == "ready\n"

        def measure(loop: str) -> float:
            tell.write(f"{loop} {WINDOW}\n")
            tell.flush()
            return float(answers.readline())

        yield measure
        tell.close()
