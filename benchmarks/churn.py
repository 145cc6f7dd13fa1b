"""Objects of random sizes that come, and go in random order: the load of a store that is in use.

Imports no refstore, so that interpreters without it can churn another store.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from stress.loops import AnyStore, payload

_DRAWN = 1 << 16  # sizes drawn beforehand; odd numbers of steps through them repeat late


class Churn:
    """Puts and deletes of random sizes in one store."""

    def __init__(self, store: AnyStore, sizes: Sequence[int], seed: int) -> None:
        self._store = store
        self._sizes = sizes
        self._random = random.Random(seed)
        self._payload = memoryview(payload(max(sizes)))
        self._live: list[tuple[Any, int]] = []
        self._bytes = 0
        self._drawn = 0
        self.operations = 0

    def run(self, limit: int, operations: int) -> None:
        """Does so many puts and deletes, with at most `limit` bytes live and seldom much fewer."""
        put, delete = self._store.put, self._store.delete
        payload, live, pick = self._payload, self._live, self._random.random
        last = self.operations + operations
        while self.operations < last:
            nbytes = self._sizes[self._drawn % len(self._sizes)]
            self._drawn += 1
            while self._bytes + nbytes > limit:
                index = int(pick() * len(live))
                live[index], live[-1] = live[-1], live[index]
                key, freed = live.pop()
                delete(key)
                self._bytes -= freed
                self.operations += 1
            live.append((put(payload[:nbytes]), nbytes))
            self._bytes += nbytes
            self.operations += 1

    def clear(self) -> None:
        """Deletes whatever lives."""
        for key, _ in self._live:
            self._store.delete(key)
        self._live.clear()
        self._bytes = 0


def log_uniform(low: int, high: int, seed: int) -> list[int]:
    """Many sizes to go through again and again."""
    drawn = np.random.default_rng(seed).uniform(np.log(low), np.log(high + 1), _DRAWN - 1)
    return [int(value) for value in np.minimum(np.exp(drawn), high)]
