"""Output of the commands: lines, tables, JSON, notes and complaints."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def flush() -> None:
    if sys.stdout is None:  # closed by the shell: `refstore ls >&-`
        return
    try:
        sys.stdout.flush()
    except OSError:
        give_up_output()
        raise


def give_up_output() -> None:
    # Python flushes stdout once more at exit, and would complain of the same.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def size_text(nbytes: object) -> str:
    size = float(str(nbytes))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Names, paths and commands may hold anything, and must not break a line or talk to the
    terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def show(line: str) -> None:
    print(printable(line))


def show_json(rows: Any) -> None:
    print(json.dumps(rows, indent=2))


def note(line: str) -> None:
    if sys.stderr is not None:  # print() would take stdout for it
        print(printable(line), file=sys.stderr)


def complain(error: BaseException) -> None:
    note(f"refstore: {one_line(error)}")


def show_table(table: list[list[str]]) -> None:
    """Names to the left, all else to the right; a row may end early, with a note."""
    table = [[printable(cell) for cell in row] for row in table]
    width = len(table[0])
    widths = [
        max(len(row[column]) for row in table if len(row) == width) for column in range(width)
    ]
    widths[0] = max(len(row[0]) for row in table)
    for first, *rest in table:
        cells = [first.ljust(widths[0])]
        if len(rest) == width - 1:
            rest = [cell.rjust(space) for cell, space in zip(rest, widths[1:], strict=True)]
        print("  ".join([*cells, *rest]))


def one_line(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
