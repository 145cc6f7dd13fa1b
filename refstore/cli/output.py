"""Output of the commands: lines, JSON, notes and complaints, and what the terminal can show."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from refstore._extras import how_to_install

if TYPE_CHECKING:
    import rich.console

Line: TypeAlias = "list[tuple[str, str]]"  # pieces of text, with the style of each

__all__ = [
    "Line",
    "MissingExtraError",
    "complain",
    "console",
    "flush",
    "give_up_output",
    "is_terminal",
    "note",
    "one_line",
    "printable",
    "require_terminal",
    "show",
    "show_json",
    "show_styled",
    "show_wrapped",
    "tell_lines",
    "width_of",
    "width_of_output",
]


class MissingExtraError(ValueError):
    """A command needs a package that is not installed."""

    def __init__(self, command: str, extra: str, error: ImportError) -> None:
        super().__init__(f"`{command}` needs more packages ({error}): {how_to_install(extra)}")


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


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def width_of_output() -> int | None:
    """Columns of the terminal; None where nothing has to fit."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def console() -> rich.console.Console | None:
    """A console that shows colours; None where there is no terminal, or rich is not installed."""
    if not is_terminal():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    """Names, paths and commands may hold anything, and must not break a line or talk to the
    terminal."""
    if text.isprintable():  # nearly all are
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def show(line: str) -> None:
    print(printable(line))


def show_wrapped(first: str, text: str) -> None:
    """Text behind a first word or two; further lines are indented below it."""
    first, text = printable(first), printable(text)
    width = width_of_output()
    if width is None:
        print(first + text)
        return
    indent = min(width_of(first), width // 3)
    lines = textwrap.wrap(
        text,
        max(width - indent, 20),
        initial_indent=" " * max(width_of(first) - indent, 0),
        break_on_hyphens=False,
    )
    print(first + (lines[0].lstrip() if lines else ""))
    for line in lines[1:]:
        print(" " * indent + line)


def show_styled(lines: Iterable[Line]) -> None:
    """Print lines; their styles are for a terminal alone."""
    terminal = console()
    if terminal is None:
        for line in lines:
            print("".join(text for text, _ in line).rstrip())
        return
    from rich.text import Text

    for line in lines:
        terminal.print(Text.assemble(*line, no_wrap=True, overflow="crop", end=""))


def show_json(rows: Any) -> None:
    print(json.dumps(rows, indent=2))


def tell_lines(options: argparse.Namespace, line: Callable[[], object]) -> None:
    """A line of JSON after each `--interval`, till it is told `--count` times or interrupted."""
    told = 0
    while options.count is None or told < options.count:
        time.sleep(options.interval)
        print(json.dumps(line()))
        flush()
        told += 1


def require_terminal(other: str) -> None:
    """`other`: the command for where there is none."""
    if not is_terminal():
        raise ValueError(f"top draws on a terminal, and stdout is none: take --json, or `{other}`")


def note(line: str) -> None:
    if sys.stderr is not None:  # print() would take stdout for it
        print(printable(line), file=sys.stderr)


def complain(error: BaseException) -> None:
    note(f"refstore: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
