"""One process's part in a sync of a parameter server, the same for every peer.

The arithmetic is in place: in the store where the peer lets its memory be written to, else in
private memory that is put when it is full.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.peers.protocol import Peer
from stress.weights import MODELS, WEIGHTS, average_into, weight

Keys = list[bytes]


class Part:
    """The part of a worker, or of the server."""

    def __init__(self, peer: Peer, index: int) -> None:
        self._peer = peer
        self._index = index
        self._own = [np.ones(WEIGHTS, np.float32) for _ in MODELS]

    def upload(self, sync: int) -> Keys:
        """Puts the weights of a worker."""
        keys = []
        for model, array in enumerate(self._own):
            array.fill(weight(self._index, sync, model))
            keys.append(self._peer.pack(self._peer.put(memoryview(array).cast("B"))))  # type: ignore[arg-type]
        return keys

    def average(self, uploads: Sequence[Keys]) -> Keys:
        """Does the server's work: puts the mean of what all workers put, for each model."""
        return [self._mean(keys) for keys in zip(*uploads, strict=True)]

    def _mean(self, packed: Sequence[bytes]) -> bytes:
        held = [self._peer.get(self._peer.unpack(key)) for key in packed]
        views = [np.frombuffer(one.__enter__(), np.float32, WEIGHTS) for one in held]
        writer = self._peer.writer(WEIGHTS * 4)
        with writer as memory:
            average_into(np.frombuffer(memory, np.float32, WEIGHTS), views)
            del memory
        del views  # no view may be left when what it shows is let go
        for one in held:
            one.__exit__(None, None, None)
        return self._peer.pack(writer.key)

    def download(self, packed: Keys) -> list[float]:
        """Copies the averages for a worker; the first and last weight of each."""
        found = []
        for key, array in zip(packed, self._own, strict=True):
            with self._peer.get(self._peer.unpack(key)) as view:
                np.copyto(array, np.frombuffer(view, np.float32, WEIGHTS))
            found += [float(array[0]), float(array[-1])]
        return found
