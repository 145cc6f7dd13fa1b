"""The terminal of `cluster top`: the nodes of a session as they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from textual import events

from refstore._errors import RefstoreError
from refstore._units import rate_text, size_text
from refstore.cli.cluster_rows import COLUMNS, as_cells, rates_between, summary
from refstore.cli.output import Line
from refstore.cli.tables import HEAD, Column, Row, fitted, layout
from refstore.cli.terminal import Terminal
from refstore.ray._values import Node

__all__ = ["ClusterScreen"]

LIVE = (*COLUMNS, Column("PULLS/S", spare=1), Column("BROUGHT/S"))
KEYS = "q quit"


class ClusterScreen(Terminal):
    """A table of the nodes, drawn anew after each look."""

    def __init__(self, look: Callable[[], list[Node]], session: str, interval: float) -> None:
        super().__init__()
        self._look, self._session, self._interval = look, session, interval
        self._seen: Sequence[Node] = ()
        self._rates: dict[str, dict[str, float]] = {}

    def on_mount(self) -> None:
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        at = time.monotonic()
        while True:
            try:
                new = await asyncio.to_thread(self._look)
            except (RefstoreError, OSError, ValueError) as error:
                self.exit(return_code=2, message=f"refstore: {error}")
                return
            now = time.monotonic()
            self._rates = rates_between(self._seen, new, now - at)
            self._seen, at = new, now
            self._draw()
            await asyncio.sleep(self._interval)

    def on_resize(self) -> None:
        self._draw()

    def on_key(self, event: events.Key) -> None:
        if event.key == "q":
            self.exit()

    def _draw(self) -> None:
        width, height = self.size
        rows = [
            Row(
                [
                    *as_cells(one),
                    rate_text(self._rates[one.node]["pulls"]),
                    f"{size_text(int(self._rates[one.node]['bytes']))}/s",
                ]
            )
            for one in self._seen
        ]
        kept, widths = fitted(LIVE, rows, width)
        about = f"session {self._session}: {summary(self._seen)}" if rows else "looking..."
        lines: list[Line] = [[(about, "bold")], []]
        lines.append(layout(LIVE, kept, widths, [LIVE[k].head for k in kept], HEAD))
        lines += [layout(LIVE, kept, widths, [row.cells[k] for k in kept]) for row in rows]
        self.show([*lines[: height - 1], [(KEYS, "dim")]])
