"""Recovery of what a dead process held: its pins, its half-made objects, and its row.

Called under the change lock, by `attachment` and `membership`.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from refstore import _children
from refstore.engines.filelock import slots
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    DELETES,
    HAS_CHILDREN,
    LEFT,
    LOW_64,
    MAKER,
    MASK,
    OWNED_BY,
    PAST,
    PAST_AT,
    PAST_COMMAND,
    PAST_LABEL,
    PAST_NBYTES,
    PAST_PID,
    PAST_WORDS,
    RECOVERIES_KEPT,
    RECOVERIES_KNOWN,
    ROW_COMMAND,
    ROW_STATE,
    SLOT_WORDS,
    TOTALS,
    UNIT,
    UNITS,
    WORD,
)
from refstore.engines.filelock.process_table import (
    free_row,
    pid_of,
    read_command,
    row_at,
    row_is_dead,
)

PIDS_KEPT = 256  # in a report of the dead


class Report:
    """Counts of what this process recovered from dead ones since its last report."""

    def __init__(self) -> None:
        self.processes = self.pins = self.unfinished = self.locks = self.nbytes = 0
        self.untold = 0  # of the processes: not yet told to `logging`
        self.pids: list[int] = []

    def take(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        """The fields of Recovery, in its order; counting begins again."""
        told = (
            self.processes,
            tuple(self.pids),
            self.pins,
            self.unfinished,
            0,  # nothing is ever published in part
            self.locks,
            self.nbytes,
        )
        self.__init__()  # type: ignore[misc]
        return told


def _freed(c: Change, slot: int) -> int:
    """Bytes that are free again if the gathered change frees the slot."""
    at = c.file.slot(slot) + UNITS
    return (c.words[at] - c[at]) * UNIT


def used_slots(c: Change, field: int) -> list[int]:
    """One word of each slot that was ever used."""
    return _column(c, field).tolist()


def column(c: Change, field: int) -> npt.NDArray[np.uint64]:
    """The same as an array of its own."""
    return np.array(_column(c, field), np.uint64)


def _column(c: Change, field: int) -> memoryview:
    first = c.file.g.slots + field
    return c.words[first : first + slots.slots_used(c) * SLOT_WORDS : SLOT_WORDS]


def pinned_slots(c: Change, row: int) -> list[int]:
    bit = 1 << row % 64
    return [i for i, mask in enumerate(used_slots(c, MASK + row // 64)) if mask & bit]


def sweep(c: Change, row: int, report: Report, *, keeps: bool = False) -> None:
    """Drops the pins of a process that is gone, and what it was writing, had claimed or owned.
    `keeps`: but not what it keeps for children.

    Many small changes, each of which leaves a sound store: whoever dies between them is followed by
    another one who goes on. Pins first, so that none of its own keeps what it was writing.
    """
    for slot in pinned_slots(c, row):
        given = slots.pins_of(c, row, slot)
        slots.unpin(c, slot, row, None, keeps=keeps)
        nbytes = _freed(c, slot)
        c.commit()
        report.pins += given
        report.nbytes += nbytes
    for slot, word in enumerate(used_slots(c, WORD)):
        if slots.is_half_made(word) and c[c.file.slot(slot) + MAKER] == row:
            counts = not slots.is_soft_claim(c, slot)  # which is no object yet
            slots.condemn(c, slot)
            nbytes = _freed(c, slot)
            c.commit()
            report.unfinished += counts
            report.nbytes += nbytes
    report.nbytes += delete_owned(c, row)


def delete_owned(c: Change, row: int) -> int:
    """Deletes what a row owns; returns the bytes that are free."""
    freed = 0
    for slot, owner in enumerate(used_slots(c, OWNED_BY)):
        if owner == row + 1:
            slots.remove(c, slot)
            c[TOTALS + DELETES] = c[TOTALS + DELETES] + 1 & LOW_64
            nbytes = _freed(c, slot)
            c.commit()
            freed += nbytes
    return freed


def kept_slots(c: Change, row: int) -> list[int]:
    """The slots that a row keeps for children."""
    return [slot for slot in pinned_slots(c, row) if slots.is_kept(c, row, slot)]


def has_left(c: Change, row: int) -> bool:
    """Whether only what it keeps for children holds a row."""
    return c[row_at(c.file, row) + ROW_STATE] & LEFT != 0


def has_ended(c: Change, row: int) -> bool:
    """Whether a row whose lock is held belongs to children only, its process being gone."""
    state = c[row_at(c.file, row) + ROW_STATE]
    return state & LEFT != 0 or (state & HAS_CHILDREN != 0 and _children.has_ended(pid_of(c, row)))


def note_recovery(c: Change, row: int, freed: int) -> None:
    """A row's process died, and so many bytes came free; to be committed with the row's end."""
    at, number = row_at(c.file, row), c[RECOVERIES_KNOWN]
    entry = PAST + number % RECOVERIES_KEPT * PAST_WORDS
    c[RECOVERIES_KNOWN] = number + 1 & LOW_64
    c[entry + PAST_AT] = int(time.time())
    c[entry + PAST_PID] = pid_of(c, row)
    c[entry + PAST_NBYTES] = freed
    for k in range(PAST_WORDS - PAST_COMMAND):  # its label follows the command in both
        c[entry + PAST_COMMAND + k] = c[at + ROW_COMMAND + k]


def past(c: Change) -> list[tuple[float, int, str, int]]:
    """Lists the last recoveries, by the fields of PastRecovery, newest first."""
    found = []
    last = c[RECOVERIES_KNOWN] - 1
    for number in range(last, max(last - RECOVERIES_KEPT, -1), -1):
        at = PAST + number % RECOVERIES_KEPT * PAST_WORDS
        command = read_command(c, at + PAST_COMMAND, at + PAST_LABEL)
        found.append((float(c[at + PAST_AT]), c[at + PAST_PID], command, c[at + PAST_NBYTES]))
    return found


def recover_rows(c: Change, folder: str, rows: list[int], own: int | None, report: Report) -> bool:
    """Gives back what those of `rows` held that are dead; whether there were any."""
    found = False
    for row in rows:
        if row == own or not c[row_at(c.file, row) + ROW_STATE] or not row_is_dead(c, folder, row):
            continue
        before = report.nbytes
        sweep(c, row, report)
        pid = pid_of(c, row)
        note_recovery(c, row, report.nbytes - before)
        free_row(c, row, died=True)
        report.processes += 1
        report.untold += 1
        report.pids = [*report.pids, *([pid] if pid else [])][-PIDS_KEPT:]
        found = True
    return found


def holds_condemned(c: Change, row: int) -> bool:
    """Whether a process pins what is deleted."""
    held = (slot for slot in pinned_slots(c, row) if slots.views_of(c, row, slot))
    return any(slots.is_condemned(c, slot) for slot in held)
