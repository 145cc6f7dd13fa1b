"""Scikit-learn's handwritten digits as tensors, whole or one worker's shard of them."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLASSES = 10
SIDE = 8  # pixels a side
PIXELS = SIDE * SIDE
INK = 16.0  # the darkest value a pixel has in the package's files


def load(seed: int = 0, worker: int = 0, workers: int = 1) -> tuple[Tensor, Tensor]:
    """Return the images, in -1 to 1 with one row each, and their labels.

    All workers shuffle alike and each takes every `workers`-th digit, so the shards share no
    digit and leave none out, and each holds about as many of every class.
    """
    pixels, labels = load_digits(return_X_y=True)
    mine = np.random.default_rng(seed).permutation(len(labels))[worker::workers]
    images = (pixels[mine] * (2 / INK) - 1).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels[mine])
