"""The weight traffic of a parameter server and its workers, without the maths.

Every few epochs each worker puts the weights of two models, the server averages what all of them
put straight into the store and publishes both averages under names that replace the last ones,
and each worker gets them. Everything older is deleted. So what the store holds after a sync must
be the same after the last as after the first; --baseline shows the store where it is not.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

import numpy as np

from refstore import ObjectRef, Store, StoreFullError
from stress.baseline.build import baseline_store
from stress.support import MIB, add_backend, fresh_name, parse_size, reaped, size, use_backend
from stress.weights import MODELS, WEIGHTS, Weights, average_into, averages, weight

_PATIENCE = 60.0  # seconds that a process waits for another's word
_FORK = multiprocessing.get_context("fork")

Keys = list[Any]  # what one side puts, the other gets


class Full(Exception):
    """No space is left for the weights of this sync."""


class Exchange(Protocol):
    """Calls that pass weights between the server and its workers, in one store or the other."""

    capacity: int

    def upload(self, weights: Sequence[Weights]) -> Keys: ...
    def average(self, uploads: Sequence[Keys]) -> Keys: ...
    def drop(self, uploads: Sequence[Keys]) -> None: ...
    def download(self, keys: Keys) -> list[float]: ...
    def used(self) -> int: ...
    def finish(self) -> list[str]: ...


class Refstore:
    """An exchange by reference: the server reads where the workers wrote."""

    def __init__(self, capacity: int) -> None:
        self._store = Store.temporary(capacity)
        self.capacity = capacity

    def upload(self, weights: Sequence[Weights]) -> Keys:
        try:
            return [self._store.put(array) for array in weights]
        except StoreFullError as error:
            raise Full(str(error)) from None

    def average(self, uploads: Sequence[Keys]) -> Keys:
        for name, refs in zip(MODELS, zip(*uploads, strict=True), strict=True):
            self._publish(name, refs)
        return list(MODELS)

    def drop(self, uploads: Sequence[Keys]) -> None:
        _delete_all(self._store, uploads)

    def _publish(self, name: str, refs: Sequence[ObjectRef]) -> None:
        pinned = [self._store.get(ref) for ref in refs]
        try:
            unsealed = self._store.create(shape=(WEIGHTS,), dtype="f4", name=name, replace=True)
        except StoreFullError as error:
            raise Full(str(error)) from None
        with unsealed as writer:
            average_into(writer.array, [buffer.array for buffer in pinned])
        for buffer in pinned:
            buffer.release()

    def download(self, keys: Keys) -> list[float]:
        found = []
        for name in keys:
            with self._store.get(name) as buffer:
                found.append(_constant(buffer.array))
        return found

    def used(self) -> int:
        return self._store.stats().used

    def finish(self) -> list[str]:
        """Problems that the store has once the last averages are deleted."""
        for name in self._store.names():
            self._store.delete(name)
        problems = self._store.check()
        if self._store.stats().used:
            problems.append(f"{self._store.stats().used} bytes are still used")
        self._store.close()
        return problems


class Baseline:
    """An exchange by copy, in the store that never gives space back."""

    def __init__(self, capacity: int) -> None:
        self._store = baseline_store()(fresh_name("epochs"), capacity)
        self.capacity = capacity
        self._puts = 0

    def _put(self, array: Weights) -> int:
        self._puts += 1
        key = os.getpid() << 32 | self._puts
        try:
            self._store.put(key, array)
        except MemoryError as error:
            raise Full(str(error)) from None
        return key

    def upload(self, weights: Sequence[Weights]) -> Keys:
        return [self._put(array) for array in weights]

    def average(self, uploads: Sequence[Keys]) -> Keys:
        found = []
        for keys in zip(*uploads, strict=True):
            copies = [np.frombuffer(self._store.get(key), np.float32) for key in keys]
            found.append(self._put(np.mean(copies, axis=0, dtype=np.float32)))
        return found

    def drop(self, uploads: Sequence[Keys]) -> None:
        _delete_all(self._store, uploads)

    def download(self, keys: Keys) -> list[float]:
        return [_constant(np.frombuffer(self._store.get(key), np.float32)) for key in keys]

    def used(self) -> int:
        return self._store.used()

    def finish(self) -> list[str]:
        self._store.close()
        self._store.unlink()
        return []


def _delete_all(store: Any, uploads: Sequence[Keys]) -> None:
    for keys in uploads:
        for key in keys:
            store.delete(key)


def _constant(array: Weights) -> float:
    """The value that all of an array's elements have."""
    if not (array == array[0]).all():
        raise AssertionError("an average holds something that nobody put")
    return float(array[0])


