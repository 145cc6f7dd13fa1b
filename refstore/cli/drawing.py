"""The pages of `top`, as lines of text with styles, for a terminal of a given size."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from refstore._reports import ObjectInfo, ProcessInfo
from refstore._units import (
    age_text,
    count_text,
    percent_text,
    plural,
    rate_text,
    size_text,
    time_text,
)
from refstore.cli.holders import Held, sites_of
from refstore.cli.objects import COLUMNS, row_of
from refstore.cli.output import Line, printable
from refstore.cli.page_map import RANKS, STATES, bytes_of, strongest
from refstore.cli.stores import labelled, state_of, waits_text
from refstore.cli.tables import STATE, Column, Row, first_of, fitted, layout, shorten
from refstore.cli.watching import Moment, Rates

__all__ = ["About", "Table", "draw_object", "draw_objects", "draw_store"]

HEAD_LINES = 4  # above the map
WAITS_SHOWN = 3
KEYS_STYLE = "reverse"
CURSOR = "reverse"
FAINT = "dim"
FIELD = 10  # columns of the head of a field
BARS = (("used", "#3a86d6"), ("pinned", "#009e73"))

PROCESSES = (
    Column("PID"),
    Column("COMMAND", left=True, least=28),
    Column(STATE, left=True),
    Column("WAITING", spare=1),
    Column("PINS", spare=3),
    Column("HOLDS"),
    Column("PUTS", spare=4),
    Column("GETS", spare=2),
    Column("DELETES", spare=5),
    Column("EVICTIONS", spare=6),
)
HOLDERS = (
    Column("PID"),
    Column("COMMAND", left=True, least=16),
    Column(STATE, left=True),
    Column("PINS"),
)


@dataclass(frozen=True)
class About:
    """The figures of a store that do not change."""

    name: str
    path: str
    backend: str
    evict: str | None
    capacity: int
    max_objects: int


@dataclass
class Table:
    """A table of which a part is shown, with a cursor on one row."""

    at: int = 0
    top: int = 0

    def shown(self, count: int, height: int) -> range:
        """The rows that fit, among them the cursor's."""
        height = max(height, 1)
        self.at = max(0, min(self.at, count - 1))
        self.top = max(min(self.top, self.at), self.at - height + 1, 0)
        self.top = min(self.top, max(count - height, 0))
        return range(self.top, min(self.top + height, count))


