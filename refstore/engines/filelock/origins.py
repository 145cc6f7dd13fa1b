"""Origins: which process put an object, as it is told when that process is gone.

A process takes an entry before its first object, and each of its objects names it. Entries that no
row and no slot names are taken again once all were used. Called under the change lock.
"""

from __future__ import annotations

import time

from refstore import _identity
from refstore.engines.filelock import process_table, recovery
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    COMMAND_NBYTES,
    CREATED_PER_SECOND,
    FREE,
    LABEL_OF_PROCESS,
    ORIGIN,
    ORIGIN_COMMAND,
    ORIGIN_LABEL,
    ORIGIN_PID,
    ORIGIN_WORDS,
    ORIGINS_USED,
    RETIRED,
    ROW_LABEL,
    ROW_ORIGIN,
    UNKNOWN,
    WORD,
)

__all__ = ["command_of", "is_known", "origin_of", "pid_of", "word", "write_label"]


def word(c: Change, row: int) -> int:
    """Notes the origin of an object that a row's process puts now, in a change
    of its own."""
    at = process_table.row_at(c.file, row) + ROW_ORIGIN
    number = c[at]
    if not number:
        number = c[at] = _take(c, row)
        c.commit()
    now = int(time.time() * CREATED_PER_SECOND) - c.file.header.made_at
    return number | min(max(now, 0), UNKNOWN) << 32


def _take(c: Change, row: int) -> int:
    """The number of an entry for a row's process; UNKNOWN if none is left."""
    number = _unused(c)
    if number is None:
        return UNKNOWN
    entry = _entry(c, number)
    if not c.file.commit(entry * 8, (entry + ORIGIN_WORDS) * 8):
        return UNKNOWN
    c[ORIGINS_USED] = max(c[ORIGINS_USED], number)
    c[entry + ORIGIN_PID] = process_table.pid_of(c, row)
    process_table.write_text(c, entry + ORIGIN_COMMAND, COMMAND_NBYTES, _identity.command())
    _write_label(c, entry + ORIGIN_LABEL)
    return number


def _write_label(c: Change, at: int) -> None:
    process_table.write_text(c, at, LABEL_OF_PROCESS, _identity.own_label())


def write_label(c: Change, row: int) -> None:
    """Writes what this process calls itself into its row, and beside what it has put."""
    _write_label(c, process_table.row_at(c.file, row) + ROW_LABEL)
    if origin_of(c, row) not in (0, UNKNOWN):
        _write_label(c, _entry(c, origin_of(c, row)) + ORIGIN_LABEL)


def _unused(c: Change) -> int | None:
    n = c[ORIGINS_USED]
    if n < c.file.g.n_origins:
        return n + 1
    named = {
        origin & UNKNOWN
        for origin, word in zip(
            recovery.used_slots(c, ORIGIN), recovery.used_slots(c, WORD), strict=True
        )
        if word & 0xFF not in (FREE, RETIRED)
    }
    named |= {origin_of(c, row) for row in process_table.used_rows(c)}
    return next((number for number in range(1, n + 1) if number not in named), None)


def _entry(c: Change, number: int) -> int:
    if not 0 < number <= c.file.g.n_origins:
        raise c.file.damaged(f"something leads to origin {number} of {c.file.g.n_origins}")
    return c.file.g.origins + (number - 1) * ORIGIN_WORDS


def origin_of(c: Change, row: int) -> int:
    """The number of a row's origin; 0 if it has none yet."""
    return c[process_table.row_at(c.file, row) + ROW_ORIGIN]


def is_known(c: Change, number: int) -> bool:
    """Whether a number is one that a slot or a row may name."""
    return number == UNKNOWN or number <= min(c[ORIGINS_USED], c.file.g.n_origins)


def pid_of(c: Change, number: int) -> int:
    """0 if it is not known."""
    if number in (0, UNKNOWN):
        return 0
    return c[_entry(c, number) + ORIGIN_PID] & 0xFFFFFFFF


def command_of(c: Change, number: int) -> str:
    """The name of the process for people; empty if it is not known."""
    if number in (0, UNKNOWN):
        return ""
    at = _entry(c, number)
    return process_table.read_command(c, at + ORIGIN_COMMAND, at + ORIGIN_LABEL)