def serve_as_worker(exchange: Exchange, server: Connection, index: int) -> None:
    """Works as one worker, sync after sync, until told to stop."""
    arrays = [np.empty(WEIGHTS, np.float32) for _ in MODELS]
    while (sync := server.recv()) is not None:
        for model, array in enumerate(arrays):
            array.fill(weight(index, sync, model))
        try:
            server.send(exchange.upload(arrays))
        except Full as full:
            server.send(str(full))
            continue
        server.send(exchange.download(server.recv()))


def synchronise(exchange: Exchange, workers: Sequence[Connection], sync: int) -> int:
    """Runs one sync. Bytes used at its height; Full, or AssertionError for wrong weights."""
    for worker in workers:
        worker.send(sync)
    uploads = [_hear(worker) for worker in workers]
    full = [answer for answer in uploads if isinstance(answer, str)]
    if full:
        raise Full(full[0])
    keys = exchange.average(uploads)
    height = exchange.used()
    exchange.drop(uploads)
    for worker in workers:
        worker.send(keys)
    expected = averages(range(len(workers)), sync)
    for worker in workers:
        if (found := _hear(worker)) != expected:
            raise AssertionError(f"a worker got {found} where the average is {expected}")
    return height


def _hear(worker: Connection) -> Any:
    if not worker.poll(_PATIENCE):
        raise AssertionError(f"a worker was silent for {_PATIENCE:.0f} s")
    try:
        return worker.recv()
    except EOFError:
        raise AssertionError("a worker died") from None


def run(
    exchange: Exchange, options: argparse.Namespace, occupancy: list[int] | None = None
) -> list[int]:
    """Runs all epochs and prints as it goes; the bytes used after each sync.

    A caller that hands in the list for them still has it when Full is raised.
    """
    children: list[BaseProcess] = []
    workers: list[Connection] = []
    syncs = range(options.sync_every, options.epochs + 1, options.sync_every)
    shown = set(syncs[:3]) | {syncs[i * (len(syncs) - 1) // 15] for i in range(16)}
    occupancy = [] if occupancy is None else occupancy
    with reaped(children):
        for index in range(options.workers):
            # The parent keeps one end only, so that it hears of a worker's death at once.
            ours, theirs = _FORK.Pipe()
            child = _FORK.Process(target=serve_as_worker, args=(exchange, theirs, index))
            child.start()
            theirs.close()
            children.append(child)
            workers.append(ours)
        for sync, epoch in enumerate(syncs):
            try:
                height = synchronise(exchange, workers, sync)
            except Full as full:
                raise Full(f"full at epoch {epoch}: {full}") from None
            occupancy.append(exchange.used())
            if epoch in shown:
                print(line(epoch, occupancy[-1], height, exchange.capacity), flush=True)
        for worker in workers:
            worker.send(None)
    return occupancy


def line(epoch: int, used: int, height: int, capacity: int) -> str:
    """One line of the picture of occupancy over time."""
    bar = "#" * round(40 * used / capacity)
    return f"epoch {epoch:4}  {bar:40}  {size(used)} used, {size(height)} during the sync"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sync-every", type=int, default=5, help="epochs between two syncs")
    parser.add_argument("--capacity", type=parse_size, default=64 * MIB)
    add_backend(parser)
    parser.add_argument("--baseline", action="store_true", help="in the store that was replaced")
    options = parser.parse_args()
    if options.epochs < options.sync_every:
        parser.error("--epochs must allow at least one sync")
    return options


def main() -> int:
    options = arguments()
    use_backend(options.backend)
    exchange: Exchange
    exchange = Baseline(options.capacity) if options.baseline else Refstore(options.capacity)
    problems: list[str] = []
    try:
        occupancy = run(exchange, options)
        if not options.baseline and max(occupancy) > occupancy[0]:
            problems.append(f"occupancy grew from {occupancy[0]} to {max(occupancy)} bytes")
    except Full as full:
        if options.baseline:
            print(f"the old store is {full}")
        else:
            problems.append(str(full))
    finally:
        problems += exchange.finish()
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems and not options.baseline:
        print(f"{len(occupancy)} syncs, occupancy is flat, nothing is left")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
