"""Comparison of memory with what was stored of it."""

from __future__ import annotations

import numpy as np

__all__ = ["are_equal"]

_CHUNK = 1 << 20  # bytes that are compared at once: they and the result stay in the cache


def are_equal(one: memoryview, other: memoryview) -> bool:
    """Whether two views of as many bytes have the same."""
    whole = one.nbytes // 8 * 8
    left, right = np.frombuffer(one[:whole], np.uint64), np.frombuffer(other[:whole], np.uint64)
    step = _CHUNK // 8
    return one[whole:] == other[whole:] and all(
        np.array_equal(left[k : k + step], right[k : k + step]) for k in range(0, left.size, step)
    )
