"""The weights of a parameter server's workers: how many there are, what they hold, their mean.

Imports no refstore, so that interpreters without it can send them, too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MODELS = ("generator", "discriminator")
WEIGHTS = 1_250_000  # float32 each: 5 MB a model

Weights = NDArray[np.float32]


def weight(worker: int, sync: int, model: int) -> float:
    """The value that a worker fills a model with: whole, so that averages of floats are exact."""
    return float(worker * 8 + sync % 1000 * 64 + model)


def averages(workers: Sequence[int], sync: int) -> list[float]:
    """The average of each model over those workers."""
    return [
        sum(weight(worker, sync, model) for worker in workers) / len(workers)
        for model in range(len(MODELS))
    ]


def average_into(total: Weights, parts: Sequence[Weights]) -> None:
    """Makes `total` the mean of the parts, with no memory but its own."""
    np.copyto(total, parts[0])
    for part in parts[1:]:
        np.add(total, part, out=total)
    np.divide(total, np.float32(len(parts)), out=total)
