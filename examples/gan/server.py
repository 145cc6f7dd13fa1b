"""The parameter server: averages what the workers put in the store, and publishes that."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from examples.gan.messages import DISCRIMINATOR, GENERATOR
from examples.gan.models import Discriminator, Generator, Weights
from examples.gan.result import Sample, StoreUse
from refstore import ObjectRef, Store


class ParameterServer:
    """Owner of the two published averages, and bookkeeper of what goes through the store."""

    def __init__(self, store: Store, workers: int, seed: int) -> None:
        """Publish the first weights, which all workers begin with."""
        self.store = store
        self.workers = workers
        self.offers: dict[int, dict[str, ObjectRef]] = {}
        self.use = StoreUse(capacity=store.capacity)
        self.began = time.monotonic()
        torch.manual_seed(seed)
        self.generator = Generator()
        discriminator = Discriminator()
        self.offered = self.generator.weights.nbytes + discriminator.weights.nbytes  # by a worker
        self._publish(GENERATOR, [self.generator.weights])
        self._publish(DISCRIMINATOR, [discriminator.weights])
        self._sample()

    def offer(self, worker: int, refs: dict[str, ObjectRef]) -> bool:
        """Take one worker's refs; after the last worker's publish the averages and say so."""
        self.offers[worker] = refs
        self.use.written += self.offered
        self._sample()
        if len(self.offers) < self.workers:
            return False
        offers = [self.offers[worker] for worker in sorted(self.offers)]
        for name in (GENERATOR, DISCRIMINATOR):
            self._average(name, [offer[name] for offer in offers])
        self.offers.clear()
        self.use.syncs += 1
        return True

    def finish(self) -> StoreUse:
        """Take the last generator out of the store, empty the store and look whether it is so."""
        with self.store.get(GENERATOR) as buf:
            np.copyto(self.generator.weights, buf.array)
        self.store.delete(GENERATOR)
        self.store.delete(DISCRIMINATOR)
        self._sample()
        self.use.objects_left = len(self.store)
        self.use.problems = [str(problem) for problem in self.store.check()]
        return self.use

    def _average(self, name: str, refs: Sequence[ObjectRef]) -> None:
        """Replace the average of one network by that of the offers, and delete those at once.

        Deleted before the other network's turn, they make room for its average.
        """
        with ExitStack() as pins:
            parts = [pins.enter_context(self.store.get(ref)).array for ref in refs]
            self.use.read += sum(part.nbytes for part in parts)
            self._publish(name, parts)
            del parts  # a view is a pin: while one lives, its block is not free for others
        for ref in refs:
            self.store.delete(ref)
        self._sample()

    def _publish(self, name: str, parts: Sequence[Weights]) -> None:
        """Write the mean of the parts straight into the store and swap it in under the name."""
        shape, dtype = parts[0].shape, parts[0].dtype
        with self.store.create(shape=shape, dtype=dtype, name=name, replace=True) as writer:
            mean = writer.array
            np.copyto(mean, parts[0])
            for part in parts[1:]:
                mean += part
            mean /= len(parts)
            self.use.written += mean.nbytes
            self.use.read += mean.nbytes * self.workers
            self._sample()  # the fullest moment: offers, the old average and the new one

    def _sample(self) -> None:
        seconds = time.monotonic() - self.began
        self.use.samples.append(Sample(seconds, self.store.stats().used, self.use.written))
