"""recover() tells exactly what came back from the dead, whoever's call it was that brought it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import helpers
import pytest
import workers
from children import child_process, child_processes

import refstore

NOTHING = refstore.Recovery(0, (), 0, 0, 0, 0, 0)


def used(store: refstore.Store) -> int:
    return store.stats().used


def test_nobody_died(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x")
    with child_process(path) as child, store.get(ref), store.create(100):
        child.do(workers.hold, ref)
        assert store.recover() == NOTHING
        assert not store.recover()
        assert store.refcount(ref) == 3
    assert store.recover() == NOTHING  # who leaves by itself takes its things along


def test_all_that_a_killed_process_held_is_counted(store: refstore.Store, path: str) -> None:
    kept = store.put(bytes(1000), name="kept")
    doomed = store.put(bytes(200_000))
    with child_process(path) as child:
        child.do(workers.hold, kept, "first")
        child.do(workers.hold, "kept", "second")
        child.do(workers.hold, doomed, "third")
        child.do(workers.begin, 100_000, "never")
        store.delete(doomed)
        child.kill()
        before = used(store)
        recovery = store.recover()
        assert recovery == refstore.Recovery(
            processes=1,
            pids=(child.pid,),
            pins=3,
            unfinished=1,
            published=0,
            locks=0,
            nbytes=before - used(store),
        )
    assert recovery
    assert recovery.nbytes >= 300_000
    assert store.recover() == NOTHING
    assert store.refcount(kept) == 1


def test_a_block_that_two_pin_comes_back_with_the_second(store: refstore.Store, path: str) -> None:
    ref = store.put(bytes(100_000))
    nbytes = used(store)
    with child_processes(2, path) as (first, second):
        for child in (first, second):
            child.do(workers.hold, ref)
        store.delete(ref)
        for child, freed in ((first, 0), (second, nbytes)):
            child.kill()
            assert store.recover() == refstore.Recovery(1, (child.pid,), 1, 0, 0, 0, freed)
    assert used(store) == 0


def test_several_deaths_are_added_up(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x")
    with child_processes(3, path) as children:
        for child in children:
            child.do(workers.hold, ref)
        for child in children[1:]:
            child.kill()
        recovery = store.recover()
        assert (recovery.processes, recovery.pins) == (2, 2)
        assert set(recovery.pids) == {child.pid for child in children[1:]}
        assert store.refcount(ref) == 2


def test_a_put_that_recovers_by_itself_shows_in_the_next_report(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as child:
        child.do(workers.begin, store.capacity)
        child.kill()
        store.put(b"x")
        assert store.recover() == refstore.Recovery(
            1, (child.pid,), pins=0, unfinished=1, published=0, locks=0, nbytes=store.capacity
        )
    assert store.recover() == NOTHING


def test_a_delete_that_meets_a_dead_pin_shows_in_the_next_report(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(bytes(100_000))
    nbytes = used(store)
    with child_process(path) as child:
        child.do(workers.hold, ref)
        child.kill()
        store.delete(ref)
        assert used(store) == 0
        assert store.recover() == refstore.Recovery(1, (child.pid,), 1, 0, 0, 0, nbytes)


def test_what_coming_brings_back_is_in_the_first_report(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x")
    with child_process(path) as dead:
        dead.do(workers.hold, ref)
        dead.kill()
        with child_process(path) as other:
            assert store.recover() == NOTHING  # the other was first
            recovery = other.do(workers.recover)
            assert recovery == refstore.Recovery(1, (dead.pid,), 1, 0, 0, 0, 0)
            assert other.do(workers.recover) == NOTHING


def test_a_forked_child_does_not_report_what_its_parent_brought_back(
    store: refstore.Store, path: str
) -> None:
    with child_process(path) as dead:
        dead.do(workers.begin, store.capacity)
        dead.kill()
        store.put(b"x")
        with child_process(store, "fork") as child:
            child_pid = child.pid
            assert child.do(workers.recover) == NOTHING
            assert store.recover().pids == (dead.pid,)
        # a child of multiprocessing's fork ends by os._exit(), and leaves its row behind
        assert store.recover() == refstore.Recovery(1, (child_pid,), 0, 0, 0, 0, 0)


def test_of_very_many_deaths_the_last_pids_are_kept(store: refstore.Store, path: str) -> None:
    with child_process(path) as parent:  # of the dead: a small process forks in less time
        pids = parent.do(workers.fork_and_outlive, 300)
        recovery = parent.do(workers.recover)
        assert recovery.processes == 300
        assert recovery.pids == tuple(pids[-256:])
        assert parent.do(workers.recover) == NOTHING
    assert store.recover() == NOTHING


def test_without_a_descriptor_it_says_so_and_nothing_is_lost(
    store: refstore.Store, path: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    ref = store.put(b"x")
    with child_process(path) as child:
        child.do(workers.hold, ref)
        child.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(OSError, match=r"descriptor|open files"):
                store.recover()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert store.refcount(ref) == 2
        assert store.recover().pids == (child.pid,)
    assert store.refcount(ref) == 1


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_a_child_killed_however_it_was_started(
    store: refstore.Store, path: str, method: str
) -> None:
    with child_process(store, method) as child:
        child.do(workers.begin, 5000)
        child.kill()
        recovery = store.recover()
        assert (recovery.pids, recovery.unfinished) == ((child.pid,), 1)


TAKERS: dict[str, Callable[[refstore.Store], object]] = {
    "put": lambda store: store.put(b"new", name="n"),
    "put_many": lambda store: store.put_many([b"new", b"other"], names=["n", "o"]),
    "create": lambda store: filled(store.create(3, name="n")),
    "create with a claim": lambda store: filled(store.create(3, name="n", claim=True)),
}


def filled(writer: refstore.Writer) -> refstore.ObjectRef:
    writer.write_at(0, b"new")
    return writer.seal()


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_the_name_of_what_a_dead_process_owned_is_free(
    store: refstore.Store, path: str, take: Any
) -> None:
    with child_process(path) as child:
        child.do(workers.put_own, b"old", "n")
        with pytest.raises(refstore.ObjectExistsError):
            take(store)
        child.kill()
        take(store)
        assert store.recover().pids == (child.pid,), "which nobody was told yet"
    with store["n"] as buf:
        assert bytes(buf) == b"new"


def test_a_seal_finds_the_name_of_what_a_dead_process_owned_free(
    store: refstore.Store, path: str
) -> None:
    writer = store.create(3, name="n")
    with child_process(path) as child:
        child.do(workers.put_own, b"old", "n")
        child.kill()
        filled(writer)
    with store["n"] as buf:
        assert bytes(buf) == b"new"


MAKER = """
    import sys, refstore
    store = refstore.Store(sys.argv[1], create=False)
    store.get_or_put("n", lambda: print("in the factory", flush=True) or sys.stdin.readline())
