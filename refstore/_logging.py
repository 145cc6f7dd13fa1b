"""Records for `logging`, by the logger "refstore", which is quiet unless a program wants them.

Nothing of `logging` is imported before there is something to say.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["info", "waits", "warning"]


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


def warning(message: str, *arguments: object) -> None:
    _logger().warning(message, *arguments)
