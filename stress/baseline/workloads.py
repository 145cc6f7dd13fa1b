"""The same work for refstore and for the store it replaces, ready to be run by `Workers`."""

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

import refstore._core
from refstore import ObjectRef, Store
from stress import loops
from stress.baseline.build import baseline_store
from stress.measure import Loop
from stress.support import MIB, fresh_name
from stress.workers import PairedRun, Setup, Workers

if TYPE_CHECKING:
    from stress.baseline.store import BaselineStore

SMALL = "put/get/delete of 64 B"
BESIDE = "put/get/delete of 64 B beside 500 objects"
LARGE = "put/get/delete of 5 MiB"
HOT = "get of one hot object"
LOOKUP = "lookup among 1000, through Python"
CORE = "lookup among 1000, core alone"

_OBJECTS = 1000  # as many as the old store has slots
_BESIDE = 500
_HOT_KEY = _OBJECTS + 1
_CAPACITY = 256 * MIB
_BATCH = 1024  # lookups in one call of the core, so that the call costs nothing

# Of the core, where it has been built with them: loops that no Python runs in.
CoreGets = Callable[[Store, ObjectRef, int], float]
core_gets: CoreGets | None = getattr(refstore._core, "bench_get", None)

WORKLOADS = (SMALL, BESIDE, LARGE, HOT, LOOKUP) + ((CORE,) if core_gets else ())


def beside_baseline(workers: Workers, workload: str, seconds: float, rounds: int) -> PairedRun:
    """Operations per second of refstore, and of the old store as the floor."""
    return workers.paired_run(f"refstore {workload}", f"baseline {workload}", seconds, rounds)


@contextmanager
def prepared() -> Iterator[Setup]:
    """Stores of both kinds: one to churn, one to churn beside other objects, one of 1000."""
    small = bytes(64)
    with ExitStack() as stack:
        ours = [stack.enter_context(Store.temporary(_CAPACITY)) for _ in range(3)]
        theirs = [_old(stack, capacity) for capacity in (_CAPACITY, MIB, MIB)]
        churned, beside, full = ours
        old_churned, old_beside, old_full = theirs
        hot = churned.put(small)
        refs = [full.put(small) for _ in range(_OBJECTS)]
        keys = list(range(1, _OBJECTS + 1))
        old_churned.put(_HOT_KEY, small)
        for key in keys:
            old_full.put(key, small)
        for key in keys[:_BESIDE]:
            beside.put(small)
            old_beside.put(key, small)

        def setup(index: int) -> dict[str, Loop]:
            order = random.Random(index)
            order.shuffle(refs)
            order.shuffle(keys)
            own_key = _HOT_KEY + 1 + index
            large = np.ones(5 * MIB, np.uint8)
            named = {
                f"refstore {SMALL}": loops.cycles(churned, small),
                f"baseline {SMALL}": loops.baseline_cycles(old_churned, small, own_key),
                f"refstore {BESIDE}": loops.cycles(beside, small),
                f"baseline {BESIDE}": loops.baseline_cycles(old_beside, small, own_key),
                f"refstore {LARGE}": loops.cycles(churned, large),
                f"baseline {LARGE}": loops.baseline_cycles(old_churned, large, own_key),
                f"refstore {HOT}": loops.gets(churned, hot),
                f"baseline {HOT}": loops.baseline_gets_among(old_churned, [_HOT_KEY]),
                f"refstore {LOOKUP}": loops.gets_among(full, refs),
                f"baseline {LOOKUP}": loops.baseline_gets_among(old_full, keys),
            }
            if core_gets:
                named[f"refstore {CORE}"] = _core_lookups(core_gets, full, refs)
                named[f"baseline {CORE}"] = _old_core_lookups(old_full, keys)
            return named

        yield setup


def _old(stack: ExitStack, capacity: int) -> "BaselineStore":
    """A store of the old kind that goes round in its space, or no loop of puts could be timed."""
    store = baseline_store()(fresh_name("baseline"), capacity, ring=True)
    stack.callback(store.unlink)
    return store


def _core_lookups(gets: CoreGets, store: Store, refs: Sequence[ObjectRef]) -> Loop:
    forever = cycle(refs)

    def run(turns: int) -> None:
        for done in range(0, turns, _BATCH):
            gets(store, next(forever), min(_BATCH, turns - done))

    return run


def _old_core_lookups(store: "BaselineStore", keys: Sequence[int]) -> Loop:
    wanted = array("Q", keys)

    def run(turns: int) -> None:
        store.lookup_loop(wanted, turns)

    return run
