"""SIGSTOP in the middle of a change: who needs what is locked gives up, nobody else notices."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import helpers
import pytest

import refstore
from crash.failpoints import failpoint
from refstore import _core

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

LARGE = bytes(100_000)

Site = tuple[str, str]  # a function of the core, and a part of a line of it
LOCKED = ("lock", "cas_acq_rel(word")
NAME_LOCKED = ("publish_locked", "assign(slot.replaces_generation")
MAP_REBUILT = ("rebuild", "assign(s.pool.top")


def arm(site: Site, signo: signal.Signals) -> None:
    _core._arm(failpoint(*site).number, signo)


@contextlib.contextmanager
def stopped_at(site: Site, work: Callable[[], object]) -> Iterator[int]:
    """The pid of a forked child that stands still there, and goes on to its end afterwards."""

    def stop_on_the_way() -> None:
        arm(site, signal.SIGSTOP)
        work()

    with helpers.forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            stop_on_the_way()
            os._exit(0)
        os._exit(1)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def assert_gives_up(work: Callable[[], object], pid: int) -> None:
    began = time.monotonic()
    with pytest.raises(refstore.StoreBusyError, match=f"process {pid}") as caught:
        work()
    assert 4.5 < time.monotonic() - began < helpers.PATIENCE
    assert caught.value.pid == pid


def test_a_put_gives_up_on_a_process_stopped_with_the_space_lock(store: refstore.Store) -> None:
    kept = store.put(b"kept", name="kept")
    with stopped_at(LOCKED, lambda: store.put(LARGE)) as pid:
        assert_gives_up(lambda: store.put(LARGE), pid)
        assert bytes(store["kept"]) == b"kept"
        store.delete(store.put(b"small"))
        store.delete(kept)
    store.put(LARGE)
    assert store.check() == []


def test_a_replacement_gives_up_on_a_process_stopped_with_the_names_lock(
    store: refstore.Store,
) -> None:
    store["n"] = b"old"
    with stopped_at(NAME_LOCKED, lambda: store.put(b"new", name="n", replace=True)) as pid:
        assert_gives_up(lambda: store.put(b"mine", name="n", replace=True), pid)
        assert bytes(store["n"]) == b"old"
        store["another"] = b"name"
    assert bytes(store["n"]) == b"new"
    assert store.check() == []


def test_a_process_stopped_in_a_recovery_is_the_one_that_is_named(store: refstore.Store) -> None:
    def die_with_the_lock() -> None:
        arm(LOCKED, signal.SIGKILL)
        store.put(LARGE)

    assert helpers.forked(die_with_the_lock) == -signal.SIGKILL
    with stopped_at(MAP_REBUILT, store.recover) as pid:
        assert_gives_up(lambda: store.put(LARGE), pid)
        assert_gives_up(store.recover, pid)
    store.put(LARGE)
    assert store.check() == []
