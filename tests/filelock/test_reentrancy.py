"""Python runs in a call: it raises, forks, uses or closes the store; all or nothing, and once."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator

import pytest

from tests.filelock import kills, reentrancy

POINTS = 5  # of each operation and act; `python -m tests.filelock.reentrancy` plays every line


@pytest.fixture(autouse=True)
def _adopting() -> Iterator[None]:
    with kills.adopting():
        yield


@functools.cache
def lines_of(name: str) -> int:
    return reentrancy.lines_of(reentrancy.OPERATIONS[name])


@pytest.mark.parametrize("act", reentrancy.ACTS)
@pytest.mark.parametrize("name", reentrancy.OPERATIONS)
def test_whatever_runs_amid_a_call_leaves_all_or_nothing(name: str, act: str) -> None:
    operation = reentrancy.OPERATIONS[name]
    lines = lines_of(name)
    dice = random.Random(f"{name} {act}")
    for number in sorted(dice.sample(range(1, lines + 1), min(POINTS, lines))):
        print(f"line {number} of {lines}")
        reentrancy.trial(operation, act, number)
