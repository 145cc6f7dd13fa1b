"""Tables that fit the terminal: texts are cut short, and columns that matter less are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refstore.cli.output import (
    Line,
    printable,
    show_styled,
    show_wrapped,
    width_of,
    width_of_output,
)

__all__ = [
    "HEAD",
    "STATE",
    "Column",
    "Row",
    "first_of",
    "fitted",
    "layout",
    "shorten",
    "show_table",
]

GAP = "  "
NARROW = 8  # columns of a text that is always shown
HEAD = "bold"
STATE = "STATE"  # the head of a column of states
STYLES = {  # of states
    "pending delete": "yellow",
    "writing": "cyan",
    "claimed": "magenta",
    "dead": "bold red",
    "ended": "yellow",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    `least`: columns of the terminal below which its texts are not cut, unless the table does not
    fit for all that is left out; 0: they are never cut.
    `spare`: columns with a higher one are left out first; those with 0 never are.
    """

    head: str
    left: bool = False
    least: int = 0
    spare: int = 0


@dataclass(frozen=True)
class Row:
    """Cells, as many as there are columns; or the first, and a text in place of the others, which
    may be indented."""

    cells: Sequence[str]
    text: str | None = None
    indent: int = 0


def show_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print the table, as wide as the terminal lets it be."""
    rows = [replace(row, cells=[printable(cell) for cell in row.cells]) for row in rows]
    kept, widths = fitted(columns, rows, width_of_output())
    head = [columns[number].head for number in kept]
    show_styled([layout(columns, kept, widths, head, HEAD)])
    for row in rows:
        if row.text is None:
            cells = [row.cells[number] for number in kept]
            show_styled([layout(columns, kept, widths, cells)])
        else:
            first = row.cells[0] + " " * (widths[0] - width_of(row.cells[0])) + GAP
            show_wrapped(first + " " * row.indent, row.text)


def fitted(
    columns: Sequence[Column], rows: Sequence[Row], space: int | None
) -> tuple[list[int], list[int]]:
    """The columns that are shown, by number, and the width of each."""
    kept = list(range(len(columns)))
    full = [
        max(
            width_of(columns[number].head),
            *(width_of(row.cells[number]) for row in rows if number < len(row.cells)),
            0,
        )
        for number in kept
    ]
    if space is None:
        return kept, full
    least = [min(width, columns[n].least or width) for n, width in enumerate(full)]
    while _total(least, kept) > space:
        number = max(kept, key=lambda number: columns[number].spare)
        if not columns[number].spare:
            break
        kept.remove(number)
    if _total(least, kept) > space:
        least = [min(width, NARROW) if columns[n].least else width for n, width in enumerate(full)]
    widths = {number: full[number] for number in kept}
    while (over := _total(full, kept, widths) - space) > 0:
        # the widest gives way first, until it is as wide as the next
        can = [number for number in kept if widths[number] > least[number]]
        if not can:
            break
        widest = max(can, key=lambda number: widths[number])
        others = [widths[number] for number in can if widths[number] < widths[widest]]
        down = max(least[widest], max(others, default=0), widths[widest] - over)
        widths[widest] = min(down, widths[widest] - 1)
    return kept, [widths[number] for number in kept]


def _total(widths: Sequence[int], kept: Sequence[int], other: dict[int, int] | None = None) -> int:
    chosen = widths if other is None else other
    return sum(chosen[number] for number in kept) + len(GAP) * (len(kept) - 1)


def layout(
    columns: Sequence[Column],
    kept: Sequence[int],
    widths: Sequence[int],
    cells: Sequence[str],
    style: str = "",
) -> Line:
    """One line of the table, in pieces with their styles."""
    line: Line = []
    for number, width, cell in zip(kept, widths, cells, strict=True):
        text = shorten(cell, width)
        space = " " * (width - width_of(text))
        if line:
            line.append((GAP, ""))
        padded = text + space if columns[number].left else space + text
        is_state = columns[number].head == STATE
        line.append((padded, style or (STYLES.get(cell.strip(), "") if is_state else "")))
    return line


def shorten(text: str, width: int) -> str:
    """The text, with its middle left out where it is too long: both ends tell names apart."""
    if width_of(text) <= width:
        return text
    if width < 8:
        head, tail = width - 1, 0
    else:
        tail = (width - 1) // 3
        head = width - 1 - tail
    return first_of(text, head) + "…" + _last(text, tail)


def first_of(text: str, width: int) -> str:
    """The head of the text that fits."""
    taken = 0
    for at, letter in enumerate(text):
        taken += width_of(letter)
        if taken > width:
            return text[:at]
    return text


def _last(text: str, width: int) -> str:
    return first_of(text[::-1], width)[::-1]
