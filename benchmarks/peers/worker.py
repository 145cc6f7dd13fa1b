"""The process in which an adapter lives. Started by `host.py` with the peer's own interpreter.

`python -m benchmarks.peers.worker PEER DESCRIPTOR` serves orders from that socket until it closes:
each is the name of a method of `Worker` and its arguments, each answer a word and a value.
"""

import gc
import os
import pickle
import random
import resource
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.churn import Churn
from benchmarks.peers import timing
from benchmarks.peers.footprint import footprint
from benchmarks.peers.protocol import Cannot, Peer
from benchmarks.peers.registry import adapter
from benchmarks.peers.sync import Part
from stress import loops, measure

_BATCH = 100  # operations between two looks at the clock
_HOT = "hot", 0  # no loop of a size
_RETRY = 0.0005  # seconds between two tries of a put into a full store


class Worker:
    """Orders that a peer's process obeys."""

    def __init__(self, kind: type[Peer]) -> None:
        self._kind = kind
        self._open = False
        self._kept: list[Any] = []
        self._held: list[Any] = []  # views that pin
        self._data: dict[int, bytes] = {}
        self._loops: dict[tuple[str, int], measure.Loop] = {}
        self._lengths: dict[tuple[str, int], int] = {}

    def create(self, capacity: int, folder: str, core: int) -> bytes:
        """Makes the store; the handle that others attach by."""
        self._peer = self._kind.create(capacity, folder)
        self._pin_to(0, core)
        return pickle.dumps(self._peer.handle())

    def attach(self, handle: bytes, index: int, core: int) -> float:
        """Attaches to the store; seconds that it took."""
        began = time.perf_counter()
        self._peer = self._kind.attach(pickle.loads(handle))
        taken = time.perf_counter() - began
        self._pin_to(index, core)
        return taken

    def _pin_to(self, index: int, core: int) -> None:
        # Only now: a server that the adapter started is to run where it likes.
        os.sched_setaffinity(0, {core})
        self._part = Part(self._peer, index)
        self._open = True

    def prepare(self, nbytes: int, source: int) -> None:
        self._peer.prepare(nbytes, source)
        self._loops = {known: loop for known, loop in self._loops.items() if known == _HOT}

    def _payload(self, nbytes: int) -> bytes:
        if nbytes not in self._data:
            self._data[nbytes] = loops.payload(nbytes)
        return self._data[nbytes]

    # --- time

    def batches(self, nbytes: int, seconds: float) -> timing.Times:
        return timing.batches(self._peer, self._payload(nbytes), seconds)

    def put_many(self, nbytes: int, count: int) -> list[bytes]:
        data = self._payload(nbytes)
        return [self._peer.pack(self._peer.put(data)) for _ in range(count)]

    def first_gets(self, packed: list[bytes]) -> float:
        return timing.first_gets(self._peer, [self._peer.unpack(key) for key in packed])

    def delete_many(self, packed: list[bytes]) -> None:
        for key in packed:
            self._peer.delete(self._peer.unpack(key))

    def learn(self, packed: bytes) -> None:
        """Takes the key of the object that all processes get."""
        self._loops[_HOT] = loops.gets(self._peer, self._peer.unpack(packed))
        self._lengths.pop(_HOT, None)

    def window(self, loop: str, nbytes: int, start: float, seconds: float) -> float:
        """Turns per second."""
        wanted = loop, nbytes
        if wanted not in self._loops:
            self._loops[wanted] = self._loop(loop, nbytes)
        length = self._lengths.get(wanted, 1)
        speed, self._lengths[wanted] = measure.window(self._loops[wanted], start, seconds, length)
        return speed

    def _loop(self, loop: str, nbytes: int) -> measure.Loop:
        data = self._payload(nbytes)
        if loop == "puts":
            return loops.puts(self._peer, data)
        if "hot" in self._peer.cannot:
            return loops.cycles_without_delete(self._peer, data)
        return loops.cycles(self._peer, data)

    # --- space

    def fill(self, nbytes: int, seconds: float) -> tuple[int, bool]:
        """Puts until the store is full or that time is over; how many, and True if it is full."""
        data, put, kept = self._payload(nbytes), self._peer.put, self._kept
        end = time.perf_counter() + seconds
        before = len(kept)
        try:
            while time.perf_counter() < end:
                kept.append(put(data))
                if self._peer.evicts:
                    self._held.append(self._peer.get(kept[-1]))
                    self._held[-1].__enter__()
        except self._kind.full:
            return len(kept) - before, True
        return len(kept) - before, False

    def refusal(self, nbytes: int) -> float:
        """Seconds until a full store says so."""
        data = self._payload(nbytes)
        began = time.perf_counter()
        try:
            self._peer.delete(self._peer.put(data))
        except self._kind.full:
            return time.perf_counter() - began
        raise Cannot("it did not refuse")

    def drop(self, share: float) -> None:
        """Deletes that share of what was filled in, in random order."""
        self._let_go()
        random.Random(1).shuffle(self._kept)
        for _ in range(round(len(self._kept) * share)):
            self._peer.delete(self._kept.pop())

    def _let_go(self) -> None:
        for view in self._held:
            view.__exit__(None, None, None)
        self._held.clear()

    def keep(self, nbytes: int, count: int) -> None:
        data = self._payload(nbytes)
        self._kept += [self._peer.put(data) for _ in range(count)]

    def footprint(self) -> int:
        gc.collect()
        return footprint(os.getpid()) + self._peer.unmapped(self._kept)

    def mixed(self, sizes: list[int], limit: int, operations: int, seconds: float) -> Any:
        """Churns random sizes; operations done, seconds, puts refused."""
        churn = Churn(self._peer, sizes, seed=1)
        refused = 0
        began = time.perf_counter()
        while (left := operations - churn.operations - refused) > 0:
            if time.perf_counter() - began > seconds:
                break
            try:
                churn.run(limit, min(_BATCH, left))
            except self._kind.full:
                refused += 1
        taken = time.perf_counter() - began
        churn.clear()
        return churn.operations + refused, taken, refused

    # --- a sync of a parameter server

    def upload(self, sync: int) -> list[bytes]:
        return self._part.upload(sync)

    def average(self, uploads: list[list[bytes]]) -> list[bytes]:
        return self._part.average(uploads)

    def download(self, keys: list[bytes]) -> list[float]:
        return self._part.download(keys)

    # --- death

    def hold(self, packed: bytes) -> None:
        """Gets it and never lets go."""
        held = self._peer.get(self._peer.unpack(packed))
        self._held.append((held, held.__enter__()))

    def begin(self, nbytes: int) -> None:
        """Starts to write an object and never ends."""
        if type(self._peer).writer is Peer.writer:
            raise Cannot("a put is one call, and nothing of it is seen before")
        writer = self._peer.writer(nbytes)
        self._held.append((writer, writer.__enter__()))

    def until_fits(self, nbytes: int, since: float, timeout: float) -> float | None:
        """Seconds from then until an object of that size could be put; None if it never could."""
        data = self._payload(nbytes)
        while True:
            self._peer.reclaim()
            try:
                key = self._peer.put(data)
            except self._kind.full:
                if time.perf_counter() - since > timeout:
                    return None
                time.sleep(_RETRY)
                continue
            taken = time.perf_counter() - since
            self._peer.delete(key)
            return taken

    def close(self) -> None:
        """Closes the store, once: by order, or when the driver is gone."""
        if self._open:
            self._open = False
            self._let_go()
            self._loops.clear()
            self._peer.close()


def serve(worker: Worker, orders: Connection) -> None:
    """Obeys orders until the driver hangs up."""
    while True:
        try:
            name, arguments = orders.recv()
        except EOFError:
            return
        try:
            orders.send(("done", getattr(worker, name)(*arguments)))
        except Cannot as reason:
            orders.send(("cannot", str(reason)))
        except Exception:
            orders.send(("failed", traceback.format_exc()))


def main() -> int:
    # Control-C is for the driver, which then ends its peers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, descriptor = sys.argv[1:]
    gc.disable()
    # Some peers have a file open for each object.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    worker = Worker(adapter(name))
    try:
        serve(worker, Connection(int(descriptor)))
    finally:
        worker.close()  # a driver that was killed leaves no server behind
    return 0


if __name__ == "__main__":
    sys.exit(main())
