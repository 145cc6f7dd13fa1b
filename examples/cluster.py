"""The parameter server of `examples.parameters` on the nodes of a Ray cluster.

    python -m examples.cluster                       on this machine, as two nodes
    python -m examples.cluster --address auto        on the cluster that this machine belongs to

What changes is where the workers run and three calls: the weights are published, a worker waits for
the next version in its own node's store, and a gradient is a ref that is good on every node.
"""

import argparse
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

import refstore.ray
from examples.parameters import RATE, STEPS, TRUTH, WORKERS


class Worker:
    """One worker's process: a gradient for each version of the weights."""

    def __init__(self, seed: int) -> None:
        self.cluster = refstore.ray.connect()
        self.inputs = np.random.default_rng(seed).standard_normal((2000, len(TRUTH)))

    def gradient(self, version: int) -> refstore.ray.ClusterRef:
        with self.cluster.wait("weights", newer_than=version - 1).buf as buf:
            gradient = self.inputs.T @ (self.inputs @ (buf.array - TRUTH)) / len(self.inputs)
        return self.cluster.put(gradient)


def step(cluster: refstore.ray.Cluster, workers: list[Any], version: int) -> int:
    refs = ray.get([worker.gradient.remote(version) for worker in workers])
    with ExitStack() as pins, cluster.latest("weights").buf as weights:
        gradients = [pins.enter_context(cluster.get(ref)).array for ref in refs]
        new = weights.array - RATE * np.mean(gradients, axis=0)
    for ref in refs:
        cluster.delete(ref)
    return cluster.publish("weights", new).version


def train() -> None:
    cluster = refstore.ray.start("64MiB")
    actor: Any = ray.remote(scheduling_strategy="SPREAD")(Worker)
    workers = [actor.remote(seed) for seed in range(WORKERS)]
    version = cluster.publish("weights", np.zeros_like(TRUTH)).version
    for _ in range(STEPS):
        version = step(cluster, workers, version)
    with cluster.latest("weights").buf as buf:
        print(f"after {STEPS} steps off by {np.abs(buf.array - TRUTH).max():.1e} at most")
    print(f"objects brought to each node: {[one.pulls for one in cluster.nodes()]}")
    cluster.stop()


@contextmanager
def nodes(address: str | None) -> Iterator[None]:
    """The Ray cluster of an address; without one, two nodes that are made on this machine."""
    here: Any = None
    if address is None:
        here = Cluster()
        for _ in range(2):
            here.add_node(num_cpus=2, object_store_memory=100_000_000)
        address = here.address
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
        if here is not None:
            here.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.cluster")
    parser.add_argument("--address", help="of a Ray cluster; by default two nodes are made here")
    with nodes(parser.parse_args().address):
        train()


if __name__ == "__main__":
    main()
