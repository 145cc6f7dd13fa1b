"""A terminal on which lines are drawn anew where they have changed; given back as it was."""

from __future__ import annotations

import asyncio
import signal
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from refstore.cli.output import Line

__all__ = ["Terminal"]


class Lines(Widget):
    """Lines as wide as the terminal."""

    DEFAULT_CSS = "Lines { width: 100%; height: 100%; background: ansi_default; }"

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []

    def show(self, lines: list[Line]) -> None:
        """Draw those that are not what they were."""
        old, self._lines = self._lines, lines
        changed = [
            Region(0, number, self.size.width, 1)
            for number, line in enumerate(lines)
            if number >= len(old) or old[number] != line
        ]
        if len(old) > len(lines):
            self.refresh()
        elif changed:
            self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        if y >= len(self._lines):
            return Strip.blank(self.size.width)
        pieces = [Segment(text, Style.parse(style)) for text, style in self._lines[y]]
        return Strip(pieces).adjust_cell_length(self.size.width)


class Terminal(App[None]):
    """Such a terminal. Ctrl-C, SIGINT and SIGTERM end it."""

    CSS = "Screen { background: ansi_default; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(self) -> None:
        super().__init__(ansi_color=True)

    def compose(self) -> ComposeResult:
        yield Lines()

    def on_load(self) -> None:
        # the terminal is given back as it was, whoever ends this
        for number in (signal.SIGINT, signal.SIGTERM):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(number, self.exit, None, 128 + number)

    def show(self, lines: list[Line]) -> None:
        """Draw what has changed."""
        self.query_one(Lines).show(lines)
