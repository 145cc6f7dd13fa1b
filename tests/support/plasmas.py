"""Clients of `refstore.plasma`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def connected(path: str) -> Iterator[Any]:
    """A client of the store at `path`, for a while."""
    client = importlib.import_module("refstore.plasma").connect(path)
    yield client
    client.disconnect()
