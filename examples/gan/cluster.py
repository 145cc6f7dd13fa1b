"""Training by workers on the nodes of a Ray cluster; this process is their parameter server.

As `distributed`, with three differences: the workers are Ray's actors, an average is published to
all nodes instead of put under a name, and weights are offered by refs that are good on every node.
"""

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import ray
import torch
from tqdm import tqdm

import refstore.ray
from examples.cluster import nodes
from examples.gan import data
from examples.gan.messages import DISCRIMINATOR, GENERATOR
from examples.gan.models import Discriminator, Generator, Weights
from examples.gan.result import Result, Sample, StoreUse
from examples.gan.settings import Settings
from examples.gan.training import Losses, Trainer
from refstore.ray import ClusterRef

NAMES = (GENERATOR, DISCRIMINATOR)
KEPT = 2 * len(NAMES)  # objects of each node: of a version, the weights, and the number


class Worker:
    """One shard and its trainer, on some node."""

    def __init__(self, number: int, settings: Settings) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(settings.seed + 1 + number)
        self.cluster = refstore.ray.connect()
        self.trainer = Trainer(*data.load(settings.seed, number, settings.workers))
        self.networks = dict(
            zip(NAMES, (self.trainer.generator, self.trainer.discriminator), strict=True)
        )

    def load(self, versions: dict[str, int]) -> None:
        """Copy the averages straight from this node's shared memory into the parameters."""
        for name, version in versions.items():
            with self.cluster.wait(name, newer_than=version - 1).buf as buf:
                np.copyto(self.networks[name].weights, buf.array)

    def train(self, epochs: int) -> tuple[list[Losses], dict[str, ClusterRef]]:
        losses = [self.trainer.epoch() for _ in range(epochs)]
        return losses, {n: self.cluster.put(one.weights) for n, one in self.networks.items()}


class ParameterServer:
    """Averages what the workers offer, and publishes that."""

    def __init__(self, cluster: refstore.ray.Cluster, settings: Settings) -> None:
        self.cluster = cluster
        self.began = time.monotonic()
        self.use = StoreUse(capacity=cluster.store.capacity)
        torch.manual_seed(settings.seed)
        self.generator = Generator()
        first = {GENERATOR: self.generator.weights, DISCRIMINATOR: Discriminator().weights}
        self.versions = {name: self._publish(name, [first[name]]) for name in NAMES}

    def average(self, offers: list[dict[str, ClusterRef]]) -> None:
        for name in NAMES:
            with ExitStack() as pins:
                refs = [offer[name] for offer in offers]
                parts = [pins.enter_context(self.cluster.get(ref)).array for ref in refs]
                self.use.read += sum(part.nbytes for part in parts)
                self.versions[name] = self._publish(name, parts)
                del parts  # a view is a pin: while one lives, its block is not free for others
            for ref in refs:
                self.use.written += ref.nbytes
                self.cluster.delete(ref)
        self.use.syncs += 1

    def finish(self) -> StoreUse:
        """Take the last generator, empty this node's store and look whether all are so."""
        with self.cluster.latest(GENERATOR).buf as buf:
            np.copyto(self.generator.weights, buf.array)
        self.use.objects_left = sum(one.objects - KEPT for one in self.cluster.nodes())
        self.cluster.store.clear()
        self._sample()
        self.use.objects_left += len(self.cluster.store)
        self.use.problems = [str(problem) for problem in self.cluster.store.check()]
        return self.use

    def _publish(self, name: str, parts: list[Weights]) -> int:
        mean = np.mean(parts, axis=0, dtype=parts[0].dtype)
        self.use.written += mean.nbytes
        version = self.cluster.publish(name, mean).version
        self._sample()
        return version

    def _sample(self) -> None:
        seconds = time.monotonic() - self.began
        self.use.samples.append(Sample(seconds, self.cluster.store.stats().used, self.use.written))


def train(settings: Settings, address: str | None) -> Result:
    """Train on the cluster of that address, or on two nodes that are made on this machine."""
    torch.set_num_threads(1)
    with nodes(address):
        cluster = refstore.ray.start(settings.capacity)
        try:
            return _train(cluster, settings)
        finally:
            cluster.stop()


def _train(cluster: refstore.ray.Cluster, settings: Settings) -> Result:
    began = time.monotonic()
    server = ParameterServer(cluster, settings)
    actor: Any = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(Worker)
    workers = [actor.remote(number, settings) for number in range(settings.workers)]
    ray.get([worker.load.remote(server.versions) for worker in workers])
    started = time.monotonic()
    losses: list[list[Losses]] = [[] for _ in workers]
    with tqdm(total=settings.epochs, unit="epoch") as bar:
        for done in range(0, settings.epochs, settings.sync_every):
            count = min(settings.sync_every, settings.epochs - done)
            told = ray.get([worker.train.remote(count) for worker in workers])
            for mine, (new, _) in zip(losses, told, strict=True):
                mine += new
            server.average([offer for _, offer in told])
            ray.get([worker.load.remote(server.versions) for worker in workers])
            bar.set_postfix_str(losses[0][-1].text(), refresh=False)
            bar.update(count)
    return Result(
        startup=started - began,
        seconds=time.monotonic() - started,
        losses=np.array(losses),
        generator=server.generator,
        store=server.finish(),
    )
