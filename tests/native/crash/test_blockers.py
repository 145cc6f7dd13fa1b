"""Blocks that dead processes pin come back at the next look at them, whoever's look that is."""

from __future__ import annotations

import os
import signal
import time

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.stopping import INDEXED, killed_at, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

PINNED = ("pin", "failpoint()")  # the pin counts, and the word is not looked at yet
MARKED = ("pin", "fetch_or_seq_cst(&slot.mask")  # it counts, and the slot says so


def killed_with_a_pin(store: refstore.Store, ref: refstore.ObjectRef) -> None:
    """A process that pinned the object is dead, and nobody knows it yet."""
    killed_at(MARKED, lambda: store.get(ref))


def get_nothing(store: refstore.Store, key: refstore.ObjectRef | str) -> None:
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get(key)


@pytest.mark.parametrize("name", [None, "n"])
def test_who_undoes_a_pin_looks_who_else_has_one(store: refstore.Store, name: str | None) -> None:
    # The deleter sees the reader's pin alone, which is lower in the table; the reader sees the
    # dead one's.
    ref = store.put(bytes(2000), name=name)

    def get_twice() -> None:  # by the first its row is among those that may pin the object
        store.get(ref).release()
        get_nothing(store, name or ref)

    with stopped_at(PINNED, get_twice, skip=1):
        killed_with_a_pin(store, ref)
        store.delete(ref)
        assert store.stats().condemned == 1
    assert store.stats().condemned == 0
    assert store.check() == []


def test_a_get_that_meets_a_replacement_leaves_nothing_behind(store: refstore.Store) -> None:
    ref = store.put(bytes(2000), name="n")

    def get_twice() -> None:
        store.get("n").release()
        assert store.get("n").nbytes == 3000

    with stopped_at(PINNED, get_twice, skip=1):
        killed_with_a_pin(store, ref)
        store.put(bytes(3000), name="n", replace=True)
        assert store.stats().condemned == 1
    assert store.stats().condemned == 0
    assert store.check() == []


def test_what_a_dead_one_replaced_is_not_kept_by_another_dead_one(store: refstore.Store) -> None:
    old = store.put(bytes(2000), name="n")
    killed_with_a_pin(store, old)

    killed_at(INDEXED, lambda: store.put(bytes(3000), name="n", replace=True))
    store.put(bytes(1000), name="n", replace=True)  # meets the dead one's lock
    assert store.stats().condemned == 0
    assert store.check() == []


def test_a_lock_that_a_live_process_holds_is_no_problem(store: refstore.Store) -> None:
    with helpers.forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        while True:
            store.trim()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            store.delete(store.put(bytes(100_000)))
            assert store.check() == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
