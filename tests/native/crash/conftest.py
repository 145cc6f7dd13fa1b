"""How long the core waits for a lock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refstore import _core


@pytest.fixture
def short_busy_timeout() -> Iterator[None]:
    """Short, where somebody waits for nothing."""
    _core._set_busy_timeout(50)
    yield
    _core._set_busy_timeout(-1)
