"""One process's part in the traffic of a parameter server, the same for every peer.

The arithmetic is in place: into the store where the peer has room to write to, else into private
memory that is put when it is full.
"""

from collections.abc import Sequence

import numpy as np

from stress.peers.protocol import Peer

MODELS = 2
WEIGHTS = 1_250_000  # float32 each: 5 MB a model

Keys = list[bytes]


def weight(worker: int, sync: int, model: int) -> float:
    """What a worker fills a model with: whole numbers, so that averages of floats are exact."""
    return float(worker * 8 + sync % 1000 * 64 + model)


class Part:
    """A worker's, or the server's."""

    def __init__(self, peer: Peer, index: int) -> None:
        self._peer = peer
        self._index = index
        self._own = [np.ones(WEIGHTS, np.float32) for _ in range(MODELS)]

    def upload(self, sync: int) -> Keys:
        """What a worker has learnt, into the store."""
        keys = []
        for model, array in enumerate(self._own):
            array.fill(weight(self._index, sync, model))
            keys.append(self._peer.pack(self._peer.put(memoryview(array).cast("B"))))  # type: ignore[arg-type]
        return keys

    def average(self, uploads: Sequence[Keys]) -> Keys:
        """The server's work: of each model, the mean of what all workers put."""
        return [self._mean(keys) for keys in zip(*uploads, strict=True)]

    def _mean(self, packed: Sequence[bytes]) -> bytes:
        held = [self._peer.get(self._peer.unpack(key)) for key in packed]
        views = [np.frombuffer(one.__enter__(), np.float32, WEIGHTS) for one in held]
        room = self._peer.room(WEIGHTS * 4)
        with room as memory:
            total = np.frombuffer(memory, np.float32, WEIGHTS)
            np.copyto(total, views[0])
            for view in views[1:]:
                np.add(total, view, out=total)
            np.divide(total, np.float32(len(views)), out=total)
            del total, memory
        del views, view  # no view may be left when what it shows is let go
        for one in held:
            one.__exit__(None, None, None)
        return self._peer.pack(room.key)

    def drop(self, packed: Keys) -> None:
        """Nobody needs these any more."""
        for key in packed:
            self._peer.delete(self._peer.unpack(key))

    def download(self, packed: Keys) -> list[float]:
        """A worker takes the averages over; the first and last weight of each."""
        found = []
        for key, array in zip(packed, self._own, strict=True):
            with self._peer.get(self._peer.unpack(key)) as view:
                np.copyto(array, np.frombuffer(view, np.float32, WEIGHTS))
            found += [float(array[0]), float(array[-1])]
        return found
