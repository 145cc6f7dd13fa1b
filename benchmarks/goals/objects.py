"""Rows of small objects, and of many small arrays in one, against pickle alone."""

import pickle
from collections.abc import Sequence

import numpy as np

from benchmarks.goals.row import Effort, Goal, Row, timed
from refstore import Store
from stress import loops
from stress.support import MIB

_REPORT = {"epoch": 17, "loss": 0.25, "name": "generator", "shape": [3, 64, 64]}


def small_objects(effort: Effort) -> Sequence[Row]:
    stream = pickle.dumps(_REPORT, 5)
    with Store.temporary(MIB) as store:
        ref = store.put(_REPORT)
        return [
            timed(
                "put + delete of a small dict / pickle.dumps with a buffer callback",
                effort,
                loops.calls(lambda: store.delete(store.put(_REPORT))),
                loops.calls(lambda: pickle.dumps(_REPORT, 5, buffer_callback=_none)),
                Goal(2.5),
            ),
            timed(
                "get and value of it / pickle.loads",
                effort,
                loops.calls(lambda: store.get(ref).value),
                loops.calls(lambda: pickle.loads(stream)),
                Goal(1.5),
            ),
        ]


def many_small_arrays(effort: Effort) -> Sequence[Row]:
    arrays = [np.arange(8.0) for _ in range(50_000)]
    stream = pickle.dumps(arrays, 5)
    with Store.temporary(32 * MIB) as store, store.get(store.put(arrays, name="arrays")) as buf:
        return [
            timed(
                "put of 50,000 arrays of 64 B in a list / pickle.dumps",
                effort,
                loops.calls(lambda: store.put(arrays, name="arrays", replace=True)),
                loops.calls(lambda: pickle.dumps(arrays, 5)),
                Goal(1.5),
            ),
            timed(
                "their value / pickle.loads",
                effort,
                loops.calls(lambda: buf.value),
                loops.calls(lambda: pickle.loads(stream)),
                Goal(1.5),
            ),
        ]


def _none(_: object) -> None:
    pass
