"""Rows about space rather than time."""

import random
from collections.abc import Sequence

from benchmarks import fragmentation
from benchmarks.churn import log_uniform
from benchmarks.goals.row import Effort, Row
from refstore import Store, StoreFullError
from refstore.shared import SharedList
from stress.support import MIB, size

_CAPACITY = 64 * MIB
_OBJECTS = 100
_ITEMS, _ITEM = 100_000, 100  # of a SharedList, and bytes of each
_MOST = 16  # bytes of overhead an item
_FILL = 0.95  # of the capacity: each object may round up to a page


def usable(effort: Effort) -> Sequence[Row]:
    """Fills and empties a store, then puts one object of the full capacity; twice."""
    what = f"{_OBJECTS} random objects, deleted, then one of the full {size(_CAPACITY)}; twice"
    order = random.Random(1)
    ours = "works"
    with Store.temporary(_CAPACITY) as store:
        try:
            for _ in range(2):
                _fill_and_empty(store, order)
                store.delete(store.put(bytes(_CAPACITY)))
        except StoreFullError as error:
            ours = str(error)
        problems = store.check()
    return [Row(what, "-", ours, None, "works", ours == "works" and not problems)]


def _fill_and_empty(store: Store, order: random.Random) -> None:
    weights = [order.random() for _ in range(_OBJECTS)]
    refs = [store.put(bytes(int(weight / sum(weights) * _CAPACITY * _FILL))) for weight in weights]
    order.shuffle(refs)
    for ref in refs:
        store.delete(ref)


def records(effort: Effort) -> Sequence[Row]:
    """Puts many small items as one SharedList: the bytes of its object that are no item's."""
    items = (bytes(_ITEM) for _ in range(_ITEMS))
    with Store.temporary(_CAPACITY) as store, SharedList.put(store, items) as shared:
        overhead = store.info(shared.ref).nbytes / _ITEMS - _ITEM
    what = f"overhead of a SharedList of {_ITEMS:,} items of {_ITEM} B, an item"
    return [Row(what, "-", f"{overhead:.2f} B", None, f"<= {_MOST} B", overhead <= _MOST)]


def mixed(effort: Effort) -> Sequence[Row]:
    """Churns random sizes at a high live fraction; see `benchmarks/fragmentation.py`."""
    sizes = log_uniform(64, MIB, seed=1)
    rows = []
    for capacity, fraction in fragmentation.FIGURES:
        found = fragmentation.measure(capacity, fraction, effort.operations, sizes, seed=1)
        if found.failed:
            ours = f"StoreFullError after {found.operations:,} operations"
        else:
            ours = "no StoreFullError; "
            ours += f"begins at {found.fails_from:.0%}" if found.fails_from else "none above"
        rows.append(
            Row(
                f"{effort.operations:,} operations, 64 B to 1 MiB, {fraction:.0%} of "
                f"{size(capacity)} live",
                "-",
                ours,
                None,
                "no StoreFullError",
                not found.failed,
            )
        )
    return rows
