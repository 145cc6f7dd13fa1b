"""Python amid a call: it raises, forks, uses or closes the store; all or nothing, and once."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from locked import amid, kills

POINTS = 5  # of each operation and act; `python -m locked.amid` plays every line


@pytest.fixture(autouse=True)
def _adopting() -> Iterator[None]:
    with kills.adopting():
        yield


@pytest.mark.parametrize("act", amid.ACTS)
@pytest.mark.parametrize("name", amid.OPERATIONS)
def test_whatever_runs_amid_a_call_leaves_all_or_nothing(name: str, act: str) -> None:
    operation = amid.OPERATIONS[name]
    lines = amid.lines_of(operation)
    dice = random.Random(f"{name} {act}")
    for number in sorted(dice.sample(range(1, lines + 1), min(POINTS, lines))):
        print(f"line {number} of {lines}")
        amid.trial(operation, act, number)
