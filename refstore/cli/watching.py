"""A store as it changes: its figures at one moment, and rates between two."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refstore._looking import Look
from refstore._reports import PastRecovery, ProcessInfo, StoreStats

__all__ = ["COUNTED", "Moment", "Rates", "rates_between", "take"]

COUNTED = ("puts", "gets", "deletes", "evictions")


@dataclass(frozen=True)
class Moment:
    """The figures of a store at one moment."""

    at: float  # by time.monotonic()
    stats: StoreStats
    processes: Sequence[ProcessInfo]
    recoveries: Sequence[PastRecovery]
    pages: bytes

    @property
    def waiting(self) -> int:
        """Threads that wait for names, room or a lock."""
        return sum(one.waiting for one in self.processes)


@dataclass(frozen=True)
class Rates:
    """Events per second, of the store and of each process by its slot."""

    of_store: Mapping[str, float]
    of_processes: Mapping[int, Mapping[str, float]]


NONE = Rates(dict.fromkeys(COUNTED, 0.0), {})


def take(store: Look, pages: bytes | None = None) -> Moment:
    """Reads without locks: each figure is right, and they may be of slightly different times.

    `pages`: those of an earlier moment, if they are new enough.
    """
    if pages is None:
        pages = store.page_states()
    at = time.monotonic()
    return Moment(at, store.stats(), store.processes(), store.recoveries(), pages)


def rates_between(old: Moment | None, new: Moment) -> Rates:
    """Per second; nothing at the first moment. A process that has just come counts from 0."""
    if old is None or new.at <= old.at:
        return NONE
    seconds = new.at - old.at
    before = {(one.slot, one.pid): one for one in old.processes}
    return Rates(
        {name: _per_second(old.stats, new.stats, name, seconds) for name in COUNTED},
        {
            one.slot: {
                name: _per_second(before.get((one.slot, one.pid)), one, name, seconds)
                for name in COUNTED
            }
            for one in new.processes
        },
    )


def _per_second(old: object | None, new: object, name: str, seconds: float) -> float:
    difference = int(getattr(new, name)) - (0 if old is None else int(getattr(old, name)))
    return max(difference, 0) / seconds
