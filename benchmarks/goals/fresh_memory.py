"""Rows about memory that was never used: processor time from the call to the last byte."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.goals.row import Effort, Goal, Row, compared
from benchmarks.shared_pages import shared_pages
from refstore import Store
from stress.huge_pages import refusal
from stress.support import KIB, MIB, child_answer, duration, size

_LARGE = 64 * MIB
_SMALL = 4 * KIB
_SPAWN = multiprocessing.get_context("forkserver")


def fresh_memory(effort: Effort) -> Sequence[Row]:
    """Puts beside copies into never-used memory; then a reader that has just come."""
    rounds = max(11, effort.worker_rounds // 5)
    source = np.ones(_LARGE, "u1")
    seen = [_round(source) for _ in range(rounds + 1)][1:]
    copy, put, first, second, small_copy, small_put = zip(*seen, strict=True)
    refused = refusal()
    note = f" (no huge pages: {os.strerror(refused)})" if refused else ""
    large, small = size(_LARGE), size(_SMALL)

    def row(what: str, ours: Sequence[float], floor: Sequence[float], bound: float | None) -> Row:
        goal = None if refused or bound is None else Goal(bound)
        return compared(what + note, ours, floor, goal, duration, str(rounds))

    return [
        row(f"put of {large} into never-used space / copy into fresh pages", put, copy, 0.7),
        row(f"first full read of {large} by a new process / its second", first, second, 1.2),
        row(f"put of {small} into never-used space / copy", small_put, small_copy, None),
        _half_full(),
    ]


def _round(source: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> tuple[float, ...]:
    copy = _copy(source, len(source))
    small_copy = _copy(source, _SMALL)
    with Store.temporary(2 * _LARGE) as store:
        before = time.process_time()
        store.put(source, name="large")
        put = time.process_time() - before
        first, second = child_answer(_SPAWN, _read_twice, store.path)
    with Store.temporary(2 * _LARGE) as store:
        part = source[:_SMALL]
        before = time.process_time()
        for _ in range(len(source) // _SMALL):
            store.put(part)
        small_put = (time.process_time() - before) / (len(source) // _SMALL)
    return copy, put, first, second, small_copy, small_put


def _copy(source: "np.ndarray[tuple[int], np.dtype[np.uint8]]", nbytes: int) -> float:
    """Seconds for each copy of so many bytes into pages that the kernel has yet to clear."""
    with shared_pages(len(source)) as memory:
        target = np.frombuffer(memory, "u1")
        before = time.process_time()
        for at in range(0, len(source), nbytes):
            target[at : at + nbytes] = source[at : at + nbytes]
        taken = time.process_time() - before
        del target
    return taken / (len(source) // nbytes)


def _read_twice(path: str, answer: Connection) -> None:
    taken = []
    with Store(path, create=False) as store, store.get("large") as buf:
        words = buf.array.view("u8")
        for _ in range(2):
            before = time.process_time()
            words.sum()
            taken.append(time.process_time() - before)
        del words
    answer.send(tuple(taken))


def _half_full() -> Row:
    """Memory of the file beyond the objects and the tables."""
    with Store.temporary(4 * _LARGE) as store:
        path = Path(store.path)
        store.delete(store.put(b"x"))
        tables = path.stat().st_blocks * 512
        data = bytes(5 * MIB)
        count = 2 * _LARGE // len(data)
        for _ in range(count):
            store.put(data)
        beyond = path.stat().st_blocks * 512 - tables - count * len(data)
    what = f"memory of {size(4 * _LARGE)}, half full of {size(len(data))}, beyond the objects"
    return Row(what, "-", size(max(beyond, 0)), None, "<= 2 MiB", beyond <= 2 * MIB)
