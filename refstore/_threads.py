"""Threads of the program: whether any but the current one could do something."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["HELPERS", "has_others"]

HELPERS: Final = "refstore"  # begins the names of threads that this package starts


def has_others() -> bool:
    """Whether the program has other threads. Helpers of this package are none."""
    own = threading.current_thread()
    return any(
        thread is not own and not thread.name.startswith(HELPERS)
        for thread in threading.enumerate()
    )
