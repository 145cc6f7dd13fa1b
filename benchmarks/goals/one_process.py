"""Rows that one process measures by itself."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from benchmarks.churn import log_uniform
from benchmarks.goals.row import Effort, Goal, Row, timed
from benchmarks.shared_pages import shared_pages
from refstore import ObjectRef, Store
from stress import loops
from stress.measure import Loop
from stress.support import GIB, KIB, MIB

SMALL = bytes(64)
_SAMPLE = 1000


def get(effort: Effort) -> Sequence[Row]:
    with Store.temporary(64 * MIB) as store:
        loop = loops.gets(store, store.put(SMALL))
        floor = loops.memoryviews(SMALL)
        return [timed("get / memoryview", effort, loop, floor, Goal(0.8))]


def put_delete(effort: Effort) -> Sequence[Row]:
    with Store.temporary(64 * MIB) as store:
        loop = loops.puts(store, SMALL)
        floor = loops.memoryviews(SMALL)
        return [timed("put + delete of 64 B / memoryview", effort, loop, floor, Goal(2.5))]


def create_seal(effort: Effort) -> Sequence[Row]:
    with Store.temporary(64 * MIB) as store:
        loop, floor = loops.seals(store, len(SMALL)), loops.memoryviews(SMALL)
        label = "create, seal + delete of 64 B / memoryview"
        return [timed(label, effort, loop, floor, Goal(5.0))]


def array(effort: Effort) -> Sequence[Row]:
    with Store.temporary(64 * MIB) as store, store.get(store.put(np.zeros(8))) as buf:
        loop, floor = loops.arrays(buf), loops.frombuffers(SMALL)
        return [timed("buf.array of 64 B / numpy.frombuffer", effort, loop, floor, Goal(1.2))]


def put_5mib(effort: Effort) -> Sequence[Row]:
    source = np.ones(5 * MIB, np.uint8)
    target = np.frombuffer(shared_pages(len(source)), np.uint8)
    target.fill(1)  # warm, as the store's memory is
    with Store.temporary(64 * MIB) as store:
        loop = loops.puts(store, source)
        floor = _copies(target, source)
        return [timed("put of 5 MiB / numpy.copyto", effort, loop, floor, Goal(1.05))]


def _copies(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> Loop:
    def run(turns: int) -> None:
        for _ in range(turns):
            np.copyto(target, source)

    return run


def many_objects(effort: Effort) -> Sequence[Row]:
    """Compares stores of the same options; only the number of objects differs."""
    few, many = _SAMPLE, effort.objects
    label = f"with {many:,} objects / with {few:,}: "
    goal = Goal(1.5)
    with _filled(few, many) as (small, small_refs), _filled(many, many) as (full, refs):
        order = random.Random(1)
        indices = order.sample(range(many), few)
        # Made anew on both sides, so that the refs themselves lie as close together.
        sample = [ObjectRef(bytes(refs[i])) for i in indices]
        small_refs = [ObjectRef(bytes(ref)) for ref in small_refs]
        names = [f"object {i}" for i in indices]
        small_names = [f"object {i}" for i in range(few)]
        order.shuffle(refs)
        pairs: dict[str, tuple[Loop, Loop]] = {
            "get, a thousand of them": (
                loops.gets_among(full, sample),
                loops.gets_among(small, small_refs),
            ),
            "get, all in random order": (
                loops.gets_among(full, refs),
                loops.gets_among(small, small_refs),
            ),
            "get by name": (
                loops.gets_among(full, names),
                loops.gets_among(small, small_names),
            ),
            "put + delete": (loops.puts(full, SMALL), loops.puts(small, SMALL)),
            "put + delete by name": (
                loops.named_puts(full, SMALL, "another"),
                loops.named_puts(small, SMALL, "another"),
            ),
        }
        rows = [
            timed(label + what, effort, ours, floor, goal, many)
            for what, (ours, floor) in pairs.items()
        ]
        # The caches hold the few and not the many, in a dict as well.
        ours, floor = (
            loops.dict_gets_among(dict.fromkeys(keys), keys) for keys in (refs, small_refs)
        )
        what = "for comparison, a dict, all in random order"
        return [*rows, timed(label + what, effort, ours, floor, None, many)]


@contextmanager
def _filled(count: int, max_objects: int) -> Iterator[tuple[Store, list[ObjectRef]]]:
    with Store.temporary(GIB, max_objects=max_objects + 1000) as store:
        yield store, [store.put(SMALL, name=f"object {i}") for i in range(count)]


def churn(effort: Effort) -> Sequence[Row]:
    label = f"after {effort.cycles:,} put/delete cycles / fresh: "
    goal = Goal(1.1)
    with Store.temporary(64 * MIB) as worn, Store.temporary(64 * MIB) as fresh:
        _churn(worn, effort.cycles)
        page = bytes(4 * KIB)
        pairs: dict[str, tuple[Loop, Loop]] = {
            "put + delete": (loops.puts(worn, SMALL), loops.puts(fresh, SMALL)),
            "put + delete of 4 KiB": (loops.puts(worn, page), loops.puts(fresh, page)),
            "put + delete by name": (
                loops.named_puts(worn, SMALL, "name"),
                loops.named_puts(fresh, SMALL, "name"),
            ),
        }
        rows = [
            timed(label + what, effort, ours, floor, goal) for what, (ours, floor) in pairs.items()
        ]
        worn_ref, fresh_ref = worn.put(SMALL, name="kept"), fresh.put(SMALL, name="kept")
        gets = loops.gets(worn, worn_ref), loops.gets(fresh, fresh_ref)
        named = loops.gets(worn, "kept"), loops.gets(fresh, "kept")
        rows.append(timed(label + "get", effort, *gets, goal))
        rows.append(timed(label + "get by name", effort, *named, goal))
        return rows


def _churn(store: Store, cycles: int) -> None:
    """Churns: half of the objects have a new name each, and a thousand are alive at any time."""
    payload = memoryview(bytearray(64 * KIB))
    sizes = log_uniform(64, len(payload), seed=1)
    alive: deque[ObjectRef] = deque()
    put, delete = store.put, store.delete
    for i in range(cycles):
        data = payload[: sizes[i % len(sizes)]]
        alive.append(put(data, name=f"worn {i}") if i & 1 else put(data))
        if len(alive) > _SAMPLE:
            delete(alive.popleft())
    for ref in alive:
        delete(ref)
