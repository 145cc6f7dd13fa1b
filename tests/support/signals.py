"""Signals that come while a thread lets others run: in a wait, or a copy.

A thread that is about to wait cannot say so when it does, since it has the interpreter until then.
So others are kept from running until it lets go of that: by a switch interval beyond the test.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import helpers


@contextlib.contextmanager
def only_who_waits_lets_others_run() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2 * helpers.BUSY_TIMEOUT)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def handler(signo: int, handle: Callable[..., object]) -> Iterator[None]:
    before = signal.signal(signo, handle)
    try:
        yield
    finally:
        signal.signal(signo, before)


@contextlib.contextmanager
def sent_while_waiting() -> Iterator[list[str]]:
    """This thread gets a SIGUSR1 as soon as it lets others run; what has happened, in order."""
    happened: list[str] = []
    me, ready = threading.get_ident(), threading.Lock()
    ready.acquire()

    def send() -> None:
        with ready:
            happened.append("sent")
            signal.pthread_kill(me, signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    ready.release()
    try:
        yield happened
    finally:
        thread.join(helpers.BUSY_TIMEOUT)
        assert not thread.is_alive()
