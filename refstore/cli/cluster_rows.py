"""Rows of `cluster nodes` and `cluster top`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from refstore._units import plural, size_text
from refstore.cli.tables import Column

if TYPE_CHECKING:
    from refstore.ray._values import Node

__all__ = ["COLUMNS", "SHORT", "as_cells", "rates_between", "summary"]

COUNTED = ("pulls", "served", "bytes")
SHORT = 8  # hex digits of a node's id, which tell nodes apart
COLUMNS = (
    Column("NODE", left=True),
    Column("HOST", left=True, least=8, spare=2),
    Column("AGENT", spare=4),
    Column("OBJECTS", spare=1),
    Column("USED"),
    Column("CAPACITY", spare=1),
    Column("PULLS"),
    Column("SERVED", spare=3),
    Column("BROUGHT"),
)


def as_cells(one: Node) -> list[str]:
    return [
        *(one.node[:SHORT], one.host, str(one.agent_pid), str(one.objects), size_text(one.used)),
        *(size_text(one.capacity), str(one.pulls), str(one.served), size_text(one.bytes)),
    ]


def summary(found: Sequence[Node]) -> str:
    used, capacity = sum(one.used for one in found), sum(one.capacity for one in found)
    return f"{plural(len(found), 'node')}, {size_text(used)} of {size_text(capacity)} used"


def rates_between(
    old: Sequence[Node], new: Sequence[Node], seconds: float
) -> dict[str, dict[str, float]]:
    """Per second, by node; 0 for one that has just come, or whose agent has begun anew."""
    before = {one.node: one for one in old}
    return {
        one.node: {
            name: max(0, getattr(one, name) - getattr(before.get(one.node, one), name)) / seconds
            for name in COUNTED
        }
        for one in new
    }
