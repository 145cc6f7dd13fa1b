"""What the filelock engine's waits depend on: the journal, the lock, the lock files of makers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import all_rows
import helpers
import pytest
import signals
import workers
from children import Session, child_process, clear_up_after_the_dead

import refstore
from refstore.engines.filelock.layout import COUNT, LOCK_COUNT, TURN
from tests.filelock import opcodes
from tests.filelock.test_kills import stopped_in_a_change

LONG = helpers.BUSY_TIMEOUT
MakeStore = Callable[..., refstore.Store]


def die_in_the_journal(session: Session, name: str) -> None:
    """Killed as soon as the change that publishes is in the journal, and nowhere else yet."""
    store: Any = session.store
    store.put(b"x", name="earlier")
    words, begun = store._attachment.file.words, 0

    def step(_: int) -> None:
        nonlocal begun
        begun += words[COUNT] != 0
        if begun:
            os.kill(os.getpid(), signal.SIGKILL)

    with opcodes.each(step):
        store.put(b"published", name=name)


def test_what_a_dead_publisher_left_in_the_journal_ends_a_wait(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as waiter, child_process(path) as publisher:
        waiter.tell(workers.wait, "n")
        assert waiter.receive() == ("said", "waiting")
        publisher.tell(die_in_the_journal, "n")
        with pytest.raises(ChildProcessError):
            publisher.answer()
        publisher.killed = True
        assert waiter.answer() == b"published"
    assert sorted(store.names()) == ["earlier", "n"]
    assert store.check() == []


def test_a_wait_is_as_patient_with_a_stopped_process_as_its_timeout(
    store: refstore.Store, path: str
) -> None:
    with stopped_in_a_change(path, lambda: store.put(b"x" * 1000)) as pid:
        began = time.monotonic()
        with pytest.raises(refstore.StoreBusyError, match=f"process {pid}"):
            store.get("n", timeout=7)
        assert 6.9 < time.monotonic() - began < LONG
    clear_up_after_the_dead(path)


def test_a_wait_for_ever_outlasts_a_stopped_process(store: refstore.Store, path: str) -> None:
    store.put(b"there", name="n")
    with stopped_in_a_change(path, lambda: store.put(b"x" * 1000)) as pid:

        def resume() -> None:
            time.sleep(6)  # longer than other calls wait
            os.kill(pid, signal.SIGCONT)

        with signals.done_while_waiting(resume):
            assert bytes(store.get("n", timeout=None)) == b"there"
    clear_up_after_the_dead(path)


CHILD = (
    all_rows.ROWS
    + """
import sys, warnings
import refstore

path, engine = sys.argv[1:]
warnings.simplefilter("ignore")
store = refstore.Store(path, create=False)
writer = store.create(100, name="claimed", claim=True)

def factory():
    rows = Rows(path, engine)
    rows.lock(True)
    child = os.fork()           # which gets no place, and has its parent's lock
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    rows.lock(False)
    print(child, flush=True)
    os.kill(os.getpid(), 9)

store.get_or_put("making", factory)
"""
)


def test_claims_that_a_child_keeps_are_in_nobodys_way(store: refstore.Store, path: str) -> None:
    with helpers.script(CHILD, path, "filelock") as parent:
        int(helpers.line(parent))
        parent.wait(LONG)
        assert store.stats().processes == 2  # the row lives
        assert bytes(store.get_or_put("making", lambda: b"by another", timeout=0)) == b"by another"
        store.put(b"x", name="claimed")
        assert store.check() == []
    clear_up_after_the_dead(path)
    assert sorted(store.names()) == ["claimed", "making"]
    assert [row.state for row in store.objects()] == ["live", "live"]


def test_who_waits_for_a_maker_does_not_take_the_lock(store: refstore.Store, path: str) -> None:
    """But once a second: else makers would wait for those who wait for them."""
    with child_process(path) as maker:
        maker.tell(workers.make, "n", b"made")
        assert maker.receive() == ("said", "making")
        att: Any = store._attachment
        before = att.file.words[LOCK_COUNT]
        with pytest.raises(refstore.GetTimeoutError):
            store.get_or_put("n", lambda: b"x", timeout=0.7)
        assert att.file.words[LOCK_COUNT] - before < 8
        maker.go_on()
        assert maker.answer() == b"made"


def sleeps_of(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each call of this process slept for room for, from now on."""
    slept: list[str] = []
    sleep = type(store._attachment).sleep_for_room

    def note(self: Any, call: Any, what: str) -> bool:
        slept.append(what)
        return bool(sleep(self, call, what))

    monkeypatch.setattr(type(store._attachment), "sleep_for_room", note)
    return slept


def whose_turn(store: Any) -> int:
    return int(store._attachment.file.words[TURN])


def test_the_turn_of_a_dead_process_holds_nobody_up(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(1 << 20)
    kept = store.put(bytes(900_000))
    with child_process(store.path) as waiter:
        waiter.tell(workers.put_patiently, bytes(500_000))
        assert helpers.eventually(lambda: whose_turn(store) != 0)
        waiter.kill()
    store.delete(kept)
    slept = sleeps_of(store, monkeypatch)
    store.put_many([b"x"], timeout=LONG)
    store.put(b"x", timeout=LONG)
    assert (slept, whose_turn(store)) == ([], 0)


def test_the_turn_of_an_interrupted_call_ends_with_it(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = make_store(1 << 20)
    kept = store.put(bytes(900_000))

    def interrupted(self: Any, call: Any) -> None:
        raise InterruptedError("a signal handler, on the way out")

    with child_process(store.path), monkeypatch.context() as patch:
        patch.setattr(type(store._attachment), "end_turn", interrupted)
        with pytest.raises(InterruptedError):
            store.put(bytes(500_000), timeout=0.5)
    store.delete(kept)
    assert whose_turn(store) == 0
    slept = sleeps_of(store, monkeypatch)
    store.put(bytes(900_000), timeout=LONG)
    assert slept == []
