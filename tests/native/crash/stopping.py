"""Processes that are stopped in the middle of a change."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

import helpers

from refstore import _core
from tests.native.crash.failpoints import failpoint

Site = tuple[str, str] | int  # a function of the core and a part of a line of it, or a failpoint

LOCKED = ("lock", "cas_acq_rel(word")
NAME_LOCKED = ("publish_locked", "assign(slot.replaces_generation")
INDEXED = ("publish_locked", "indexed = cas_acq_rel")
MAP_REBUILT = ("rebuild", "assign(v.pool.top")


def arm(site: Site, signo: signal.Signals, skip: int = 0) -> None:
    """This process gets the signal when it passes there once more than `skip` times."""
    number = site if isinstance(site, int) else failpoint(*site).number
    _core._arm(number, signo, skip)


def stopped_at(
    site: Site, work: Callable[[], object], skip: int = 0, ends: int = 0
) -> contextlib.AbstractContextManager[int]:
    """The pid of a forked child stopped there, that goes on to its end afterwards.

    `ends`: its exit status, or minus the signal that it gets meanwhile.
    """

    def stop_on_the_way() -> None:
        arm(site, signal.SIGSTOP, skip)
        work()

    return helpers.stopped(stop_on_the_way, (ends,))


def killed_at(site: Site, work: Callable[[], object]) -> None:
    """A forked child is killed there."""

    def die_on_the_way() -> None:
        arm(site, signal.SIGKILL)
        work()

    assert helpers.forked(die_on_the_way) == -signal.SIGKILL
