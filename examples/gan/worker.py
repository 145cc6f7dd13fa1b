"""A worker process: trains on its shard, puts its weights in the store, gets the averages."""

import sys
import traceback
from multiprocessing.connection import Connection

import numpy as np
import torch

from examples.gan import data
from examples.gan.messages import DISCRIMINATOR, GENERATOR, EpochDone, Failed, Offer, Ready
from examples.gan.models import Network
from examples.gan.settings import Settings
from examples.gan.training import Trainer
from refstore import Store


class Worker:
    """One shard, its trainer, and its two ends: the store for weights, the pipe for the rest."""

    def __init__(self, number: int, settings: Settings, store: Store, server: Connection) -> None:
        self.settings = settings
        self.store = store
        self.server = server
        torch.manual_seed(settings.seed + 1 + number)
        self.trainer = Trainer(*data.load(settings.seed, number, settings.workers))
        self.networks: dict[str, Network] = {
            GENERATOR: self.trainer.generator,
            DISCRIMINATOR: self.trainer.discriminator,
        }

    def run(self) -> None:
        self._load()
        self.server.send(Ready())
        self.server.recv()
        for epoch in range(1, self.settings.epochs + 1):
            self.server.send(EpochDone(self.trainer.epoch()))
            if self.settings.syncs_after(epoch):
                self._offer()
                self.server.recv()
                self._load()

    def _offer(self) -> None:
        refs = {name: self.store.put(net.weights) for name, net in self.networks.items()}
        self.server.send(Offer(refs))

    def _load(self) -> None:
        """Copy the averages straight from shared memory into the parameters."""
        for name, network in self.networks.items():
            with self.store.get(name) as buf:
                np.copyto(network.weights, buf.array)


def main(number: int, settings: Settings, store: Store, server: Connection) -> None:
    """Run a worker as a process of its own; exit 1 if it could not do all of its epochs."""
    torch.set_num_threads(1)
    try:
        with store:
            Worker(number, settings, store, server).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(1)  # the server is gone, and there is nobody to tell
    except Exception as error:
        server.send(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))
        sys.exit(1)
