"""The map of a store: its pages by state, gathered into as many cells as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refstore._paths import PAGE

__all__ = ["RANKS", "STATES", "Shown", "bytes_of", "mixed", "shares", "strongest"]


class Shown(NamedTuple):
    """A state of pages, as it is called and shown."""

    name: str
    colour: tuple[int, int, int]
    opacity: float  # as light and dark grounds show through what is free
    mark: str  # tells it from others without colours


STATES = (  # by the numbers of Look.page_states()
    Shown("never used", (128, 128, 128), 0.18, "."),
    Shown("free", (128, 128, 128), 0.45, "-"),
    Shown("live", (58, 134, 214), 1.0, "o"),
    Shown("pinned", (0, 158, 115), 1.0, "#"),
    Shown("pending delete", (222, 94, 20), 1.0, "x"),
    Shown("being written", (204, 104, 167), 1.0, "w"),
    Shown("blocks without objects", (120, 170, 220), 0.5, "_"),
)
RANKS = (0, 1, 3, 5, 6, 4, 2)  # of the states: where a cell has several, the highest is shown


def shares(states: bytes, cells: int) -> npt.NDArray[Any]:
    """The part of each cell's pages that are in each state: (cells, states) of float32.

    There are fewer cells where there are fewer pages.
    """
    pages = np.frombuffer(states, np.uint8)
    cells = min(cells, len(pages))
    if not cells:
        return np.zeros((0, len(STATES)), np.float32)
    edges = np.linspace(0, len(pages), cells + 1).astype(np.int64)
    found = np.empty((cells, len(STATES)), np.float32)
    for number in range(len(STATES)):
        there = pages == number
        if there.any():
            found[:, number] = np.add.reduceat(there, edges[:-1], dtype=np.int32)
        else:
            found[:, number] = 0
    return found / np.diff(edges)[:, None].astype(np.float32)


def strongest(states: bytes, cells: int) -> npt.NDArray[Any]:
    """The state of each cell: of those that its pages are in, the one that matters most."""
    pages = np.frombuffer(states, np.uint8)
    cells = min(cells, len(pages))
    if not cells:
        return np.zeros(0, np.uint8)
    ranks = np.array(RANKS, np.uint8)
    edges = np.linspace(0, len(pages), cells + 1).astype(np.int64)
    highest = np.maximum.reduceat(ranks[pages], edges[:-1])
    return np.argsort(ranks).astype(np.uint8)[highest]


def mixed(parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The colour of each cell, red, green, blue and opacity, of 0 to 255."""
    opacity = np.array([state.opacity for state in STATES], np.float32)
    colours = np.array([state.colour for state in STATES], np.float32)
    weight = parts * opacity
    total = weight.sum(axis=1)
    rgb = weight @ colours / np.maximum(total, 1e-6)[:, None]
    return np.column_stack([rgb, total * 255]).round().astype(np.uint8)


def bytes_of(states: bytes) -> Sequence[int]:
    """Bytes of the pages in each state."""
    pages = np.frombuffer(states, np.uint8)
    return [int(np.count_nonzero(pages == number)) * PAGE for number in range(len(STATES))]
