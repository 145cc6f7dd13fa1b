"""SIGSTOP in the middle of a change: who needs what is locked gives up, nobody else notices."""

from __future__ import annotations

import signal

import helpers
import pytest
from stops import assert_gives_up

import refstore
from refstore import _core
from tests.native.crash.stopping import LOCKED, MAP_REBUILT, NAME_LOCKED, arm, killed_at, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

LARGE = bytes(100_000)


def test_a_put_gives_up_on_a_process_stopped_with_the_space_lock(store: refstore.Store) -> None:
    kept = store.put(b"kept", name="kept")
    with stopped_at(LOCKED, lambda: store.put(LARGE)) as pid:
        assert_gives_up(lambda: store.put(LARGE), pid)
        assert bytes(store["kept"]) == b"kept"
        store.delete(store.put(b"small"))
        store.delete(kept)
    store.put(LARGE)
    assert store.check() == []


def test_a_replacement_gives_up_on_a_stopped_name_lock(
    store: refstore.Store,
) -> None:
    store["n"] = b"old"
    with stopped_at(NAME_LOCKED, lambda: store.put(b"new", name="n", replace=True)) as pid:
        assert_gives_up(lambda: store.put(b"mine", name="n", replace=True), pid)
        assert bytes(store["n"]) == b"old"
        store["another"] = b"name"
    assert bytes(store["n"]) == b"new"
    assert store.check() == []


def test_a_dead_owners_name_is_waited_for_amid_its_recovery(store: refstore.Store) -> None:
    def own_and_die() -> None:
        store.put(b"old", name="n", owned=True)
        arm(LOCKED, signal.SIGKILL)
        store.put(LARGE)

    writer = store.create(3, name="n")
    assert helpers.forked(own_and_die) == -signal.SIGKILL
    with stopped_at(MAP_REBUILT, store.recover) as pid:
        assert_gives_up(lambda: store.put(b"new", name="n"), pid)
        assert_gives_up(writer.seal, pid)
    store.put(b"new", name="n")
    assert store.check() == []


def test_a_process_stopped_in_a_recovery_is_the_one_that_is_named(store: refstore.Store) -> None:
    killed_at(LOCKED, lambda: store.put(LARGE))
    with stopped_at(MAP_REBUILT, store.recover) as pid:
        assert_gives_up(lambda: store.put(LARGE), pid)
        assert_gives_up(store.recover, pid)
    store.put(LARGE)
    assert store.check() == []
