"""SIGKILL at failpoints of every operation in every scenario: nothing is lost, the others go on.

Samples of what `make crash` and `make soak` try, by matrix.py and interleave.py. A run prints its
seed; these programs also play a single trial again.
"""

from __future__ import annotations

import pytest

from refstore import _core
from tests.native.crash.crew import NOT_REACHED, sample

IN_TESTS = {"_set_generation", "_set_pins", "bench_put_delete"}
IN_LARGE_STORES = {"make_huge"}  # see test_huge_pages.py
# Only a process that comes between two steps of another one makes it pass these.
IN_RACES = {"summary_clear: fetch_or_release(&summary[w >> 6], bit)"}
IN_DAMAGED_FILES = {
    "unpin: fetch_add_seq_cst_u32(&v.pins[i], 1)",
    "pop: cas_relaxed(&v.pool.queue_begin[queue], &begin, end)",
}
WITH_CHILDREN = {  # that have no row: see test_fork_kept.py and test_children.py
    "before_fork: fetch_add_seq_cst(&unseen_forks, 1)",
    "leave: store_release(&row_at(v, v.row).state, ROW_LEFT)",
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds"),
    pytest.mark.timeout(600),
]


def test_each_failpoint_is_reached_and_a_sample_kills() -> None:
    tried, said = sample("matrix", "1 death(s)", "--depth=1", "--every=0.008")
    assert tried >= 1000
    missed = {
        line.removeprefix(NOT_REACHED) for line in said.splitlines() if line.startswith(NOT_REACHED)
    }
    known = {one for one in missed if one.split(":")[0] in IN_TESTS | IN_LARGE_STORES}
    assert missed - known == IN_RACES | IN_DAMAGED_FILES | WITH_CHILDREN


@pytest.mark.parametrize(
    "options",
    [
        ("--depth=2", "--part=0.1", "--every=0.0025"),
        ("--depth=3", "--part=0.06", "--trials=400"),
    ],
    ids=["two deaths", "three deaths"],
)
def test_killed_again_in_a_recovery(options: tuple[str, ...]) -> None:
    deaths = options[0].rpartition("=")[2]
    assert sample("matrix", f"{deaths} death(s)", *options)[0] >= 300


def test_stopped_in_each_others_midst_at_a_sample_of_points() -> None:
    assert sample("interleave", "pairs", "--part=0.1", "--every=0.0035")[0] >= 200
