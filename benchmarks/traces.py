"""Which keys a cache is asked for, one after the other: some often, most seldom.

Imports no refstore, so that interpreters without it can ask another store.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

KEYS = 100_000
SHIFTS = 20  # by that part of the keys what is popular moves on, until all were
SHIFTED_AFTER = 200_000  # gets


def zipf(alpha: float, length: int, seed: int, *, shifts: bool = False) -> list[int]:
    """The key of rank r is asked for in proportion to r ** -alpha.

    `shifts`: the ranks move on to other keys now and then.
    """
    weights = np.cumsum(np.arange(1, KEYS + 1) ** -alpha)
    drawn = np.random.default_rng(seed).random(length) * weights[-1]
    keys = np.minimum(np.searchsorted(weights, drawn), KEYS - 1)
    if shifts:
        keys = (keys + np.arange(length) // SHIFTED_AFTER * (KEYS // SHIFTS)) % KEYS
    found: list[int] = keys.tolist()
    return found


def exact_lru(trace: Sequence[int], room: int, warm: int) -> float:
    """The share of hits of a cache that evicts what was used longest ago, after so many gets."""
    there: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for n, key in enumerate(trace):
        if key in there:
            there.move_to_end(key)
            hits += n >= warm
            continue
        there[key] = None
        if len(there) > room:
            there.popitem(last=False)
    return hits / (len(trace) - warm)
