"""The command `map`: a picture of a store's pages, as PNG or SVG, on light or dark grounds."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from refstore._units import percent_text, size_text
from refstore.cli.output import MissingExtraError, printable, show, show_json
from refstore.cli.page_map import STATES, bytes_of, mixed, shares
from refstore.cli.reaching import look

__all__ = ["map_"]

ACROSS = 96  # cells
DOWN = 48  # at most
CELL, GAP = 8, 1  # pixels
LEFT, TOP, RIGHT = 86, 58, 20
TEXT = (122, 127, 138)  # is read on white and on black
LINE = 20  # pixels, of the legend
SCALE = 2  # pixels of a PNG for one


@dataclass(frozen=True)
class Drawing:
    """A picture, but for its format."""

    title: str
    below: str
    colours: npt.NDArray[Any]
    rows: list[str]  # where each row of cells begins, or ""
    legend: list[tuple[str, tuple[int, int, int], float]]

    @property
    def width(self) -> int:
        return LEFT + ACROSS * CELL + RIGHT

    @property
    def legend_top(self) -> int:
        return TOP + len(self.rows) * CELL + 16

    @property
    def height(self) -> int:
        return self.legend_top + LINE * -(-len(self.legend) // 2) + 10


def map_(options: argparse.Namespace) -> int:
    """Draws it, and says where and how much is what."""
    path = os.path.abspath(options.output or f"{os.path.basename(options.name)}.svg")
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".png", ".svg"):
        raise ValueError(f"{options.output!r} is neither .png nor .svg: give one of these")
    with look(options.name, options.foreign) as store:
        states, used, capacity = store.page_states(), store.stats().used, store.capacity
    drawing = _drawn(options.name, states, used, capacity)
    if kind == ".png":
        _write_png(drawing, path)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(_svg(drawing))
    if options.json:
        sums = zip(STATES, bytes_of(states), strict=True)
        told = {state.name.replace(" ", "_"): nbytes for state, nbytes in sums}
        show_json({"name": options.name, "file": path, "bytes": told})
    else:
        show(path)
    return 0


def _drawn(name: str, states: bytes, used: int, capacity: int) -> Drawing:
    cells = min(ACROSS * DOWN, len(states))
    colours = mixed(shares(states, cells))
    rows = -(-cells // ACROSS)
    step = max(rows // 8, 1)
    starts = [
        size_text(capacity * ACROSS * row // cells) if row % step == 0 else ""
        for row in range(rows)
    ]
    each = size_text(capacity / cells)
    return Drawing(
        f"{printable(name)}: {size_text(used)} of {size_text(capacity)} used "
        f"({percent_text(used, capacity)})",
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}; a square is {each}, and has the mixed colour of "
        "its pages",
        colours,
        starts,
        [
            (f"{state.name}: {size_text(nbytes)}", state.colour, state.opacity)
            for state, nbytes in zip(STATES, bytes_of(states), strict=True)
        ],
    )


# --- SVG


def _svg(drawing: Drawing) -> str:
    text = "#{:02x}{:02x}{:02x}".format(*TEXT)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" '
        f'height="{drawing.height}" viewBox="0 0 {drawing.width} {drawing.height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{text}">',
        f"<title>{escape(drawing.title)}</title>",
        _svg_text(LEFT, 24, drawing.title, 'font-size="16" font-weight="600"'),
        _svg_text(LEFT, 43, drawing.below),
    ]
    for row, start in enumerate(drawing.rows):
        if start:
            at = TOP + row * CELL + CELL
            lines.append(_svg_text(LEFT - 8, at, start, 'text-anchor="end" font-size="11"'))
        lines += _svg_row(drawing.colours[row * ACROSS : (row + 1) * ACROSS], TOP + row * CELL)
    for number, (what, colour, opacity) in enumerate(drawing.legend):
        x, y = _place(drawing, number)
        lines.append(_svg_rect(x, y, 12, 12, (*colour, round(opacity * 255))))
        lines.append(_svg_text(x + 20, y + 10, what))
    return "\n".join([*lines, "</svg>", ""])


def _svg_row(colours: npt.NDArray[Any], y: int) -> list[str]:
    """Cells; those beside each other that are alike are one."""
    changes = np.flatnonzero((colours[1:] != colours[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), len(colours)]
    return [
        _svg_rect(LEFT + a * CELL, y, (b - a) * CELL - GAP, CELL - GAP, tuple(colours[a].tolist()))
        for a, b in itertools.pairwise(edges)
    ]


def _svg_rect(x: int, y: int, width: int, height: int, colour: tuple[int, ...]) -> str:
    red, green, blue, opacity = colour
    faint = "" if opacity == 255 else f' fill-opacity="{opacity / 255:.2f}"'
    fill = f"#{red:02x}{green:02x}{blue:02x}"
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"{faint}/>'


def _svg_text(x: int, y: int, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}"{" " if more else ""}{more}>{escape(text)}</text>'


def _place(drawing: Drawing, number: int) -> tuple[int, int]:
    """The upper left corner of an entry of the legend, which has two columns."""
    down = -(-len(drawing.legend) // 2)
    across = ACROSS * CELL // 2
    return LEFT + number // down * across, drawing.legend_top + number % down * LINE


# --- PNG


def _write_png(drawing: Drawing, path: str) -> None:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("map -o FILE.png", "cli", error) from None
    size = (drawing.width * SCALE, drawing.height * SCALE)
    image = Image.new("RGBA", size, (*TEXT, 0))
    draw = ImageDraw.Draw(image)

    def write(x: int, y: int, text: str, height: int, anchor: str = "ls") -> None:
        font = ImageFont.load_default(height * SCALE)
        draw.text((x * SCALE, y * SCALE), text, (*TEXT, 255), font, anchor)

    def fill(x: int, y: int, side: int, colour: tuple[int, ...]) -> None:
        end = ((x + side) * SCALE - 1, (y + side) * SCALE - 1)
        draw.rectangle(((x * SCALE, y * SCALE), end), colour)

    write(LEFT, 24, drawing.title, 16)
    write(LEFT, 43, drawing.below, 12)
    for row, start in enumerate(drawing.rows):
        if start:
            write(LEFT - 8, TOP + row * CELL + CELL, start, 11, "rs")
    for number, colour in enumerate(drawing.colours.tolist()):
        row, column = divmod(number, ACROSS)
        fill(LEFT + column * CELL, TOP + row * CELL, CELL - GAP, tuple(colour))
    for number, (what, rgb, opacity) in enumerate(drawing.legend):
        x, y = _place(drawing, number)
        fill(x, y, 12, (*rgb, round(opacity * 255)))
        write(x + 20, y + 10, what, 12)
    image.save(path)