def draw_store(
    about: About,
    moment: Moment,
    processes: Sequence[ProcessInfo],
    rates: Rates,
    order: str,
    table: Table,
    width: int,
    height: int,
) -> list[Line]:
    """The first page: occupancy, the map, rates, processes in their order, recoveries."""
    foot = _waiting(processes, width) + _recovered(moment, width)
    room = height - HEAD_LINES - 2 - len(foot) - 2  # of the legend, the keys, the head
    map_height = max(room - max(min(len(processes), room // 2), 3), 2)
    lines = _head(about, moment, rates, width)
    lines += _map(moment.pages, width, map_height)
    lines += _legend(moment.pages, width)
    left = height - len(lines) - len(foot) - 2
    lines += _processes(processes, rates, table, width, left)
    lines += [[] for _ in range(height - len(lines) - len(foot) - 1)]
    keys = f"sort: b bytes  p pins  r rate  w waiting [{order}]   o: objects   q: quit"
    return [*lines[: height - 1 - len(foot)], *foot, _keys(keys, width)]


def _keys(text: str, width: int) -> Line:
    return [(shorten(f" {text}", width).ljust(width), KEYS_STYLE)]


def _head(about: About, moment: Moment, rates: Rates, width: int) -> list[Line]:
    stats = moment.stats
    clock = time.strftime("%H:%M:%S")
    kind = f"{about.backend}, evict={about.evict}" if about.evict else about.backend
    name = shorten(f"{about.name}  {about.path}  ({kind})", width - len(clock) - 1)
    figures = (
        f" {size_text(stats.used)} of {size_text(stats.capacity)}, "
        f"{percent_text(stats.used, stats.capacity)}; largest free {size_text(stats.largest_free)}"
    )
    bar = max(width - len(figures), 10)
    full = round(bar * stats.used / stats.capacity) if stats.capacity else 0
    dead = sum(not one.alive for one in moment.processes)
    counts = [
        (f"{plural_count(stats.objects, 'object')}", ""),
        (f"{count_text(stats.pinned)} pinned", ""),
        (f"{count_text(stats.condemned)} pending delete", "yellow" if stats.condemned else ""),
        (f"{plural_count(stats.processes, 'process')}", ""),
        (f"{moment.waiting} waiting", "yellow" if moment.waiting else ""),
    ]
    counts.insert(0 if dead else len(counts), (f"{dead} dead", "bold red" if dead else ""))
    line: Line = []
    for number, piece in enumerate(counts):
        line += [(", ", ""), piece] if number else [piece]
    told = "   ".join(f"{what} {rate_text(rate)}" for what, rate in rates.of_store.items())
    return [
        [(name.ljust(width - len(clock)), "bold"), (clock, "")],
        [("█" * full, BARS[0][1]), ("░" * (bar - full), FAINT), (figures, "")],
        line,
        [(told, "")],
    ]


def plural_count(number: int, noun: str) -> str:
    return plural(number, noun).replace(str(number), count_text(number), 1)


def _colour(state: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*STATES[state].colour)


GLYPHS = "·░▒█▞▓▁"  # by state: without colours, too, they differ


# The pages are looked at less often than all else, hence what is kept of them.


@functools.lru_cache(maxsize=1)
def _map(pages: bytes, width: int, height: int) -> list[Line]:
    """Rows of cells; of neighbours that are alike one piece."""
    cells = strongest(pages, width * height).tolist()
    lines: list[Line] = []
    for start in range(0, len(cells), width):
        line: Line = []
        begin = start
        end = min(start + width, len(cells))
        for at in range(start + 1, end + 1):
            if at == end or cells[at] != cells[begin]:
                state = cells[begin]
                line.append((GLYPHS[state] * (at - begin), _colour(state)))
                begin = at
        lines.append(line)
    return lines


@functools.lru_cache(maxsize=1)
def _legend(pages: bytes, width: int) -> list[Line]:
    """The states that there are, with their bytes, those first that matter most; as many as fit."""
    line: Line = []
    taken = 0
    sums = bytes_of(pages)
    for number in sorted(range(len(STATES)), key=RANKS.__getitem__, reverse=True):
        nbytes = sums[number]
        text = f" {STATES[number].name} {size_text(nbytes)}  "
        if nbytes and taken + 1 + len(text) <= width:
            line += [(GLYPHS[number], _colour(number)), (text, "")]
            taken += 1 + len(text)
    return [line]


def _processes(
    processes: Sequence[ProcessInfo], rates: Rates, table: Table, width: int, height: int
) -> list[Line]:
    rows = []
    for one in processes:
        speed = rates.of_processes.get(one.slot, {})
        rows.append(
            Row(
                [
                    *(str(one.pid), labelled(one.label, one.command), state_of(one)),
                    *(str(one.waiting), str(one.pins), size_text(one.bytes)),
                    *(rate_text(speed.get(name, 0)) for name in ("puts", "gets")),
                    *(rate_text(speed.get(name, 0)) for name in ("deletes", "evictions")),
                ]
            )
        )
    shown = table.shown(len(rows), height)
    return _table(PROCESSES, [rows[k] for k in shown], table.at - table.top, width)


def _waiting(processes: Sequence[ProcessInfo], width: int) -> list[Line]:
    """Lines on who waits for what, in the order of the processes, up to three."""
    told = [waits_text(one) for one in processes if one.waits_for]
    if len(told) > WAITS_SHOWN:
        told[WAITS_SHOWN - 1 :] = [f"and {len(told) - WAITS_SHOWN + 1} more wait"]
    return [[(shorten(printable(text), width), "yellow")] for text in told]


def _recovered(moment: Moment, width: int) -> list[Line]:
    """The last recoveries, up to two lines."""
    now = time.time()
    last = sorted(moment.recoveries, key=lambda one: -one.at)[:2]
    return [
        [
            (
                shorten(
                    f"{age_text(now - one.at)} ago: process {one.pid} was dead, and "
                    f"{size_text(one.nbytes)} came back ({printable(one.command)})",
                    width,
                ),
                FAINT,
            )
        ]
        for one in last
    ]


def _table(
    columns: Sequence[Column], rows: Sequence[Row], cursor: int | None, width: int
) -> list[Line]:
    """A head and rows; the one with the cursor stands out."""
    rows = [Row([printable(cell) for cell in row.cells]) for row in rows]
    kept, widths = fitted(columns, rows, width)
    head = [columns[number].head for number in kept]
    lines = [layout(columns, kept, widths, head, "bold")]
    for number, row in enumerate(rows):
        style = CURSOR if number == cursor else ""
        line = layout(columns, kept, widths, [row.cells[k] for k in kept], style)
        lines.append([(text, style) for text, _ in line] if style else line)
    return lines


# --- objects


def draw_objects(
    about: About,
    found: Sequence[ObjectInfo],
    order: str,
    table: Table,
    width: int,
    height: int,
) -> list[Line]:
    """A list of objects as they were when it was asked for."""
    now = time.time()
    total = size_text(sum(one.block_nbytes for one in found))
    lines: list[Line] = [[(f"{about.name}: {plural_count(len(found), 'object')}, {total}", "bold")]]
    shown = table.shown(len(found), height - 3)
    rows = [row_of(found[number], now) for number in shown]
    lines += _table(COLUMNS, rows, table.at - table.top, width)
    lines += [[] for _ in range(height - len(lines) - 1)]
    keys = f"sort: s size  a age  p pins  n name [{order}]  enter: open  r: reload  esc: back"
    return [*lines[: height - 1], _keys(keys, width)]


def _field(head: str, text: str, width: int) -> list[Line]:
    """Lines of a field, as many as its text needs."""
    lines: list[Line] = []
    while text or not lines:
        piece = first_of(text, width - FIELD)
        lines.append([(f"{'' if lines else head:{FIELD}}", "bold"), (piece, "")])
        text = text[max(len(piece), 1) :]
    return lines


def draw_object(
    one: ObjectInfo, held: Sequence[Held], is_gone: bool, width: int, height: int
) -> list[Line]:
    """One object, and who holds it."""
    fields = (
        ("name", one.name or "none"),
        ("ref", "none yet" if one.ref is None else one.ref.hex()),
        ("state", "gone" if is_gone else one.state),
        ("kind", one.kind or "not known yet"),
        ("payload", f"{size_text(one.nbytes)} ({one.nbytes} bytes)"),
        ("block", f"{size_text(one.block_nbytes)} ({one.block_nbytes} bytes)"),
        ("put by", f"{one.pid}  {one.command}" if one.pid else "not known any more"),
        ("put at", time_text(one.created)),
        ("by line", one.put_at or "not told"),
        ("owned", "yes: it goes with its owner" if one.owned else "no"),
        ("evictable", "yes" if one.evictable else "no"),
        ("pins", str(one.pins)),
    )
    lines = [line for field, value in fields for line in _field(field, printable(value), width)]
    rows = [
        Row(
            [
                *(str(other.holder.pid), other.holder.command),
                *("alive" if other.holder.alive else "dead", str(other.holder.pins)),
            ]
        )
        for other in held
    ]
    lines.append([])
    lines += _table(HOLDERS, rows, None, width) if rows else [[("nobody holds it", "")]]
    sites = [f"{other.holder.pid}: {line}" for other in held for line in sites_of([other])]
    lines += [[(shorten(printable(line), width), "")] for line in ["", *sites]]
    lines += [[] for _ in range(height - len(lines) - 1)]
    return [*lines[: height - 1], _keys("esc: back   q: quit", width)]
