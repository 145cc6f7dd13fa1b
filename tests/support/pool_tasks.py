"""Tasks of pools: functions that workers import by name."""

from __future__ import annotations

import os
import signal
from typing import Any

import helpers
import numpy as np

import refstore
from refstore.pool import Pool

Array = Any
kept: Any = None


def keep(value: Any) -> None:
    global kept
    kept = value


def kept_total(number: int) -> float:
    return float(kept.sum()) + number


def total(array: Array, number: float = 0) -> float:
    return float(array.sum()) + number


def total_of(pair: tuple[Array, float]) -> float:
    return total(*pair)


def is_writable(array: Array) -> bool:
    return bool(array.flags.writeable)


def add_to(array: Array, number: float) -> float:
    """Write into an argument."""
    array += number
    return float(array[0])


def lies_in(array: Array, path: str) -> bool:
    return helpers.lies_in(path, helpers.address(array))


def ones(size: int) -> Array:
    return np.ones(size)


def echo(value: Any) -> Any:
    return value


def fail(array: Array) -> None:
    raise ValueError(f"of {array.nbytes} bytes")


def not_picklable(array: Array) -> Any:
    return array * 2, lambda: None


def kill_itself(array: Array) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(array: Array, store: refstore.Store, name: str) -> float:
    """Say who works, and wait until there is an object named "go"."""
    store.put({"pid": os.getpid()}, name=name)
    store.get("go", timeout=helpers.BUSY_TIMEOUT).release()
    return total(array)


def nested(array: Array) -> list[float]:
    with Pool(1) as pool:
        return list(pool.map(total, [array, array]))


class Making:
    """An array that is made anew each time it is pickled."""

    def __init__(self, size: int, number: int) -> None:
        self._size, self._number = size, number

    def __reduce__(self) -> Any:
        return echo, (np.full(self._size, self._number, "f8"),)


class Refusing:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError("it does not want to")
