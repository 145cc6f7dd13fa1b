"""One known way to get the core wrong."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One mistake."""

    name: str
    hole: str  # what goes wrong by it
    file: str
    old: str
    new: str
    shown_by: tuple[str, ...] = ()  # tests, or the part of `make crash`, with it in mind
