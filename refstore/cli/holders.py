"""The command `holders`: who keeps which objects in memory, with sums."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from refstore._looking import Look
from refstore._reports import Holder, ObjectInfo
from refstore._units import plural, size_text
from refstore.cli.objects import TRACKING, age_of, grouped, oldest_of, title
from refstore.cli.output import note, show, show_json
from refstore.cli.reaching import look
from refstore.cli.tables import STATE, Column, Row, show_table

__all__ = ["Held", "find_held", "holders", "sites_of", "total"]

DETAILED = (
    Column("PID"),
    Column("COMMAND, OR OBJECT", left=True, least=24),
    Column(STATE, left=True),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
)
BY_PROCESS = (
    Column("PID"),
    Column("COMMAND", left=True, least=20),
    Column(STATE, left=True),
    Column("OBJECTS"),
    Column("PINS"),
    Column("SIZE"),
    Column("OLDEST"),
)
BY_LINE = (
    Column("SIZE"),
    Column("OBJECTS"),
    Column("PINS", spare=1),
    Column("PUT AT", left=True, least=10, spare=2),
    Column("PINNED AT", left=True, least=16),
    Column("PID"),
    Column("COMMAND", left=True, least=12),
)
BY_OBJECT = (
    Column("NAME OR REF", left=True, least=20),
    Column(STATE, left=True),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
    Column("HELD BY", left=True, least=12),
)


PROCESSES = 50  # that are told one by one: those that hold most
LISTED = 20  # rows below a process
SITES = 3  # lines of a program below a row


@dataclass(frozen=True)
class Held:
    """One process and one object that it keeps in memory."""

    holder: Holder
    state: str
    created: float | None


def holders(options: argparse.Namespace) -> int:
    with look(options.name, options.foreign) as store:
        found = find_held(store)
    if options.json:
        rows = {
            None: _as_json,
            "process": _processes_as_json,
            "object": _objects_as_json,
            "line": _lines_as_json,
        }
        show_json(rows[options.by](found))
    elif not found:
        note(f"{options.name}: no process pins an object or is writing one")
    else:
        tables = {
            None: _detailed,
            "process": _by_process,
            "object": _by_object,
            "line": _by_line,
        }
        show_table(*tables[options.by](found, time.time()))
        number = len(_by_key(found))
        show(f"{plural(number, 'object')}, {size_text(total(found))}")
        if options.by != "process" and not any(one.holder.pinned_at for one in found):
            note(TRACKING)
    return 0


def find_held(store: Look) -> list[Held]:
    """Finds all that is held, by process; those that hold most come first."""
    rows = store.holders()
    infos = list(store.objects()) if rows else []
    by_ref = {one.ref: one for one in infos if one.ref is not None}
    unfinished: dict[Hashable, list[ObjectInfo]] = defaultdict(list)
    for one in infos:
        if one.ref is None:
            unfinished[one.pid, one.name, one.block_nbytes].append(one)
    found = []
    for row in rows:
        if row.ref is not None:
            info = by_ref.get(row.ref)
        else:
            alike = unfinished[row.pid, row.name, row.bytes]
            info = alike.pop() if alike else None
        # what is not listed any more has gone meanwhile, and was deleted first
        state = info.state if info else "writing" if row.ref is None else "pending delete"
        created = info.created if info and info.created else None
        found.append(Held(row, state, created))
    sums = {slot: total(held) for slot, held in _by_slot(found).items()}

    def order(one: Held) -> tuple[int, ...]:
        return -sums[one.holder.slot], one.holder.slot, -one.holder.bytes

    return sorted(found, key=order)


# --- sums


def total(found: Iterable[Held]) -> int:
    """Bytes of the blocks, each counted once."""
    return sum(rows[0].holder.bytes for rows in _by_key(found).values())


def _by_slot(found: Iterable[Held]) -> dict[int, list[Held]]:
    """Groups by process: pids may be those of several containers."""
    return grouped((one.holder.slot, one) for one in found)


def _by_key(found: Iterable[Held]) -> dict[object, list[Held]]:
    """Groups by object. What is being written has one holder."""
    return grouped((one.holder.ref or id(one), one) for one in found)


def _pins(rows: Sequence[Held]) -> int:
    return sum(one.holder.pins for one in rows)


def _sums(rows: Sequence[Held], now: float) -> tuple[str, str, str]:
    """Pins, size and age, as text."""
    return str(_pins(rows)), size_text(total(rows)), age_of(oldest_of(rows), now)


def _state(one: Held) -> str:
    return "alive" if one.holder.alive else "dead"


def sites_of(rows: Sequence[Held]) -> list[str]:
    """The lines of programs that put the objects, and that pinned them, with how often."""
    puts = Counter(one.holder.put_at for one in rows if one.holder.put_at)
    pins = Counter(site for one in rows for site in one.holder.pinned_at)
    told = [
        (f"{what} at {site}", count)
        for what, sites in (("put", puts), ("pinned", pins))
        for site, count in sites.most_common()
    ]
    return [line if count == 1 else f"{line} ({count} times)" for line, count in told]


def _first_sites(rows: Sequence[Held]) -> list[str]:
    told = sites_of(rows)
    more = len(told) - 2 * SITES
    return told if more <= 1 else [*told[: 2 * SITES], f"and at {more} more lines"]


def _largest_first(pairs: Iterable[tuple[Hashable, Held]]) -> list[list[Held]]:
    return sorted(grouped(pairs).values(), key=total, reverse=True)


def _by_line_of(found: Iterable[Held]) -> list[list[Held]]:
    """Groups by process and its lines that put and pinned, with the largest sum first."""
    return _largest_first(
        ((one.holder.slot, one.holder.put_at, tuple(sorted(set(one.holder.pinned_at)))), one)
        for one in found
    )


def _alike(found: Sequence[Held]) -> list[list[Held]]:
    """Groups that are one line below a process, with the largest sum first: of what one line of the
    program pinned, as far as it tells, or of what has one name."""
    return _largest_first(
        ((frozenset(one.holder.pinned_at) or one.holder.name, one.state), one) for one in found
    )


def _title_of(held: Sequence[Held]) -> str:
    first = held[0].holder
    if len(held) == 1:
        return title(first.name, first.ref)
    names = {one.holder.name for one in held}
    if len(names) == 1:
        what = first.name or "(no name)"
    else:
        given = [name or "" for name in names]
        what = f"{os.path.commonprefix(given)}*"  # noqa: RUF071  these are no paths
    return f"{what} ({plural(len(held), 'object')})"


# --- tables


def _detailed(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    """A row for each process, and below it one for each object, or for many that are alike."""
    rows = []
    processes = list(_by_slot(found).values())
    for of_process in processes[:PROCESSES]:
        first = of_process[0]
        who = str(first.holder.pid), first.holder.command, _state(first)
        rows.append(Row([*who, *_sums(of_process, now)]))
        alike = _alike(of_process)
        for held in alike[:LISTED]:
            rows.append(Row(["", f"  {_title_of(held)}", held[0].state, *_sums(held, now)]))
            rows += [Row([""], text=line, indent=4) for line in _first_sites(held)]
        rest = [one for held in alike[LISTED:] for one in held]
        if rest:
            more = f"  and {plural(len(rest), 'more object')}"
            rows.append(Row(["", more, "", *_sums(rest, now)]))
    others = processes[PROCESSES:]
    if others:
        more = f"and {plural(len(others), 'more process')}: --by process"
        rows.append(Row(["", more, "", *_sums([one for held in others for one in held], now)]))
    return DETAILED, rows


def _by_process(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    rows = [
        Row(
            [
                *(str(held[0].holder.pid), held[0].holder.command, _state(held[0]), str(len(held))),
                *_sums(held, now),
            ]
        )
        for held in _by_slot(found).values()
    ]
    return BY_PROCESS, rows


def _by_line(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    rows = []
    for held in _by_line_of(found):
        one = held[0].holder
        rows.append(
            Row(
                [
                    *(size_text(total(held)), str(len(held)), str(_pins(held))),
                    *(one.put_at or "-", ", ".join(sorted(set(one.pinned_at))) or "-"),
                    *(str(one.pid), one.command),
                ]
            )
        )
    return BY_LINE, rows


def _by_object(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    groups = sorted(_by_key(found).values(), key=lambda held: -held[0].holder.bytes)
    rows = []
    for held in groups:
        one = held[0]
        by = ", ".join(str(other.holder.pid) for other in held)
        rows.append(
            Row(
                [
                    *(title(one.holder.name, one.holder.ref), one.state, *_sums(held, now), by),
                ]
            )
        )
    return BY_OBJECT, rows


# --- JSON


def _as_json(found: Sequence[Held]) -> list[dict[str, object]]:
    return [
        one.holder._asdict()
        | {
            "ref": None if one.holder.ref is None else one.holder.ref.hex(),
            "state": one.state,
            "created": one.created,
            "put_at": one.holder.put_at,
            "pinned_at": list(one.holder.pinned_at),
            "slot": one.holder.slot,
        }
        for one in found
    ]


def _sums_as_json(held: Sequence[Held], **more: object) -> dict[str, object]:
    """Sums of what one process holds."""
    first = held[0].holder
    who = {"slot": first.slot, "pid": first.pid, "command": first.command}
    sums = {"objects": len(held), "pins": _pins(held), "bytes": total(held)}
    return {**who, **more, **sums, "oldest": oldest_of(held)}


def _processes_as_json(found: Sequence[Held]) -> list[dict[str, object]]:
    return [_sums_as_json(held, alive=held[0].holder.alive) for held in _by_slot(found).values()]


def _lines_as_json(found: Sequence[Held]) -> list[dict[str, object]]:
    return [
        _sums_as_json(
            held,
            put_at=held[0].holder.put_at,
            pinned_at=sorted(set(held[0].holder.pinned_at)),
        )
        for held in _by_line_of(found)
    ]


def _objects_as_json(found: Sequence[Held]) -> list[dict[str, object]]:
    return [
        {
            "ref": None if held[0].holder.ref is None else held[0].holder.ref.hex(),
            "name": held[0].holder.name,
            "state": held[0].state,
            "pins": _pins(held),
            "bytes": held[0].holder.bytes,
            "created": held[0].created,
            "pids": [one.holder.pid for one in held],
            "slots": [one.holder.slot for one in held],
        }
        for held in _by_key(found).values()
    ]
