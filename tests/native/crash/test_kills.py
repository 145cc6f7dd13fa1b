"""SIGKILL at failpoints of every operation in every scenario: nothing is lost, the others go on.

The short forms of `make crash` and `make soak`, with a seed that is printed: of matrix.py and
interleave.py in full, which also play a single trial again.
"""

from __future__ import annotations

import pytest

from refstore import _core
from tests.native.crash import interleave, matrix
from tests.native.crash.crew import share_out

pytestmark = [
    pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (("--depth=1", "--every=0.02"), 1000),
        (("--depth=2", "--every=0.0007"), 300),
        (("--depth=3", "--trials=400"), 300),
    ],
    ids=["one death", "two deaths", "three deaths"],
)
def test_killed_at_a_sample_of_points(arguments: tuple[str, ...], least: int) -> None:
    options = matrix.options_of(arguments)
    print("seed", options.seed)
    report = share_out(options, matrix.play)
    assert report.faults == []
    assert report.counts[f"{options.depth} death(s)"] >= least


def test_stopped_in_each_others_midst_at_a_sample_of_points() -> None:
    options = interleave.options_of(("--every=0.0007",))
    print("seed", options.seed)
    report = share_out(options, interleave.play)
    assert report.faults == []
    assert report.counts["pairs"] >= 200
