"""The base of the classes that hold the calls of a `Store`.

An engine's own methods stand in the place of most of those calls, see `engines.binding`; the bodies
in Python are for those that are not bound, and for subclasses that reach the engine by super().
"""

from __future__ import annotations

from typing import ClassVar, cast

from refstore.engines import interface

__all__ = ["EngineCalls"]


class EngineCalls:
    """Finds the engine of the calls, for `Store`."""

    __slots__ = ()
    _tracks: ClassVar[bool] = False  # which lines call: `binding` says so

    def _base(self) -> interface.Engine:
        return cast(interface.Engine, super())
