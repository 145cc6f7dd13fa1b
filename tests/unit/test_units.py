"""Sizes, ages and times as people read them."""

from __future__ import annotations

import math
import time

import pytest

from refstore._units import PIDS_TOLD, pids_text, time_text


def test_a_time_says_how_long_ago_it_was() -> None:
    assert time_text(time.time() - 7200).endswith(" (2 h ago)")


@pytest.mark.parametrize("seconds", [None, 0, 1e18, -1e18, 1e300, math.inf, math.nan])
def test_what_no_calendar_has_is_not_known(seconds: float | None) -> None:
    assert time_text(seconds) == "not known"


def test_of_very_many_pids_some_are_told() -> None:
    assert pids_text([7]) == "pid 7"
    assert pids_text([7, 8]) == "pids 7, 8"
    assert pids_text(range(PIDS_TOLD + 5)).endswith(f", {PIDS_TOLD - 1} and 5 more")
