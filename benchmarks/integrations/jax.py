"""Arrays of JAX by way of a store, on the CPU, against JAX's own copies of numpy arrays."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from benchmarks.goals.row import Effort, Goal, Row, timed
from refstore import Store
from stress import loops
from stress.support import MIB, size

_NBYTES = 5 * MIB


def rows(effort: Effort) -> Sequence[Row]:
    effort = replace(effort, rounds=effort.worker_rounds)
    with jax.default_device(jax.devices("cpu")[0]), Store.temporary("64MiB") as store:
        return [_put(store, effort), _get(store, effort)]


def _put(store: Store, effort: Effort) -> Row:
    array = jax.numpy.ones(_NBYTES // 4, "float32")
    plain = np.array(array)
    return timed(
        f"put of np.asarray() of an array of {size(_NBYTES)} / of one of numpy",
        effort,
        loops.calls(lambda: store.delete(store.put(np.asarray(array)))),
        loops.calls(lambda: store.delete(store.put(plain))),
        Goal(1.05),
    )


def _get(store: Store, effort: Effort) -> Row:
    plain = np.ones(_NBYTES // 4, "float32")
    ref = store.put(plain)
    return timed(
        f"get of {size(_NBYTES)} and jax.dlpack.from_dlpack / jax.numpy.array of one of numpy",
        effort,
        loops.calls(lambda: jax.dlpack.from_dlpack(store.get(ref))),
        loops.calls(lambda: jax.numpy.array(plain).block_until_ready()),
        None,
    )
