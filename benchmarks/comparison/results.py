"""One figure of one peer in one case, and the file that all of them are kept in."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stress.measure import Spread

SECONDS, RATE, BYTES, SHARE = "s", "/s", "B", "share"


@dataclass(frozen=True)
class Cell:
    """A measurement, or the reason why there is none."""

    work: str  # "put", "throughput" ...: a table
    case: str  # a column of it
    peer: str  # a row of it
    unit: str
    value: Spread | None = None  # over the rounds
    ratio: Spread | None = None  # how many times better refstore is, round by round
    rounds: int = 0
    note: str = ""
    size: int = 0  # bytes of an object, where that is what the columns differ in
    procs: int = 0  # processes, likewise


@dataclass
class Report:
    """A whole run."""

    machine: dict[str, Any]
    quick: bool
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)  # rows of benchmarks/goals
    plots: dict[str, Any] = field(default_factory=dict)  # of the pictures alone

    def text(self) -> str:
        """JSON with a line for each item of each part, so that a changed cell is a changed line."""
        parts = {**self.__dict__, "cells": [asdict(cell) for cell in self.cells]}
        lines = [f"{json.dumps(name)}: {_lines(part)}" for name, part in parts.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: Path) -> None:
        path.write_text(self.text())

    @classmethod
    def load(cls, path: Path) -> "Report":
        found = json.loads(path.read_text())
        found["cells"] = [_cell(**cell) for cell in found["cells"]]
        return cls(**found)

    def of(self, *works: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.work in works]


def _cell(value: Any, ratio: Any, **rest: Any) -> Cell:
    return Cell(
        value=Spread(**value) if value else None, ratio=Spread(**ratio) if ratio else None, **rest
    )


def _lines(part: Any) -> str:
    """A part of the report, one item a line."""
    if not part or not isinstance(part, (dict, list)):
        return json.dumps(part)
    if isinstance(part, dict):
        opening, closing = "{}"
        items = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in part.items()]
    else:
        opening, closing = "[]"
        items = [json.dumps(item) for item in part]
    return f"{opening}\n " + ",\n ".join(items) + f"\n{closing}"


def in_order(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(names))
