"""Training in this process alone, on all digits: what several workers are compared with.

An epoch here is one pass over all digits. Of several workers each passes over its own shard, so
their epoch together is one pass over all digits too: the same arithmetic in all. But the steps of
one process follow one another, and those of four workers go side by side, so that an epoch moves
their networks by a quarter as many steps.
"""

import time

import numpy as np
import torch
from tqdm import tqdm

from examples.gan import data
from examples.gan.result import Result
from examples.gan.training import Losses, Trainer


def train(epochs: int, seed: int) -> Result:
    torch.set_num_threads(1)
    began = time.monotonic()
    torch.manual_seed(seed)
    trainer = Trainer(*data.load(seed))
    ready = time.monotonic()
    losses: list[Losses] = []
    with tqdm(total=epochs, unit="epoch") as bar:
        for _ in range(epochs):
            losses.append(trainer.epoch())
            bar.set_postfix_str(losses[-1].text(), refresh=False)
            bar.update()
    done = time.monotonic()
    return Result(
        startup=ready - began,
        seconds=done - ready,
        losses=np.array([losses]),
        generator=trainer.generator,
        store=None,
    )
