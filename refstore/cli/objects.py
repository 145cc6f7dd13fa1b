"""The command `objects`: what is in a store, in whatever state."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from refstore._reports import ObjectInfo, ProcessInfo
from refstore._units import age_text, plural, size_text
from refstore.cli.output import note, show, show_json
from refstore.cli.reaching import look
from refstore.cli.tables import STATE, Column, Row, show_table

__all__ = [
    "COLUMNS",
    "SORTS",
    "STATES",
    "age_of",
    "as_json",
    "grouped",
    "living",
    "objects",
    "oldest_of",
    "row_of",
    "sorted_objects",
    "title",
]


class _Created(Protocol):
    @property
    def created(self) -> float | None: ...


T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

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
TRACKING = "programs tell their lines if started with REFSTORE_TRACK=1"
COLUMNS = (
    Column("NAME OR REF", left=True, least=20),
    Column("KIND", left=True, spare=4),
    Column(STATE, left=True, spare=1),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
    Column("PID"),
    Column("PUT BY", left=True, least=14, spare=3),
)
PUT_AT = Column("PUT AT", left=True, least=12)
SUMS = (
    Column("PID"),
    Column("PUT BY", left=True, least=14),
    Column("OBJECTS"),
    Column("PINNED"),
    Column("SIZE"),
    Column("OLDEST"),
)


def objects(options: argparse.Namespace) -> int:
    with look(options.name, options.foreign) as store:
        wanted = _wanted(options, store.processes() if options.orphans else ())
        found = sorted_objects(filter(wanted, store.objects(options.prefix)), options.sort)
    if options.by is not None:
        groups = _summed(found, options.by)[: options.limit]
        if options.json:
            show_json([_sums_as_json(group, options.by) for group in groups])
            return 0
    elif options.json:
        show_json([as_json(one) for one in found[: options.limit]])
        return 0
    if not found:
        note(f"{options.name}: no such objects" if _is_picky(options) else f"{options.name}: empty")
        return 0
    if options.by is not None:
        _show_sums(groups, options.by)
    else:
        _show(found[: options.limit])
    show(_summary(found))
    if options.by == "line" and not any(one.put_at for one in found):
        note(f"{TRACKING}, and while they run")
    return 0


def _show(found: Sequence[ObjectInfo]) -> None:
    now = time.time()
    rows = [row_of(one, now) for one in found]
    if not any(one.put_at for one in found):
        show_table(COLUMNS, rows)
        return
    told = [Row([*row.cells, one.put_at or "-"]) for row, one in zip(rows, found, strict=True)]
    show_table((*COLUMNS, PUT_AT), told)


def _summary(found: Sequence[ObjectInfo]) -> str:
    idle = [one for one in found if one.state == "live" and not one.pins]
    text = f"{plural(len(found), 'object')}, {_size(found)}"
    return f"{text}; live and pinned by nobody: {len(idle)}, {_size(idle)}"


def _size(found: Iterable[ObjectInfo]) -> str:
    return size_text(sum(one.block_nbytes for one in found))


# --- sums


def grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for key, one in pairs:
        groups[key].append(one)
    return groups


def _summed(found: Iterable[ObjectInfo], by: str) -> list[list[ObjectInfo]]:
    """Groups by the process that put, or by its line, with the largest sum first."""
    groups = grouped(
        ((one.pid, one.command, one.put_at if by == "line" else None), one) for one in found
    )
    return sorted(groups.values(), key=lambda group: -sum(one.block_nbytes for one in group))


def _show_sums(groups: Iterable[Sequence[ObjectInfo]], by: str) -> None:
    now, rows = time.time(), []
    for group in groups:
        one = group[0]
        rows.append(
            Row(
                [
                    *([one.put_at or "-"] if by == "line" else []),
                    *(str(one.pid) if one.pid else "-", one.command or "-", str(len(group))),
                    *(str(sum(other.pins > 0 for other in group)), _size(group)),
                    age_of(oldest_of(group), now),
                ]
            )
        )
    show_table((PUT_AT, *SUMS) if by == "line" else SUMS, rows)


def _sums_as_json(group: Sequence[ObjectInfo], by: str) -> dict[str, object]:
    one = group[0]
    told: dict[str, object] = {"put_at": one.put_at} if by == "line" else {}
    return told | {
        "pid": one.pid,
        "command": one.command,
        "objects": len(group),
        "pinned": sum(other.pins > 0 for other in group),
        "bytes": sum(other.block_nbytes for other in group),
        "oldest": oldest_of(group),
    }


def oldest_of(group: Iterable[_Created]) -> float | None:
    """Time at which the first of them was put, if that is known."""
    return min((one.created for one in group if one.created), default=None)


def age_of(created: float | None, now: float) -> str:
    """The age of what was put then, as text."""
    return age_text(now - created) if created else "-"


# --- one by one


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
    """The fields of an ObjectInfo, the ref in hex, and the line that put it."""
    row = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return row | {"ref": None if one.ref is None else one.ref.hex(), "put_at": one.put_at}


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
            *(size_text(one.block_nbytes), age_of(one.created, now)),
            *(str(one.pid) if one.pid else "-", one.command or "-"),
        ]
    )
