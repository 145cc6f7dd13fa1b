"""Copies between a store and a GPU, by torch, against torch's own locked memory."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import refstore.torch
from benchmarks.goals.row import Effort, Goal, Row, compared
from refstore import Store
from stress.measure import interleave
from stress.support import MIB, duration, size

_NBYTES = 64 * MIB


def rows(effort: Effort) -> Sequence[Row]:
    if not torch.cuda.is_available():
        return [Row("copies to a GPU", "-", "there is none here", None, "-", None)]
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    with Store.temporary("256MiB") as store:
        return list(_copies(store, replace(effort, rounds=effort.worker_rounds)))


def _copies(store: Store, effort: Effort) -> Iterator[Row]:
    ref = store.put(np.ones(_NBYTES // 4, "f4"))
    there = torch.empty(_NBYTES // 4, device="cuda")
    locked = torch.ones(_NBYTES // 4).pin_memory()
    what = f"a copy of {size(_NBYTES)} to {torch.cuda.get_device_name()}"
    with store.get(ref) as buf:
        stored = torch.from_numpy(buf.array)
        both = [_copy(there, locked), _copy(there, stored)]
        plain = interleave(both, effort.rounds)
        with refstore.torch.pin_cuda(store):
            pinned = interleave(both, effort.rounds)
            (calls,) = interleave([_copy(there, stored, waits=False)], effort.rounds)
        del both, stored
    for of, (floor, ours), goal in (
        ("with pin_cuda(store)", pinned, Goal(0.95, at_least=True)),
        ("without it", plain, None),
    ):
        named = f"{what} {of} / from torch's pin_memory()"
        here, torchs = ([_NBYTES / each for each in took] for took in (ours, floor))
        yield compared(named, here, torchs, goal, _gigabytes, str(effort.rounds))
    named = f"the call that begins {what} / the copy"
    yield compared(named, calls, pinned[1], None, duration, str(effort.rounds))


def _copy(there: Any, source: Any, *, waits: bool = True) -> Callable[[], float]:
    """Seconds till the copy is there, or, if nobody waits, till the caller goes on."""

    def copy() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        there.copy_(source, non_blocking=True)
        if waits:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return copy


def _gigabytes(speed: float) -> str:
    return f"{speed / 1e9:.1f} GB/s"
