"""A link that hands each frame on some time after it came, for kernels without netem.

Its ends are two TAP devices of this machine. It keeps the order of frames, and loses them only
where a device is down or its queue is full.
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

TUN = "/dev/net/tun"
# of linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME = 65536  # bytes, more than any frame has
TURN = 100  # frames that are read of one end before those that are due are looked for


def is_possible() -> bool:
    return os.access(TUN, os.R_OK | os.W_OK)


@contextlib.contextmanager
def between(one: str, other: str, seconds: float) -> Iterator[None]:
    """Make both devices, and hand on between them what comes meanwhile."""
    with contextlib.ExitStack() as opened:
        ends = []
        for name in (one, other):
            ends.append(tap(name))
            opened.callback(os.close, ends[-1])  # which removes the device
        stopped, stop = os.pipe()
        opened.callback(os.close, stopped)
        thread = threading.Thread(target=hand_on, args=(*ends, stopped, seconds))
        thread.start()
        opened.callback(thread.join)
        opened.callback(os.close, stop)  # the first to be called
        yield


def tap(name: str) -> int:
    """A descriptor whose reads and writes are the frames of a new device."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        flags = IFF_TAP | IFF_NO_PI
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def hand_on(one: int, other: int, stopped: int, seconds: float) -> None:
    """Hand frames on until `stopped` can be read."""
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()  # earliest first
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([one, other, stopped], [], [], left)
        if stopped in ready:
            return
        for end in ready:
            with contextlib.suppress(BlockingIOError):
                for _ in range(TURN):
                    frame = os.read(end, FRAME)
                    due = time.monotonic() + seconds
                    waiting.append((due, other if end == one else one, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # a device that is down takes nothing
                os.write(end, frame)
