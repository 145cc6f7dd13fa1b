"""The command `holders`: who keeps which objects in memory, with sums."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from refstore._looking import Look
from refstore._reports import Holder, ObjectInfo
from refstore._units import age_text, plural, size_text
from refstore.cli.objects import title
from refstore.cli.output import note, show, show_json
from refstore.cli.reaching import look
from refstore.cli.tables import Column, Row, show_table

__all__ = ["Held", "find_held", "holders", "sites_of", "total"]

K = TypeVar("K")

DETAILED = (
    Column("PID"),
    Column("COMMAND, OR OBJECT", left=True, least=24),
    Column("STATE", left=True),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
)
BY_PROCESS = (
    Column("PID"),
    Column("COMMAND", left=True, least=20),
    Column("STATE", left=True),
    Column("OBJECTS"),
    Column("PINS"),
    Column("SIZE"),
    Column("OLDEST"),
)
BY_OBJECT = (
    Column("NAME OR REF", left=True, least=20),
    Column("STATE", left=True),
    Column("PINS"),
    Column("SIZE"),
    Column("AGE"),
    Column("HELD BY", left=True, least=12),
)


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
        rows = {None: _as_json, "process": _processes_as_json, "object": _objects_as_json}
        show_json(rows[options.by](found))
    elif not found:
        note(f"{options.name}: no process pins an object or is writing one")
    else:
        tables = {None: _detailed, "process": _by_process, "object": _by_object}
        show_table(*tables[options.by](found, time.time()))
        number = len(_by_key(found))
        show(f"{plural(number, 'object')}, {size_text(total(found))}")
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
    sums = {pid: total(held) for pid, held in _by_pid(found).items()}
    return sorted(found, key=lambda one: (-sums[one.holder.pid], one.holder.pid, -one.holder.bytes))


# --- sums


def total(found: Iterable[Held]) -> int:
    """Bytes of the blocks, each counted once."""
    return sum(rows[0].holder.bytes for rows in _by_key(found).values())


def _by_pid(found: Iterable[Held]) -> dict[int, list[Held]]:
    return _grouped((one.holder.pid, one) for one in found)


def _by_key(found: Iterable[Held]) -> dict[object, list[Held]]:
    """By object. What is being written has one holder."""
    return _grouped((one.holder.ref or id(one), one) for one in found)


def _grouped(pairs: Iterable[tuple[K, Held]]) -> dict[K, list[Held]]:
    groups: dict[K, list[Held]] = defaultdict(list)
    for key, one in pairs:
        groups[key].append(one)
    return groups


def _pins(rows: Sequence[Held]) -> int:
    return sum(one.holder.pins for one in rows)


def _oldest(rows: Sequence[Held]) -> float | None:
    return min((one.created for one in rows if one.created is not None), default=None)


def _age(rows: Sequence[Held], now: float) -> str:
    oldest = _oldest(rows)
    return "-" if oldest is None else age_text(now - oldest)


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


# --- tables


def _detailed(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    """A row for each process, and below it one for each object, or for many that are alike."""
    rows = []
    for pid, of_process in _by_pid(found).items():
        first = of_process[0]
        sums = (str(_pins(of_process)), size_text(total(of_process)), _age(of_process, now))
        rows.append(Row([str(pid), first.holder.command, _state(first), *sums]))
        alike = _grouped(((one.holder.name, one.state), one) for one in of_process)
        for (name, state), held in alike.items():
            what = title(name, held[0].holder.ref)
            if len(held) > 1:
                what = f"{name or '(no name)'} ({plural(len(held), 'object')})"
            sums = (str(_pins(held)), size_text(total(held)), _age(held, now))
            rows.append(Row(["", f"  {what}", state, *sums]))
            rows += [Row([""], text=line, indent=4) for line in sites_of(held)]
    return DETAILED, rows


def _by_process(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    rows = [
        Row(
            [
                *(str(pid), held[0].holder.command, _state(held[0]), str(len(held))),
                *(str(_pins(held)), size_text(total(held)), _age(held, now)),
            ]
        )
        for pid, held in _by_pid(found).items()
    ]
    return BY_PROCESS, rows


def _by_object(found: Sequence[Held], now: float) -> tuple[Sequence[Column], list[Row]]:
    groups = sorted(_by_key(found).values(), key=lambda held: -held[0].holder.bytes)
    rows = []
    for held in groups:
        one = held[0]
        by = ", ".join(str(other.holder.pid) for other in held)
        rows.append(
            Row(
                [
                    *(title(one.holder.name, one.holder.ref), one.state, str(_pins(held))),
                    *(size_text(one.holder.bytes), _age(held, now), by),
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
        }
        for one in found
    ]


def _processes_as_json(found: Sequence[Held]) -> list[dict[str, object]]:
    return [
        {
            "pid": pid,
            "command": held[0].holder.command,
            "alive": held[0].holder.alive,
            "objects": len(held),
            "pins": _pins(held),
            "bytes": total(held),
            "oldest": _oldest(held),
        }
        for pid, held in _by_pid(found).items()
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
        }
        for held in _by_key(found).values()
    ]
