"""Looks at a store that others use, and at what the dead have left."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import looks
import pytest
import workers
from children import RemoteError, child_process, child_processes
from helpers import eventually

import refstore
from refstore._looking import Look


def state_of(path: str, folder: Path) -> tuple[bytes, int, list[str]]:
    """The bytes of the file, the memory that it takes, and what lies beside it."""
    file = Path(path)
    beside = sorted(str(one) for one in folder.rglob("*"))
    return hashlib.sha256(file.read_bytes()).digest(), file.stat().st_blocks, beside


def calls_of(look: Look, pid: int) -> list[str]:
    """What a process waits for."""
    return [one.waits_for for one in look.processes() if one.pid == pid]


@pytest.fixture
def crowded(store: refstore.Store, path: str) -> Iterator[refstore.Store]:
    """A store that is full, used by living processes and left to itself by a dead one."""
    store.put(b"x" * 1000, name="n")
    doomed = store.put(b"y" * 200_000)
    with child_processes(2, path) as (alive, dead):
        alive.do(workers.hold, "n")
        dead.do(workers.hold, doomed)
        dead.do(workers.begin, 100_000)
        dead.do(workers.put_own, b"owned")
        store.delete(doomed)
        store.put(b"z" * store.stats().largest_free)
        dead.kill()
        yield store


def test_it_changes_nothing_in_a_full_store_without_places(
    crowded: refstore.Store, path: str, folder: Path
) -> None:
    stats = crowded.stats()
    os.chmod(path, 0o400)
    with child_process(None) as other, looks.all_rows_taken(crowded):
        with pytest.raises(RemoteError, match="places"):
            other.do(workers.attach, path, {"create": False})
        before = state_of(path, folder)
        looks.look_at_everything(None, path)  # where the store is open
        other.do(looks.look_at_everything, path)
        assert state_of(path, folder) == before
    os.chmod(path, 0o600)
    after = crowded.stats()
    assert (after.used, after.recoveries) == (stats.used, stats.recoveries)


def test_the_dead_are_shown_and_not_recovered(crowded: refstore.Store, path: str) -> None:
    with Look(path) as look:
        assert look.stats().processes == 2
        dead = [one for one in look.processes() if not one.alive]
        assert len(dead) == 1
        assert (dead[0].pins, dead[0].owned, dead[0].ended) == (1, 1, False)
        assert dead[0].bytes >= 300_000
        held = [one for one in look.holders() if not one.alive]
        assert {one.pid for one in held} == {dead[0].pid}
        assert sum(one.bytes for one in held) == dead[0].bytes
        assert crowded.stats().recoveries == 0
        recovery = crowded.recover()
        assert recovery.pids == (dead[0].pid,)
        assert [one.pid for one in look.processes()] != [dead[0].pid]
        assert all(one.alive for one in look.processes())
        (past,) = look.recoveries()
        assert (past.pid, past.nbytes) == (dead[0].pid, recovery.nbytes)
        assert past.command == dead[0].command
        assert abs(past.at - time.time()) < 100


def test_the_last_recoveries_are_remembered_newest_first(store: refstore.Store, path: str) -> None:
    pids: list[int] = []
    refs = [store.put(bytes(10_000 * (k + 1))) for k in range(18)]
    for ref in refs:
        with child_process(path) as child:
            child.do(workers.set_label, f"actor {len(pids)}")
            child.do(workers.hold, ref)
            store.delete(ref)
            child.kill()
            pids.append(child.pid)
        assert store.recover().pids == (pids[-1],)
    with Look(path) as look:
        told = look.recoveries()
    assert [one.pid for one in told] == pids[:1:-1]
    assert [one.command.partition(":")[0] for one in told] == [
        f"actor {k}" for k in range(17, 1, -1)
    ]
    assert [one.nbytes >= 10_000 * (18 - k) for k, one in enumerate(told)] == [True] * 16
    assert store.stats().recoveries == 18


def test_who_leaves_in_good_order_is_no_recovery(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        child.do(workers.nothing)
    store.recover()
    with Look(path) as look:
        assert look.recoveries() == []


def test_who_waits_is_counted_while_it_does(store: refstore.Store, path: str) -> None:
    with Look(path) as look, child_processes(2, path) as (first, second):
        for child in (first, second):
            child.tell(workers.wait, "n")
            assert child.answer() == "waiting"
        assert eventually(lambda: look.stats().waiting == 2)
        assert store.stats().waiting == 2
        waits = {one.pid: one.waiting for one in look.processes()}
        assert waits == {os.getpid(): 0, first.pid: 1, second.pid: 1}
        calls = {one.pid: one.waits_for for one in look.processes()}
        assert calls == {os.getpid(): "", first.pid: "wait('n')", second.pid: "wait('n')"}
        second.kill()
        assert eventually(lambda: look.stats().waiting == 1)
        store.put(b"x", name="n")
        assert first.answer() == b"x"
        assert look.stats().waiting == 0


def test_who_waits_for_room_is_counted_too(store: refstore.Store, path: str) -> None:
    ref = store.put(bytes(store.stats().largest_free))
    with Look(path) as look, store.get(ref) as buf, child_process(path) as child:
        child.tell(workers.put_patiently, b"x")
        assert child.answer() == "waiting"
        assert eventually(lambda: look.stats().waiting == 1)
        assert calls_of(look, child.pid) == ["a put of 1 bytes"]
        store.delete(ref)
        buf.release()
        child.answer()
        assert look.stats().waiting == 0


def test_who_waits_for_a_maker_is_seen(store: refstore.Store, path: str) -> None:
    with Look(path) as look, child_processes(2, path) as (maker, child):
        maker.do(workers.claim, 100, "m")
        child.tell(workers.get_or_put, "m", b"x")
        assert child.answer() == "asking"
        assert eventually(lambda: look.stats().waiting == 1)
        assert calls_of(look, child.pid) == ["get_or_put('m')"]
        maker.kill()
        assert child.answer() == b"x"


@pytest.mark.parametrize("name", ["n" * 200, "ü" * 100])
def test_a_long_call_is_cut_short(store: refstore.Store, path: str, name: str) -> None:
    with Look(path) as look, child_process(path) as child:
        child.tell(workers.wait, name)
        assert child.answer() == "waiting"
        assert eventually(lambda: look.stats().waiting == 1)
        (call,) = calls_of(look, child.pid)
        assert call.startswith(f"wait('{name[:20]}")
        assert len(call) < 70
        store.put(b"x", name=name)
        assert child.answer() == b"x"


def test_coroutines_that_wait_count_their_process(store: refstore.Store, path: str) -> None:
    with Look(path) as look, child_process(path) as child:
        child.tell(workers.await_name, "n")
        assert child.answer() == "waiting"
        assert eventually(lambda: look.stats().waiting == 1)
        assert eventually(lambda: calls_of(look, child.pid) == ["an await of 'n'"])  # sleeps again
        store.put(b"x", name="n")
        assert child.answer() == b"x"
        assert eventually(lambda: look.stats().waiting == 0)


def test_it_goes_on_beside_those_that_change_the_store(store: refstore.Store, path: str) -> None:
    with Look(path) as look, child_processes(2, path) as children:
        for k, child in enumerate(children):
            child.tell(workers.churn, k, 150)
        for _ in range(10):
            stats = look.stats()
            assert 0 <= stats.used <= store.capacity
            assert look.problems() == []
            for info in look.objects():
                assert info.nbytes <= info.block_nbytes
            look.holders()
            look.processes()
            assert len(look.page_states()) == store.capacity // 4096
        for child in children:
            child.answer()
        assert look.stats() == store.stats()
