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
from types import FrameType

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


def comes_amid_a_change(frame: FrameType | None) -> bool:
    """Whether a handler runs while its thread has a lock of a store, in a way that Python sees."""
    while frame is not None and frame.f_code.co_name != "_run_locked":
        frame = frame.f_back
    return frame is not None


def between_changes(handle: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    """A handler that comes again until its thread has no lock of a store."""

    def handle_later(_: int, frame: FrameType | None) -> None:
        if comes_amid_a_change(frame):
            signal.signal(signal.SIGALRM, handle_later)
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            handle()

    return handle_later


@contextlib.contextmanager
def done_while_waiting(act: Callable[[], object]) -> Iterator[None]:
    """Another thread does it as soon as this one lets others run; it is done at the end."""
    ready = threading.Lock()
    ready.acquire()
    failed: list[BaseException] = []

    def wait_and_act() -> None:
        with ready:
            try:
                act()
            except BaseException as error:
                failed.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        with only_who_waits_lets_others_run():
            ready.release()
            yield
    finally:
        thread.join(helpers.BUSY_TIMEOUT)
        assert not thread.is_alive()
    assert failed == []
