"""Exceptions that come up at any moment of a call, as those of signal handlers do."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from unittest import mock

import filelock

import refstore

OURS = (  # and what it calls that is in Python and has locks
    f"{Path(str(refstore.__file__)).parent}/",
    f"{Path(str(filelock.__file__)).parent}/",
    str(threading.__file__),
)


class Interrupt(BaseException):
    pass


class Alarm(TimeoutError):
    pass


def _ignore(_: object) -> None:
    """In place of a mock, which would keep what it is called with."""


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Finalizers are interrupted, too, and say so to nobody."""
    with mock.patch.object(sys, "unraisablehook", _ignore):
        yield
    sys.setprofile(None)


def interrupted(number: int, error: type[BaseException], work: Callable[[], object]) -> bool:
    """Does `work`, in which `error` comes up at the given call or return; whether it got there.

    Where a function begins and where a call into C ends is where Python runs signal handlers.
    """
    reached = 0

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal reached
        if frame.f_code.co_filename.startswith(OURS) and event in ("call", "c_return"):
            reached += 1
            if reached == number:
                sys.setprofile(None)
                raise error

    sys.setprofile(look)
    try:
        work()
    except (Interrupt, Alarm):
        pass
    finally:
        sys.setprofile(None)
    return reached >= number
