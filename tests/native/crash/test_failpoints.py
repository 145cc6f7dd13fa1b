"""Every write to shared memory is a failpoint. test_kills.py checks that each is reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refstore import _core
from tests.native.crash.failpoints import ROOT, failpoints

# Fields of the structures in layout.pxd, reached by the names that the core has for them.
SHARED = re.compile(
    r"^\s+(?:(?:slot|tag|run|row|its|label|meta|origin|pool|tag_at\(.*?\)|row_at\(.*?\)|label_at\(.*?\)"
    r"|name_lock_at\(.*?\)|v(?:iew)?\.(?:pool|header|slots\[.*?\]|runs\[.*?\]|tags\[.*?\]))\.\w+(?:\[.*\])?"
    r"|(?:v(?:iew)?\.pins|pins_of\(.*?\)|cells|summary|ready)\[.*\])\s*[-+|&^]?=[^=]"
)
COPIES = re.compile(
    r"^\s+(memset|memcpy)\((label|meta|origin|row\.|its\.|v\.header|v\.pool|v\.tags|v\.base)"
)


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


@pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")
def test_each_failpoint_has_its_place_in_the_source() -> None:
    assert len(failpoints()) > 100
    for point in failpoints():
        assert re.search(r"store_|cas_|fetch_|assign\(|failpoint\(", point.source), point
