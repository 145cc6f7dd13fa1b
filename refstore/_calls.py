"""All calls of a `Store` whose work is the engine's, in one class."""

from __future__ import annotations

from refstore._batch_calls import BatchCalls
from refstore._object_calls import ObjectCalls
from refstore._report_calls import ReportCalls
from refstore._waiting_calls import WaitingCalls

__all__ = ["Calls"]


class Calls(ObjectCalls, WaitingCalls, BatchCalls, ReportCalls):
    """The calls of an engine, for `Store`."""

    __slots__ = ()
