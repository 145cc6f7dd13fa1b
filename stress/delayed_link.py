"""A link that hands each frame on some time after it came, for kernels without netem.

Two TAP devices of this machine are its ends. It loses nothing, and changes no order.
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import threading
import time
from collections.abc import Iterator

# of linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME = 65536  # bytes, more than any frame has


@contextlib.contextmanager
def between(one: str, other: str, seconds: float) -> Iterator[None]:
    """Make both devices, and hand on between them what comes meanwhile."""
    ends = (tap(one), tap(other))
    stopped, stop = os.pipe()
    thread = threading.Thread(target=hand_on, args=(ends, stopped, seconds), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(stop)
        thread.join()
        for descriptor in (*ends, stopped):
            os.close(descriptor)  # which removes the device


def tap(name: str) -> int:
    """A descriptor whose reads and writes are the frames of a new device."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        flags = IFF_TAP | IFF_NO_PI
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def hand_on(ends: tuple[int, int], stopped: int, seconds: float) -> None:
    """Until `stopped` can be read."""
    opposite = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()  # by their time
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*ends, stopped], [], [], left)
        if stopped in ready:
            return
        due = time.monotonic() + seconds
        for end in ready:
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append((due, opposite[end], os.read(end, FRAME)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # a device that is down takes nothing
                os.write(end, frame)
