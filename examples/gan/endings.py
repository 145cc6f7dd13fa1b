"""How a run ends before it is done: by a signal, or by a failure that a message explains."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked this process to end. Not an Exception: nothing may handle it on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number  # as shells report a death by signal


class RunFailed(Exception):
    """The run cannot go on, and the message says all that its user needs to know."""


def exit_code(run: Callable[[], int]) -> int:
    """Call `run`; however it ends, return the exit code, with the reason on standard error."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        return run()
    except Stopped as stop:
        print(f"stopped by {stop.name}: no process and no store is left", file=sys.stderr)
        return stop.exit_code
    except (RunFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def ignore_signals() -> None:
    """Let no second Ctrl-C cut short the cleaning up after the first."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C waiting meanwhile, and for good in processes started meanwhile.

    A terminal sends it to the whole group. Only the parent is to act on it; a child that took it
    too, while still importing say, would die with a traceback of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)
