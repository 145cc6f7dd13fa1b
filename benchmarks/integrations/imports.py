"""What a process pays for `import refstore`, which imports none of the other libraries."""

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.goals.row import Effort, Goal, Row, compared
from stress.support import duration


def rows(effort: Effort) -> Sequence[Row]:
    ours, floor = [], []
    for _ in range(effort.worker_rounds):
        ours.append(_seconds("import refstore"))
        floor.append(_seconds("import numpy"))
    what = "a process that imports refstore / one that imports numpy"
    return [compared(what, ours, floor, Goal(1.3), duration, str(len(ours)))]


def _seconds(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - began
