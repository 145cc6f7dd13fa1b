"""Every write to shared memory is a failpoint, and every failpoint is reached."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from refstore import _core
from tests.native.crash.failpoints import ROOT, failpoints
from tests.native.crash.operations import OPERATIONS
from tests.native.crash.scenarios import all_scenarios
from tests.native.crash.trial import Stage

# Fields of the structures in layout.pxd, reached by the names that the core has for them.
SHARED = re.compile(
    r"^\s+(?:(?:slot|tag|run|row|its|label|meta|origin|pool|tag_at\(.*?\)|row_at\(.*?\)|label_at\(.*?\)"
    r"|name_lock_at\(.*?\)|v(?:iew)?\.(?:pool|header|slots\[.*?\]|runs\[.*?\]|tags\[.*?\]))\.\w+(?:\[.*\])?"
    r"|(?:v(?:iew)?\.pins|pins_of\(.*?\)|cells|summary|ready)\[.*\])\s*[-+|&^]?=[^=]"
)
COPIES = re.compile(
    r"^\s+(memset|memcpy)\((label|meta|origin|row\.|its\.|v\.header|v\.pool|v\.tags|v\.base)"
)
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

needs_failpoints = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")


def core_lines() -> list[tuple[Path, int, str]]:
    paths = sorted((ROOT / "refstore" / "engines" / "native").glob("*.p?[di]"))
    assert len(paths) > 30
    return [
        (path, number, line)
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]


def test_no_plain_assignment_writes_to_shared_memory() -> None:
    found = [f"{p.name}:{n}: {line.strip()}" for p, n, line in core_lines() if SHARED.match(line)]
    assert found == []


def test_the_pattern_knows_a_plain_assignment() -> None:
    for line in (
        "slot.nbytes = n",
        "tag_at(v, 1).tail = 0",
        "v.pool.bin_bits[b] |= 1",
        "v.pins[i] += 1",
    ):
        assert SHARED.match("    " + line)
    assert not SHARED.match("    slot = &v.slots[i]")
    assert not SHARED.match("    assign(slot.nbytes, n)")


def test_each_copy_into_shared_memory_is_followed_by_a_failpoint() -> None:
    copies = [(path, number) for path, number, line in core_lines() if COPIES.match(line)]
    assert len(copies) > 5
    assert [copy for copy in copies if not _followed(*copy)] == []


def _followed(path: Path, number: int) -> bool:
    after = path.read_text().splitlines()[number : number + 2]
    return any(line.strip() == "failpoint()" for line in after)


@pytest.mark.long
@pytest.mark.timeout(300)
@needs_failpoints
def test_each_failpoint_is_reached(folder: Path) -> None:
    stage = Stage(os.fspath(folder / "stage"))
    reached = {
        point.number
        for scenario in all_scenarios(os.fspath(folder / "scenario"))
        for operation in OPERATIONS
        for point in stage.points_of(scenario, scenario.image, operation)
    }
    stage.close()
    known = IN_TESTS | IN_LARGE_STORES
    missed = [f for f in failpoints() if f.number not in reached and f.function not in known]
    apart = IN_RACES | IN_DAMAGED_FILES | WITH_CHILDREN
    assert {f"{f.function}: {f.source}" for f in missed} == apart


@needs_failpoints
def test_each_failpoint_has_its_place_in_the_source() -> None:
    assert len(failpoints()) > 100
    for point in failpoints():
        assert re.search(r"store_|cas_|fetch_|assign\(|failpoint\(", point.source), point
