"""Training by several worker processes; this process is their parameter server."""

import time

import numpy as np
import torch
from tqdm import tqdm

from examples.gan.endings import RunFailed
from examples.gan.messages import EpochDone, Message, Offer, Ready
from examples.gan.processes import Workers
from examples.gan.result import MIB, Result
from examples.gan.server import ParameterServer
from examples.gan.settings import Settings
from examples.gan.training import Losses
from refstore import RefstoreError, Store


class Session:
    """One run: what each worker has said so far, and what that makes the server do."""

    def __init__(
        self, server: ParameterServer, workers: Workers, settings: Settings, bar: "tqdm[None]"
    ) -> None:
        self.server = server
        self.workers = workers
        self.bar = bar
        self.ready = 0
        self.losses: list[list[Losses]] = [[] for _ in range(settings.workers)]
        self.started = self.ended = time.monotonic()

    def run(self) -> None:
        for number, message in self.workers.messages():
            self._handle(number, message)

    def _handle(self, number: int, message: Message) -> None:
        match message:
            case Ready():
                self.ready += 1
                if self.ready == len(self.losses):
                    self.started = time.monotonic()
                    self.bar.unpause()
                    self.workers.go()
            case EpochDone(losses):
                self.losses[number].append(losses)
                self._progress(losses)
            case Offer(refs):
                if self.server.offer(number, refs):
                    self.workers.go()
                    self.ended = time.monotonic()

    def _progress(self, losses: Losses) -> None:
        use = self.server.use
        used = f"store {use.samples[-1].used / MIB:.0f} of {use.capacity / MIB:.0f} MiB"
        self.bar.set_postfix_str(f"{losses.text()}, {used}", refresh=False)
        self.bar.update()


def train(settings: Settings) -> Result:
    torch.set_num_threads(1)
    try:
        with _store(settings.capacity) as store:
            return _train(settings, store)
    except RefstoreError as error:
        raise RunFailed(f"the server failed: {error}") from error


def _store(capacity: str) -> Store:
    try:
        return Store.temporary(capacity=capacity)
    except ValueError as error:
        raise RunFailed(f"no store of capacity {capacity!r}: {error}") from error


def _train(settings: Settings, store: Store) -> Result:
    began = time.monotonic()
    server = ParameterServer(store, settings.workers, settings.seed)
    total = settings.epochs * settings.workers
    with Workers() as workers, tqdm(total=total, unit="epoch") as bar:
        workers.start(settings, store)
        session = Session(server, workers, settings, bar)
        session.run()
    return Result(
        startup=session.started - began,
        seconds=session.ended - session.started,
        losses=np.array(session.losses),
        generator=server.generator,
        store=server.finish(),
    )
