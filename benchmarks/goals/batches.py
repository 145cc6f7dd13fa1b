"""Rows of calls on a thousand objects at once, against as many calls."""

import time
from collections.abc import Callable, Sequence

from benchmarks.goals.row import Effort, Goal, Row, compared, timed
from refstore import ObjectRef, Store
from stress.measure import Loop, Subject, interleave
from stress.support import MIB, duration

MANY = 1000
_PAYLOADS = [bytes([i % 251]) * 64 for i in range(MANY)]
_PUTS = 5  # batches of one measurement


def many_gets(effort: Effort) -> Sequence[Row]:
    """All are pinned at a time, and then let go."""
    with Store.temporary(64 * MIB) as store:
        refs = store.put_many(_PAYLOADS)
        what = f"get_many of {MANY}, held, then dropped / {MANY} gets so"
        return [timed(what, effort, _at_once(store, refs), _one_by_one(store, refs), Goal(0.6))]


def _at_once(store: Store, refs: Sequence[ObjectRef]) -> Loop:
    def run(turns: int) -> None:
        for _ in range(turns):
            held = store.get_many(refs)
            del held

    return run


def _one_by_one(store: Store, refs: Sequence[ObjectRef]) -> Loop:
    def run(turns: int) -> None:
        get = store.get
        for _ in range(turns):
            held = [get(ref) for ref in refs]
            del held

    return run


def many_puts(effort: Effort) -> Sequence[Row]:
    """Without the deletes, which make room for the next ones."""
    with Store.temporary(64 * MIB) as store:
        put = store.put
        subjects = [
            _timed_puts(store, lambda: [put(payload) for payload in _PAYLOADS]),
            _timed_puts(store, lambda: store.put_many(_PAYLOADS)),
        ]
        floor, ours = interleave(subjects, effort.rounds)
    what = f"put_many of {MANY} x 64 B / {MANY} puts"
    return [compared(what, ours, floor, Goal(0.7), duration, str(effort.rounds))]


def _timed_puts(store: Store, puts: Callable[[], list[ObjectRef]]) -> Subject:
    def run() -> float:
        taken = 0.0
        for _ in range(_PUTS):
            began = time.thread_time()
            refs = puts()
            taken += time.thread_time() - began
            store.delete_many(refs)
        return taken / _PUTS

    return run
