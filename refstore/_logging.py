"""Records for `logging`, by the logger "refstore", which is quiet unless a program wants them.

Nothing of `logging` is imported before there is something to say.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["info", "warning"]


@functools.cache
def _logger() -> logging.Logger:
    import logging

    logger = logging.getLogger("refstore")
    logger.addHandler(logging.NullHandler())  # else warnings go to stderr where nobody asked
    return logger


def info(message: str, *arguments: object) -> None:
    _logger().info(message, *arguments)


def warning(message: str, *arguments: object) -> None:
    _logger().warning(message, *arguments)
