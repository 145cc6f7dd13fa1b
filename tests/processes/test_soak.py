"""A few seconds of what `make soak` does for half an hour, with a seed that is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The package under test comes first, wherever it is; stress/ is found beside these tests.
PROGRAM = (
    f"import sys; sys.path.append({str(ROOT)!r}); from stress.crash import main; sys.exit(main())"
)


@pytest.mark.native("the program takes either")
@pytest.mark.filelock("the program takes either")
def test_nothing_is_lost_while_processes_die_stop_and_fork(engine: str) -> None:
    options = [f"--backend={engine}", "--seconds=5", "--procs=4"]
    if engine == "native":
        options.append("--rate=12")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options], capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "no fault" in done.stdout
