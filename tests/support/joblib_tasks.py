"""Tasks of joblib's workers, which import them by name."""

from __future__ import annotations

from typing import Any

import numpy as np


def total_of_parts(array: Any, backend: str) -> float:
    """A Parallel within a task."""
    from joblib import Parallel, delayed

    parts = [array[::2], array[1::2]]
    return float(sum(Parallel(n_jobs=2, backend=backend)(delayed(np.sum)(one) for one in parts)))


def described(array: Any) -> tuple[str, bool]:
    return type(array).__name__, bool(array.flags.writeable)
