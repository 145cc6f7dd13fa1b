"""Python runs in a call: it raises, forks, uses or closes the store; all or nothing, and once."""

from __future__ import annotations

import functools
import random

import pytest

from tests.filelock import kills, reentrancy

POINTS = 5  # of each operation and act; `python -m tests.filelock.reentrancy` plays every line


@functools.cache
def lines_of(play: kills.Play, name: str) -> int:
    return int(play(reentrancy.lines_of, name))


@pytest.mark.parametrize("act", reentrancy.ACTS)
@pytest.mark.parametrize("name", reentrancy.OPERATIONS)
def test_whatever_runs_amid_a_call_leaves_all_or_nothing(
    play: kills.Play, name: str, act: str
) -> None:
    lines = lines_of(play, name)
    dice = random.Random(f"{name} {act}")
    for number in sorted(dice.sample(range(1, lines + 1), min(POINTS, lines))):
        print(f"line {number} of {lines}")
        play(reentrancy.trial, name, act, number)
