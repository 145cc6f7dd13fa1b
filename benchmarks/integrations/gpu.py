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
        plain = interleave([_speed(there, locked), _speed(there, stored)], effort.rounds)
        with refstore.torch.pin_cuda(store):
            pinned = interleave([_speed(there, locked), _speed(there, stored)], effort.rounds)
            calls = interleave([_call(there, locked), _call(there, stored)], effort.rounds)
        del stored
    for of, (floor, ours), goal in (
        ("with pin_cuda(store)", pinned, Goal(0.95, at_least=True)),
        ("without it", plain, None),
    ):
        named = f"{what} {of} / from torch's pin_memory()"
        yield compared(named, ours, floor, goal, _gigabytes, str(effort.rounds))
    took = [_NBYTES / each for each in pinned[1]]
    named = f"the call that begins {what} / the copy"
    yield compared(named, calls[1], took, None, duration, str(effort.rounds))


def _speed(there: Any, source: Any) -> Callable[[], float]:
    """Bytes a second."""

    def copy() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        there.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        return _NBYTES / (time.perf_counter() - began)

    return copy


def _call(there: Any, source: Any) -> Callable[[], float]:
    """Seconds till the caller goes on."""

    def begin() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        there.copy_(source, non_blocking=True)
        return time.perf_counter() - began

    return begin


def _gigabytes(speed: float) -> str:
    return f"{speed / 1e9:.1f} GB/s"
