"""A look at a store from outside: it is mapped to be read, and its lock is not taken.

What a look sees may be changed under its hands. Each change says so by a word of the header, and
then the look begins again. A change that its maker began and did not end, since it died or is
stopped, stands in the journal: a look ends it for itself, in a copy of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt

from refstore import _limits, _messages
from refstore._errors import RefstoreError
from refstore._paths import open_store
from refstore.engines.filelock import (
    check,
    listing_calls,
    lookups,
    process_table,
    recovery,
    slots,
)
from refstore.engines.filelock.files import require_own
from refstore.engines.filelock.journal import Change, replay
from refstore.engines.filelock.layout import (
    COMMAND_NBYTES,
    CONDEMNED,
    COUNT,
    CREATED_PER_SECOND,
    HOLDER,
    LABEL_OF_PROCESS,
    OWNED_BY,
    PAGE,
    RECOVERIES,
    ROW_COMMAND,
    ROW_COUNTERS,
    ROW_LABEL,
    SEALED,
    UNIT,
    WRITES,
    locks_of,
    read_header,
)
from refstore.engines.filelock.mapping import Glance, Mapped, Mapping
from refstore.engines.filelock.transaction import Operation

__all__ = ["Look", "look", "processes"]

TRIES: Final = 5  # before what is seen is taken as it is
LONGEST: Final = 100  # tries, if nothing that makes sense is seen
PAUSE: Final = 0.001  # seconds between two

_PAGE_UNITS: Final = PAGE // UNIT
_FREE, _LIVE, _PINNED, _PENDING_DELETE, _WRITTEN = range(1, 6)  # as _looking.PageState

T = TypeVar("T")


class Look(Mapped):
    """A `Look` of the interface."""

    def __init__(self, path: str, fd: int, found: os.stat_result) -> None:
        self._header = header = read_header(fd, path, found)
        self._found = found
        self._file = Glance(path, fd, header, found, is_own=False)
        self.note_file(path, header)
        self.folder = locks_of(path, header.uuid)
        self.made_at = header.made_at / CREATED_PER_SECOND

    # --- looking

    def _run(self, what: str, operation: Operation[T], *args: Any) -> T:
        """Result of an operation that changes nothing. Errors: what it raises, StoreBusyError."""
        last: list[T] = []
        before = None
        for tries in range(LONGEST):
            stamp = self._stamp()
            error: Exception | None = None
            try:
                last[:] = [operation(self._change(), *args)]
            except (RefstoreError, LookupError, OverflowError, ValueError) as raised:
                error = raised
            is_settled = self._stamp() == stamp and (stamp[0] % 2 == 0 or stamp == before)
            if is_settled or (last and tries >= TRIES):
                return self._result(last, error)
            before = stamp
            time.sleep(PAUSE)
        raise _messages.busy(self.path, self._file.words[HOLDER], what)

    def _result(self, last: list[T], error: Exception | None) -> T:
        if error is None or (last and not isinstance(error, RefstoreError)):
            return last[0]
        if isinstance(error, RefstoreError):
            raise error
        raise self._file.leads_out() from None

    def _stamp(self) -> tuple[int, int]:
        words = self._file.words
        return words[WRITES], words[COUNT]

    def _change(self) -> Change:
        file = self._file
        if file.words[COUNT]:
            fd = file.descriptor()
            file = Glance(self.path, fd, self._header, self._found, is_own=True)
            replay(file)
        return Change(cast(Mapping, file))  # who only reads needs no more of it

    # --- reports

    def _census(self) -> tuple[int, ...]:
        return self._run("stats()", check.stats, self.folder, None)

    def _info(self, key: lookups.Key) -> tuple[Any, ...]:
        return lookups.required(self, key, self._run, "info()", listing_calls.info_of, self)

    def _objects(self, prefix: str | None) -> Iterator[tuple[Any, ...]]:
        first = 0
        while first < self._run("objects()", slots.slots_used):
            yield from self._run("objects()", listing_calls.described, self, first, prefix)
            first += listing_calls.TURN

    def _holders(self, key: lookups.Key | None) -> Any:
        return listing_calls.holders(self, key, self._run, None)

    def _problems(self) -> set[str]:
        return self._run("check()", check.find_problems)

    def _recoveries(self) -> list[tuple[float, int, str, int]]:
        return self._run("a look", recovery.past)

    def _processes(self) -> list[tuple[Any, ...]]:
        return self._run("a look", processes, self.folder, None)

    def _page_states(self) -> bytes:
        return self._run("a look", _page_states)


def look(path: str, foreign: bool) -> Look:
    """A look at the store at `path`."""
    with open_store(path, os.O_RDONLY) as opened:
        fd = opened.fileno()
        found = os.fstat(fd)
        seen = Look(path, fd, found)
        require_own(path, found, foreign)
        return seen


# --- operations


def processes(c: Change, folder: str, own: int | None) -> list[tuple[Any, ...]]:
    """The fields of ProcessInfo, in its order. `own`: the row of who asks, if it has one."""
    shares: dict[int, list[int]] = {row: [0, 0] for row in process_table.used_rows(c)}
    for one in check.holdings(c):
        share = shares.setdefault(one.row, [0, 0])
        share[0] += one.pins
        share[1] += one.nbytes
    owners = recovery.used_slots(c, OWNED_BY)
    return [
        (*_process(c, folder, row, own), *share, owners.count(row + 1), *_counters(c, row), row)
        for row, share in sorted(shares.items())
    ]


def _process(
    c: Change, folder: str, row: int, own: int | None
) -> tuple[int, str, str, bool, bool, int, str]:
    at = process_table.row_at(c.file, row)
    alive = check.is_live_row(c, folder, row, own)
    return (
        process_table.pid_of(c, row),
        process_table.read_text(c, at + ROW_COMMAND, COMMAND_NBYTES),
        process_table.read_text(c, at + ROW_LABEL, LABEL_OF_PROCESS),
        alive,
        alive and recovery.has_ended(c, row),
        process_table.waiting_of(c, row) if alive else 0,
        process_table.waits_for(c, row) if alive else "",
    )


def _counters(c: Change, row: int) -> list[int]:
    at = process_table.row_at(c.file, row) + ROW_COUNTERS
    return [c[at + k] for k in range(RECOVERIES)]  # those before it


def _page_states(c: Change) -> bytes:
    """A PageState for each page of the data."""
    file, found = c.file, check.columns(c)
    states = np.zeros(file.g.units // _PAGE_UNITS, np.uint8)
    for start, end in _limits.committed(file.descriptor_or_none(), file.g.data, file.g.file_size):
        states[(start - file.g.data) // PAGE : -(-(end - file.g.data) // PAGE)] = _FREE
    is_live = found.states == SEALED
    for state, which in (  # the stronger over the weaker
        (_LIVE, is_live & ~found.pinned),
        (_PENDING_DELETE, found.states == CONDEMNED),
        (_WRITTEN, found.half_made),
        (_PINNED, is_live & found.pinned),
    ):
        states[_pages_of(found, which, len(states))] = state
    return states.tobytes()


def _pages_of(
    found: check.Columns, which: npt.NDArray[np.bool_], pages: int
) -> npt.NDArray[np.bool_]:
    """The pages in which blocks lie, of those that `which` says."""
    some = which & (found.nbytes > 0)
    first = np.minimum(found.units[some] // _PAGE_UNITS, pages).astype(np.intp)
    units = found.units[some] + found.nbytes[some] // UNIT
    end = np.minimum((units + _PAGE_UNITS - 1) // _PAGE_UNITS, pages).astype(np.intp)
    steps = np.zeros(pages + 1, np.intp)
    np.add.at(steps, first, 1)
    np.add.at(steps, np.maximum(first, end), -1)
    return steps.cumsum()[:-1] > 0
