"""The tables of a run, for the terminal and for docs/performance.md.

`python -m benchmarks.comparison.tables docs/performance.json docs/performance.md` puts them into
the document, between its two marks; the text around them stays.
"""

import argparse
import sys
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from benchmarks.comparison import space
from benchmarks.comparison.results import BYTES, RATE, SHARE, Cell, Report, in_order
from benchmarks.comparison.rounds import US
from benchmarks.peers.registry import FLOORS
from stress.measure import Spread
from stress.support import duration, rate, table

BEGIN = "<!-- tables: begin (make bench-docs) -->"
END = "<!-- tables: end -->"
_FLOORS = (*FLOORS, "machine")
_HIGHER_IS_BETTER = (RATE, SHARE)


def amount(value: float, unit: str) -> str:
    """A figure in its unit."""
    if unit == RATE:
        return rate(value)
    if unit == BYTES:
        return f"{value:.0f} B"
    if unit == SHARE:
        return f"{value:.0%}"
    return duration(value) if value >= 0 else f"-{duration(-value)}"


def figure(cell: Cell) -> str:
    """The median, and half of the distance between the quartiles as a share of it."""
    if cell.value is None:
        return f"- ({cell.note})" if cell.note else "-"
    text = amount(cell.value.median, cell.unit)
    if cell.rounds and cell.value.median:
        text += f" ±{_half(cell.value):.0%}"
    return f"{text} ({cell.note})" if cell.note else text


def _half(value: Spread) -> float:
    return (value.high - value.low) / 2 / value.median


def grid(cells: Sequence[Cell], marked: bool) -> list[list[str]]:
    """Peers down, cases across. The best peer of a column in bold, if it is to be marked."""
    cases = in_order(cell.case for cell in cells)
    found = {(cell.peer, cell.case): cell for cell in cells}
    best = {case: _best([cell for cell in cells if cell.case == case]) for case in cases}
    rows = [["", *cases]]
    for peer in in_order(cell.peer for cell in cells):
        if peer in _FLOORS and not any(cell.value for cell in cells if cell.peer == peer):
            continue  # a copy has no get
        row = [f"*{peer}*" if marked and peer in _FLOORS else peer]
        for case in cases:
            cell = found.get((peer, case))
            text = figure(cell) if cell else ""
            row.append(f"**{text}**" if marked and best[case] == peer else text)
        rows.append(row)
    return rows


def _best(cells: Sequence[Cell]) -> str | None:
    ranked = [
        (cell.value.median, cell.peer) for cell in cells if cell.value and cell.peer not in _FLOORS
    ]
    if not ranked:
        return None
    choose = max if cells[0].unit in _HIGHER_IS_BETTER else min
    return choose(ranked, key=itemgetter(0))[1]


def works(report: Report) -> list[str]:
    return in_order(cell.work for cell in report.cells)


def terminal(report: Report) -> str:
    """All tables as plain text."""
    parts = [f"{work}\n{table(grid(report.of(work), False))}" for work in works(report)]
    parts += [f"not here: {name}: {reason}" for name, reason in report.missing.items()]
    return "\n\n".join(parts)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def peers(report: Report) -> list[list[str]]:
    """The peers that took part, with their versions and settings."""
    head = ["peer", "version", "Python", "copies in put, in get", "settings", "what limits it"]
    keys = ("version", "python", "copies", "settings", "limits")
    rows = [[name, *(str(about[key]) for key in keys)] for name, about in report.peers.items()]
    return [head, *(row for row in rows if row[0] not in _FLOORS)]


def behind(report: Report) -> list[list[str]]:
    """The cases in which refstore is not ahead of every peer."""
    rows = [["what", "case", "peer", "its figure", "refstore's"]]
    ours = {(cell.work, cell.case): cell for cell in report.cells if cell.peer == US}
    for cell in report.cells:
        mine = ours.get((cell.work, cell.case))
        if cell.peer in (*_FLOORS, US) or cell.value is None or mine is None:
            continue
        sign = 1 if cell.unit in _HIGHER_IS_BETTER else -1
        if mine.value is None or sign * cell.value.median > sign * mine.value.median:
            rows.append([cell.work, cell.case, cell.peer, figure(cell), figure(mine)])
    return rows


def limits(report: Report) -> list[list[str]]:
    """Ratios of refstore's medians to the machine's own; 1 is the limit."""
    found = {(c.work, c.case, c.peer): c.value.median for c in report.cells if c.value}
    rows = [["size", *(what for what, *_ in _LIMITS)]]
    for case in in_order(cell.case for cell in report.of("put")):
        row = [case]
        for _, work, ours, floor in _LIMITS:
            mine, limit = found.get((work, case, ours)), found.get((work, case, floor))
            row.append(f"{mine / limit:.2f}" if mine and limit else "-")
        rows.append(row)
    return rows


_LIMITS = (
    ("put / copy, warm", "put", US, "copy, warm"),
    ("put into fresh pages / copy, cold", "put", "refstore, cold", "copy, cold"),
    ("put / dict", "put", US, "dict"),
    ("get / dict", "get", US, "dict"),
    ("delete / dict", "delete", US, "dict"),
)


def goals(report: Report) -> list[list[str]]:
    """The goals that the project holds itself to."""
    rows = [["what", "floor", "ours", "ratio (quartiles)", "goal", "met"]]
    for row in report.goals:
        text = Spread(**row["ratio"]).text("{:.2f}".format) if row["ratio"] else ""
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        rows.append([row["what"], row["floor"], row["ours"], text, row["goal"], met])
    return rows


def document(report: Report) -> str:
    """All tables as Markdown."""
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    effort = "A quick look, not for the record. " if report.quick else ""
    parts = [BEGIN, f"{effort}{machine}.", "### Who takes part", _markdown(peers(report))]
    if report.missing:
        parts += [f"- Not here: {name}: {reason}" for name, reason in report.missing.items()]
    for work in works(report):
        parts += [f"### {work[0].upper()}{work[1:]}", _markdown(grid(report.of(work), True))]
        if work in _REMARKS:
            parts.append(_REMARKS[work])
    parts += ["### How far from the limit", _markdown(limits(report))]
    if report.goals:
        parts += ["### Goals", _markdown(goals(report))]
    parts += ["### Where refstore is not first", _markdown(behind(report)), END]
    return "\n\n".join(parts)


_REMARKS = {
    "put": "Up to 64 objects, 4 MiB at most, are put, then each is got once, then all are deleted. "
    "Copies are `numpy.copyto` into shared memory that has been used, and into pages that the "
    "kernel has yet to clear; *refstore, cold* is a put into such pages.",
    "get": "A view is got and let go; none of its bytes is read.",
    "first get": "Another process gets each object for the first time and reads a byte of it.",
    "a sync of the parameter server": "*nothing* is the same arithmetic and the same messages "
    "without a store; the second column is the time of a store beyond that.",
    space.OVERHEAD: "Private memory, and shares of shared memory, of the process and its servers.",
}


def insert(path: Path, report: Report) -> None:
    """Puts all tables between the marks of that document."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{path} lacks the marks {BEGIN} and {END}")
    path.write_text(before + document(report) + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("found", type=Path)
    parser.add_argument("document", type=Path)
    options = parser.parse_args()
    insert(options.document, Report.load(options.found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
