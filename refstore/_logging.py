"""Records for `logging`, by the logger "refstore", which is quiet unless a program wants them.

Nothing of `logging` is imported before there is something to say.
"""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING

from refstore._units import plural

if TYPE_CHECKING:
    import logging

__all__ = ["full", "info", "news", "waits", "warning"]

FULL_EVERY = 1.0  # seconds
_told_full = "", -math.inf  # the path of a store, and when by time.monotonic()


@functools.cache
def _logger() -> logging.Logger:
    import logging

    logger = logging.getLogger("refstore")
    logger.addHandler(logging.NullHandler())  # else warnings go to stderr where nobody asked
    return logger


def info(message: str, *arguments: object) -> None:
    _logger().info(message, *arguments)


def waits(path: str, what: str) -> None:
    """A call sleeps for long; `what`, as in "wait('weights')"."""
    info("%s has waited for a second in store %r", what, path)


def news(path: str, dead: int, evicted: int) -> None:
    """Tell what happened by the way since the last time: how many dead processes were recovered,
    and how many objects this process has evicted."""
    if dead:
        warning("recovered what %s held in store %r", plural(dead, "dead process"), path)
    if evicted:
        info("evicted %s from store %r", plural(evicted, "object"), path)


def full(path: str, message: str) -> None:
    """A store is full: told once in a while, as who waits for room finds it again and again."""
    global _told_full
    now = time.monotonic()
    if _told_full[0] != path or now - _told_full[1] >= FULL_EVERY:
        _told_full = path, now
        warning("%s", message)


def warning(message: str, *arguments: object) -> None:
    _logger().warning(message, *arguments)
