"""Transport of bytes from one node to another."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import ray

from refstore import Writer
from refstore.ray._calls import left

__all__ = ["PlasmaTransport", "Transport"]


class Transport(Protocol):
    """Moves parts of objects between nodes.

    A part is exported once by the node that has it, for however many fetch it. The handle travels
    in messages of agents; when the exporter has dropped it, the part's transport memory is free.
    Methods are called from several threads.
    """

    def export(self, part: memoryview) -> Any:
        """Makes bytes of a pinned object ready to be fetched, and returns a picklable handle."""

    def fetch(self, handle: Any, into: Writer, offset: int, end: float) -> None:
        """Brings a part into a block that is being written, by a time of time.monotonic().

        Errors: ray.exceptions.RayError, OSError: it cannot be had from this handle.
        """


class PlasmaTransport:
    """Parts are objects of Ray: whoever has one already serves it, too."""

    def export(self, part: memoryview) -> Any:
        return [ray.put(np.frombuffer(part, np.uint8))]  # in a list: Ray would send what it is of

    def fetch(self, handle: Any, into: Writer, offset: int, end: float) -> None:
        into.write_at(offset, ray.get(handle[0], timeout=left(end)))
