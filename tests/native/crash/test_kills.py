"""SIGKILL at failpoints of every operation in every scenario: nothing is lost, the others go on.

The short forms of `make crash` and `make soak`, with a seed that is printed: of matrix.py and
interleave.py in full, which also play a single trial again. They are programs of their own, since
a process that has pytest and thousands of tests in it forks slowly.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from refstore import _core

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds"),
    pytest.mark.timeout(600),
]


def tried(program: str, what: str, *options: str) -> int:
    """How many trials of a kind a program played, none of which found a fault."""
    command = [sys.executable, "-m", f"tests.native.crash.{program}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    found = re.search(rf"^([\d,]+) {re.escape(what)}.*: 0 faults", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (("--depth=1", "--part=0.5", "--every=0.02"), 1000),
        (("--depth=2", "--part=0.1", "--every=0.0035"), 300),
        (("--depth=3", "--part=0.2", "--trials=400"), 300),
    ],
    ids=["one death", "two deaths", "three deaths"],
)
def test_killed_at_a_sample_of_points(options: tuple[str, ...], least: int) -> None:
    deaths = options[0].rpartition("=")[2]
    assert tried("matrix", f"{deaths} death(s)", *options) >= least


def test_stopped_in_each_others_midst_at_a_sample_of_points() -> None:
    assert tried("interleave", "pairs", "--part=0.1", "--every=0.0035") >= 200
