"""What becomes of those who need what a stopped process has in hand."""

from __future__ import annotations

import time
from collections.abc import Callable

import helpers
import pytest

import refstore


def assert_gives_up(work: Callable[[], object], pid: int) -> None:
    """Work that needs the lock of that process ends with an error that names it."""
    began = time.monotonic()
    with pytest.raises(refstore.StoreBusyError, match=f"process {pid}") as caught:
        work()
    assert 4.5 < time.monotonic() - began < helpers.BUSY_TIMEOUT
    assert caught.value.pid == pid
