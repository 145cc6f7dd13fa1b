"""Sentences of check() that both engines use; each begins with the name of the invariant."""

from __future__ import annotations

__all__ = [
    "lost_reap",
    "pins_of_free_row",
    "turn_of_free_row",
    "unknown_kind",
    "unknown_state",
    "wrong_hash",
]


def unknown_state(slot: int, state: int) -> str:
    return f"state: slot {slot} has the unknown state {state}"


def unknown_kind(slot: int, kind: int) -> str:
    return f"kind: slot {slot} has the unknown kind {kind}"


def wrong_hash(slot: int) -> str:
    return f"label: the name of slot {slot} does not have the slot's hash"


def pins_of_free_row(row: int, slot: int) -> str:
    return f"pins: row {row} is free, but pins slot {slot}"


def turn_of_free_row(row: int) -> str:
    return f"turn: row {row} has the turn to wait for room, but the row is free"


def lost_reap(slot: int) -> str:
    return f"lost reap: slot {slot} is deleted and unpinned, but not freed"
