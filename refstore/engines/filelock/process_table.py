"""The process table: a row for each process that is attached, which lives as long as its lock.

Called under the change lock; `membership` takes rows, `membership` and `recovery` free them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from refstore import _identity
from refstore.engines.filelock.file_locks import HAS_FLOCK
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    ATTACHED,
    COMMAND_NBYTES,
    COUNTERS,
    LABEL_OF_PROCESS,
    LOW_64,
    MAX_ROWS,
    RECOVERIES,
    ROW_COMMAND,
    ROW_COUNTERS,
    ROW_LABEL,
    ROW_ORIGIN,
    ROW_PID,
    ROW_STATE,
    ROW_WAITING,
    ROW_WAITS_FOR,
    ROW_WORDS,
    TOTALS,
    TURN,
    WAIT_NBYTES,
)
from refstore.engines.filelock.liveness import is_held
from refstore.engines.filelock.mapping import Mapping


def lock_path(folder: str, row: int) -> str:
    return os.path.join(folder, f"{row}.lock")


def row_at(file: Mapping, row: int) -> int:
    if not 0 <= row < MAX_ROWS:
        raise file.damaged(f"something leads to row {row} of {MAX_ROWS}")
    return file.g.rows + row * ROW_WORDS


def used_rows(c: Change) -> list[int]:
    first = c.file.g.rows
    states = c.words[first : first + MAX_ROWS * ROW_WORDS : ROW_WORDS].tolist()
    return [row for row, state in enumerate(states) if state]


def write_text(c: Change, at: int, nbytes: int, text: bytes) -> None:
    """Text in the words from `at` on, cut so that a zero ends it."""
    for k, word in enumerate(text_words(text, nbytes)):
        c[at + k] = word


def text_words(text: bytes, nbytes: int) -> Iterator[int]:
    """The words of such a text."""
    padded = text[: nbytes - 1].ljust(nbytes, b"\0")
    return (int.from_bytes(padded[k : k + 8], sys.byteorder) for k in range(0, nbytes, 8))


def read_text(c: Change, at: int, nbytes: int) -> str:
    """The same for display: on one line and printable, whatever is there."""
    raw = b"".join(c[at + k].to_bytes(8, sys.byteorder) for k in range(nbytes // 8))
    words = " ".join(raw.partition(b"\0")[0].decode("utf-8", "replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def enter(c: Change, row: int, pid: int) -> None:
    """A row whose lock is ours becomes this process's, or its child's."""
    at = row_at(c.file, row)
    write_text(c, at + ROW_COMMAND, COMMAND_NBYTES, _identity.command())
    write_text(c, at + ROW_LABEL, LABEL_OF_PROCESS, _identity.own_label())
    c[at + ROW_PID] = pid
    c[at + ROW_ORIGIN] = c[at + ROW_WAITING] = 0
    for k in range(COUNTERS):
        c[at + ROW_COUNTERS + k] = 0
    c[at + ROW_STATE] = ATTACHED


def command_of(c: Change, row: int) -> str:
    """The name of a row's process for people: its command, after its label if it has one."""
    at = row_at(c.file, row)
    return read_command(c, at + ROW_COMMAND, at + ROW_LABEL)


def read_command(c: Change, command: int, label: int) -> str:
    """The same from the words where both begin."""
    said, text = read_text(c, label, LABEL_OF_PROCESS), read_text(c, command, COMMAND_NBYTES)
    return f"{said}: {text}" if said else text


def pid_of(c: Change, row: int) -> int:
    return c[row_at(c.file, row) + ROW_PID] & 0xFFFFFFFF


def waiting_of(c: Change, row: int) -> int:
    """The number of threads of a row's process that wait in a call."""
    return c[row_at(c.file, row) + ROW_WAITING]


def waits_for(c: Change, row: int) -> str:
    """The call of them that began to wait last; "" if none waits."""
    if not waiting_of(c, row):
        return ""
    return read_text(c, row_at(c.file, row) + ROW_WAITS_FOR, WAIT_NBYTES)


def row_is_dead(c: Change, folder: str, row: int) -> bool:
    """Whether nobody has the lock of a row that is in use.

    Without the file nobody can tell, and what one who lives still reads must not be given away:
    when a tidier of old files took it, whoever has that pid is believed to live.
    """
    path = lock_path(folder, row)
    if is_held(path):
        return False
    return os.path.exists(path) or not _exists(pid_of(c, row))


def free_row(c: Change, row: int, died: bool) -> None:
    """The row's counts go to the store's, and the row is free."""
    at = row_at(c.file, row)
    for k in range(COUNTERS):
        c[TOTALS + k] = c[TOTALS + k] + c[at + ROW_COUNTERS + k] & LOW_64
    if died:
        c[TOTALS + RECOVERIES] = c[TOTALS + RECOVERIES] + 1 & LOW_64
    if c[TURN] == row + 1:
        c[TURN] = 0
    c[at + ROW_STATE] = 0
    c.commit()


def _exists(pid: int) -> bool:
    if not HAS_FLOCK or not pid:  # Windows removes no file that is open
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True