"""


def test_a_dead_maker_left_no_object_unfinished(store: refstore.Store, path: str) -> None:
    with helpers.script(MAKER, path) as program:
        assert helpers.line(program) == "in the factory"
        program.kill()
        program.wait()
    recovery = store.recover()
    assert (recovery.pids, recovery.unfinished) == ((program.pid,), 0)


HEIR = """
    import os, signal, sys, refstore
    store = refstore.Store(sys.argv[1], create=False)
    writer = store.create(1_000_000)
    view = memoryview(writer)
    if os.fork():
        signal.pause()
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    view[:] = b"z" * len(view)
    print("written", flush=True)
    sys.stdin.readline()
    os._exit(0)
"""


def test_views_that_a_child_has_of_a_dead_writer_keep_its_block(
    store: refstore.Store, path: str
) -> None:
    with helpers.script(HEIR, path) as program:
        heir = int(helpers.line(program))
        program.kill()
        program.wait()
        recovery = store.recover()
        assert (recovery.pids, recovery.unfinished, recovery.nbytes) == ((program.pid,), 1, 0)
        heirs_end = os.pidfd_open(heir)
        assert [(row.pid, row.pins, row.alive) for row in store.holders()] == [(heir, 1, True)]
        assert store.stats().condemned == 1
        store["a"] = b"a" * 900_000
        size = store.stats().largest_free
        store["b"] = b"b" * size
        with store["a"] as small, store["b"] as large:
            program.stdin.write("\n")
            program.stdin.flush()
            assert helpers.line(program) == "written"
            assert bytes(small) == b"a" * 900_000
            assert bytes(large) == b"b" * size
    assert wait([heirs_end], helpers.BUSY_TIMEOUT)
    os.close(heirs_end)
    assert store.recover().pins == 1
    assert store.stats().condemned == 0
