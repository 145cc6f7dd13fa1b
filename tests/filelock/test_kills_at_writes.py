"""SIGKILL at each write of a word that an operation of the filelock engine does to its file.

Other tests kill at bytecodes, at random; here is every write, once, in its order.
"""

from __future__ import annotations

import pytest

from tests.filelock import kills, writes


@pytest.mark.parametrize("name", writes.OPERATIONS)
def test_a_kill_before_each_write_leaves_all_or_nothing(
    play: kills.Play, path: str, name: str
) -> None:
    count = play(writes.trial, path, name, None)
    assert count
    for last in range(1, count + 1):
        print(f"killed before write {last} of {count}")
        assert play(writes.trial, path, name, last) is None
