"""The command `objects`: what is in a store, in whatever state."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from refstore._reports import ObjectInfo, ProcessInfo
from refstore._units import age_text, plural, size_text
from refstore.cli.output import note, show, show_json
from refstore.cli.reaching import look
from refstore.cli.tables import Column, Row, show_table

__all__ = [
    "COLUMNS",
    "SORTS",
    "STATES",
    "as_json",
    "living",
    "objects",
    "row_of",
    "sorted_objects",
    "title",
]

STATES = {  # as they are typed
    "live": "live",
    "pending-delete": "pending delete",
    "writing": "writing",
    "claimed": "claimed",
}
SORTS: dict[str, Callable[[ObjectInfo], Any]] = {
    "size": lambda one: (-one.block_nbytes, one.created),
    "age": lambda one: one.created,
    "pins": lambda one: (-one.pins, -one.block_nbytes),
    "name": lambda one: (one.name is None, one.name or "", one.created),
}
COLUMNS = (
    Column("NAME OR REF", left=True, least=20),
    Column("KIND", left=True, spare=4),
    Column("STATE", left=True, spare=1),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
    Column("PID"),
    Column("PUT BY", left=True, least=14, spare=3),
)


def objects(options: argparse.Namespace) -> int:
    with look(options.name, options.foreign) as store:
        wanted = _wanted(options, store.processes() if options.orphans else ())
        found = sorted_objects(filter(wanted, store.objects(options.prefix)), options.sort)
    if options.json:
        show_json([as_json(one) for one in found])
    elif not found:
        note(f"{options.name}: no such objects" if _is_picky(options) else f"{options.name}: empty")
    else:
        now = time.time()
        show_table(COLUMNS, [row_of(one, now) for one in found])
        total = size_text(sum(one.block_nbytes for one in found))
        show(f"{plural(len(found), 'object')}, {total}")
    return 0


def sorted_objects(found: Iterable[ObjectInfo], order: str) -> list[ObjectInfo]:
    """The largest, oldest, most pinned first, or by name."""
    return sorted(found, key=SORTS[order])


def _is_picky(options: argparse.Namespace) -> bool:
    return bool(options.prefix or options.state or options.owner is not None or options.orphans)


def _wanted(
    options: argparse.Namespace, processes: Collection[ProcessInfo]
) -> Callable[[ObjectInfo], bool]:
    alive = living(processes)

    def is_wanted(one: ObjectInfo) -> bool:
        if options.state is not None and one.state != STATES[options.state]:
            return False
        if options.owner is not None and one.pid != options.owner:
            return False
        return not options.orphans or one.pid not in alive

    return is_wanted


def living(processes: Iterable[ProcessInfo]) -> set[int]:
    """The pids of those that are attached, and have not ended."""
    return {one.pid for one in processes if one.alive and not one.ended}


def as_json(one: ObjectInfo) -> dict[str, object]:
    """The fields of an ObjectInfo, the ref in hex."""
    row = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return row | {"ref": None if one.ref is None else one.ref.hex()}


def title(name: str | None, ref: Any) -> str:
    """Names an object, as it can be in one line."""
    if name is not None:
        return name
    return "(no name yet)" if ref is None else str(ref.hex())


def row_of(one: ObjectInfo, now: float) -> Row:
    """The cells of an object, for COLUMNS."""
    return Row(
        [
            *(title(one.name, one.ref), one.kind or "-", one.state, str(one.pins)),
            *(size_text(one.block_nbytes), age_text(now - one.created) if one.created else "-"),
            *(str(one.pid) if one.pid else "-", one.command or "-"),
        ]
    )
