"""The timed loops, the same for every peer: nothing but its own put, get and delete."""

import time
from collections.abc import Callable, Sequence
from itertools import repeat

from stress.peers.protocol import Key, Peer

Loop = Callable[[int], object]  # runs what is measured n times
Times = tuple[float, float, float]  # seconds of a put, a get and a delete

_BATCH = 64
_BATCH_BYTES = 4 << 20  # in a batch: it must fit the caches that a real program has left
_LOOK = 0.0005  # seconds of work between two looks at the clock
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
    """Batch after batch, for about that long; seconds of one operation, less the clock's own."""
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
    """Seconds that one look at the clock takes."""
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


def hot(peer: Peer, key: Key) -> Loop:
    """One object again and again."""
    get = peer.get

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with get(key):
                pass

    return run


def cycles(peer: Peer, data: bytes) -> Loop:
    """Put, get, delete."""
    put, get, delete = peer.put, peer.get, peer.delete

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            key = put(data)
            with get(key):
                pass
            delete(key)

    return run


def cycles_without_delete(peer: Peer, data: bytes) -> Loop:
    """The same of a peer whose get takes the object out."""
    put, get = peer.put, peer.get

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with get(put(data)):
                pass

    return run


def puts(peer: Peer, data: bytes) -> Loop:
    """Put and delete."""
    put, delete = peer.put, peer.delete

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            delete(put(data))

    return run


def window(loop: Loop, start: float, seconds: float, length: int) -> tuple[float, int]:
    """Turns per second from a common start on, and the turns to make between two looks.

    Where there are more processes than cores, one that has to wait for its turn on a core so
    counts the wait as well, and the sum is what was reached.
    """
    if (early := start - time.perf_counter()) > 0:
        time.sleep(early)
    turns = 0
    now = time.perf_counter()
    while now - start < seconds or not turns:
        loop(length)
        turns += length
        before, now = now, time.perf_counter()
        if now - before < _LOOK:
            length *= 2
    return turns / (now - start), length
