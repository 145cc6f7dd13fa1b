"""A store as it changes: its figures at one moment, and rates between two."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from refstore._looking import Look
from refstore._reports import PastRecovery, ProcessInfo, StoreStats

__all__ = ["COUNTED", "ORDERS", "Moment", "Ranking", "Rates", "end_of", "rates_between", "take"]

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


ORDERS: dict[str, Callable[[ProcessInfo, Rates], float]] = {  # the largest first
    "bytes": lambda one, rates: one.bytes,
    "pins": lambda one, rates: one.pins,
    "rate": lambda one, rates: sum(rates.of_processes.get(one.slot, {}).values()),
    "waiting": lambda one, rates: one.waiting,
}
NEWEST = 0.2  # of the figure that rows are sorted by
AHEAD = 1.2  # times as much has who goes before another


class Ranking:
    """An order of processes that can be read as it changes: by figures that follow slowly, and of
    two that are nearly alike each stays where it is."""

    def __init__(self) -> None:
        self._order = ""
        self._figures: dict[tuple[int, int], float] = {}  # by slot and pid, in their order

    def of(self, processes: Sequence[ProcessInfo], rates: Rates, order: str) -> list[ProcessInfo]:
        found = {(one.slot, one.pid): one for one in processes}
        new = {who: ORDERS[order](one, rates) for who, one in found.items()}
        if order != self._order:
            self._order, self._figures = order, {}
        kept = {
            who: old + NEWEST * (new[who] - old) for who, old in self._figures.items() if who in new
        }
        come = sorted(new.keys() - kept.keys(), key=lambda who: (-new[who], who))
        figures = kept | {who: new[who] for who in come}
        ranked = list(figures)
        for end in range(1, len(ranked)):
            at = end
            while at and figures[ranked[at]] > AHEAD * figures[ranked[at - 1]]:
                ranked[at - 1], ranked[at] = ranked[at], ranked[at - 1]
                at -= 1
        self._figures = {who: figures[who] for who in ranked}
        return [found[who] for who in ranked]


def end_of(path: str, file: os.stat_result) -> str:
    """Tells what became of the file at the path since it was `file`; "" if it is still that one.

    To read in what was cut off would end the process by a signal.
    """
    try:
        now = os.stat(path)
    except OSError:
        return "was removed meanwhile"
    if not os.path.samestat(now, file):
        return "was replaced meanwhile"
    return "was truncated meanwhile" if now.st_size < file.st_size else ""


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
