"""The timed batches, the same for every peer: nothing but its own put, get and delete."""

import time
from collections.abc import Sequence
from itertools import repeat

from benchmarks.peers.protocol import Key, Peer

Times = tuple[float, float, float]  # seconds of a put, a get and a delete

_BATCH = 64
_BATCH_BYTES = 4 << 20  # in a batch: it must fit the caches that a real program has left
_CLOCKS = 1000


def batch_size(nbytes: int) -> int:
    """Objects that are put before the first of them is got."""
    return min(_BATCH, max(1, _BATCH_BYTES // nbytes))


def batch(peer: Peer, data: bytes, count: int) -> Times:
    """Puts so many objects, gets each, and deletes each."""
    put, get, delete, clock = peer.put, peer.get, peer.delete, time.perf_counter
    began = clock()
    keys = [put(data) for _ in repeat(None, count)]
    were_put = clock()
    for key in keys:
        with get(key):
            pass
    were_got = clock()
    for key in keys:
        delete(key)
    done = clock()
    return were_put - began, were_got - were_put, done - were_got


def batches(peer: Peer, data: bytes, seconds: float) -> Times:
    """Runs batches for about that long; seconds of one operation, less the clock's own."""
    count = batch_size(len(data))
    putting = getting = deleting = 0.0
    turns = 0
    end = time.perf_counter() + seconds
    while turns == 0 or time.perf_counter() < end:
        put, get, delete = batch(peer, data, count)
        putting, getting, deleting = putting + put, getting + get, deleting + delete
        turns += 1
    clock = _clock() / count
    each = turns * count
    return putting / each - clock, getting / each - clock, deleting / each - clock


def _clock() -> float:
    """Seconds of one look at the clock."""
    clock = time.perf_counter
    best = 1.0
    for _ in repeat(None, _CLOCKS):
        before = clock()
        best = min(best, clock() - before)
    return best


def first_gets(peer: Peer, keys: Sequence[Key]) -> float:
    """Seconds to get an object that this process has not seen before, and to read a byte of it."""
    get = peer.get
    began = time.perf_counter()
    for key in keys:
        with get(key) as view:
            memoryview(view)[0]
    return (time.perf_counter() - began - _clock()) / len(keys)
