"""SIGKILL at every failpoint of every operation: whoever is left goes on, and nothing is lost.

A forked child arms a failpoint and runs an operation; it dies there, or gets through because the
operation does not pass that way. Then its row is recovered and the store must add up: every object
that was sealed before is whole, a named one is the old or the new one, all space comes back.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import refstore
from refstore import _core

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

MEBI = 1 << 20
CAPACITY = 4 * MEBI
SMALL, LARGE = bytes(range(100)), bytes(range(256)) * 400
OLD, NEW = b"old" * 50, b"new" * 50


def failpoints() -> list[str]:
    """The names of the sites in the order of the enum that defines them."""
    text = (Path(__file__).parents[2] / "refstore" / "_debug.pxd").read_text()
    names = re.findall(r"^    (FP_\w+)", text, re.MULTILINE)
    assert names[0] == "FP_NONE"
    assert names.index("FP_COUNT") == _core.FAILPOINT_COUNT
    return names[1:-1]


def put_small(store: refstore.Store) -> None:
    store.put(SMALL)


def put_large(store: refstore.Store) -> None:
    store.put(LARGE)


def put_many_sizes(store: refstore.Store) -> None:
    for size in (1, 700, 5000, 20000, 40000):
        store.put(bytes(size))


def put_named(store: refstore.Store) -> None:
    store.put(NEW, name="fresh")


def replace(store: refstore.Store) -> None:
    store.put(NEW, name="old", replace=True)


def put_described(store: refstore.Store) -> None:
    store.put(np.zeros((2, 3, 4), "M8[s]").transpose(1, 2, 0))


def delete_small(store: refstore.Store) -> None:
    store.delete("small")


def delete_large(store: refstore.Store) -> None:
    store.delete("large")


def delete_pinned(store: refstore.Store) -> None:
    with store.get("large"):
        store.delete("large")


def get(store: refstore.Store) -> None:
    with store.get("small") as by_name, store.get(by_name.ref):
        pass


def write_and_abort(store: refstore.Store) -> None:
    writer = store.create(50000)
    view = memoryview(writer)
    writer.abort()
    view.release()


def fill_up(store: refstore.Store) -> None:
    """Takes runs apart, since every byte is wanted."""
    refs = [store.put(bytes(size)) for size in (100, 1000, 10000, 100000)]
    for ref in refs:
        store.delete(ref)
    for name in store.names():
        store.delete(name)
    store.delete(store.put(bytes(CAPACITY)))


def grow(store: refstore.Store) -> None:
    """More objects than the first step of the slot table has."""
    for _ in range(1100):
        store.put(b"")


def reuse_runs(store: refstore.Store) -> None:
    """Blocks that came free in runs that are no longer cut from."""
    refs = [store.put(bytes(300)) for _ in range(60)]
    for ref in refs[:50]:
        store.delete(ref)
    for _ in range(60):
        store.put(bytes(300))


def trim(store: refstore.Store) -> None:
    store.delete(store.put(bytes(MEBI)))
    store.trim()


def fork(store: refstore.Store) -> None:
    with store.get("large"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def recover(store: refstore.Store) -> None:
    """From two deaths: one of a process that held all sorts, one inside the space lock."""
    store.recover()


OPERATIONS: list[Callable[[refstore.Store], None]] = [
    put_small,
    put_large,
    put_many_sizes,
    put_named,
    replace,
    put_described,
    delete_small,
    delete_large,
    delete_pinned,
    get,
    write_and_abort,
    fill_up,
    grow,
    reuse_runs,
    trim,
    fork,
    recover,
]


@contextlib.contextmanager
def fresh_store() -> Iterator[refstore.Store]:
    with refstore.Store.temporary(CAPACITY, max_objects=2000) as store:
        yield store


def prepare(store: refstore.Store) -> None:
    store.put(SMALL, name="small")
    store.put(LARGE, name="large")
    store.put(OLD, name="old")


def run_in_child(store: refstore.Store, work: Callable[[], None]) -> int:
    """The wait status of a forked child that does `work` and exits 0, or 1 on an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def die_holding_all_sorts(store: refstore.Store) -> None:
    """Leaves a row with pins, a half-written object and a deleted one."""

    def work() -> None:
        store.get("small")
        doomed = store.get("doomed")
        store.delete(doomed.ref)
        store.create(70000)
        os.kill(os.getpid(), signal.SIGKILL)

    store.put(LARGE, name="doomed")
    assert os.WTERMSIG(run_in_child(store, work)) == signal.SIGKILL
    assert kill_at(store, failpoints().index("FP_EXTENT_SET") + 1, put_large)


def kill_at(store: refstore.Store, site: int, operation: Callable[[refstore.Store], None]) -> bool:
    """Whether `operation` passed the site, in a child that died there."""

    def work() -> None:
        _core._arm(site, signal.SIGKILL)
        operation(store)
        _core._arm(0, 0)

    status = run_in_child(store, work)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def content(store: refstore.Store, name: str) -> bytes | None:
    try:
        with store.get(name) as buf:
            return bytes(buf)
    except refstore.ObjectNotFoundError:
        return None


def assert_sound(store: refstore.Store, operation: Callable[[refstore.Store], None]) -> None:
    while store.recover():
        pass
    assert store.check() == []
    deletes = operation in (delete_small, delete_large, delete_pinned, fill_up)
    for name, sealed in (("small", SMALL), ("large", LARGE)):
        assert content(store, name) in ((sealed, None) if deletes else (sealed,))
    if operation is replace:
        assert content(store, "old") in (OLD, NEW)
    assert content(store, "fresh") in (None, NEW)


def assert_usable_to_the_full(store: refstore.Store) -> None:
    """The survivor puts, replaces and deletes; then everything is one free piece again."""
    store.put(SMALL)
    store.put(NEW, name="old", replace=True)
    assert content(store, "old") == NEW
    for ref in store:
        store.delete(ref)
    stats = store.stats()
    assert (stats.used, stats.objects, stats.pinned, stats.condemned) == (0, 0, 0, 0)
    store.delete(store.put(bytes(CAPACITY)))
    assert store.check() == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_killed_at_each_site(operation: Callable[[refstore.Store], None]) -> None:
    reached = 0
    for site in range(1, _core.FAILPOINT_COUNT):
        with fresh_store() as store:
            prepare(store)
            if operation is recover:
                die_holding_all_sorts(store)
            if kill_at(store, site, operation):
                reached += 1
                assert_sound(store, operation)
                assert_usable_to_the_full(store)
    assert reached > 0


def test_every_site_is_reached() -> None:
    missed = []
    for site, name in enumerate(failpoints(), 1):
        for operation in OPERATIONS:
            with fresh_store() as store:
                prepare(store)
                if operation is recover:
                    die_holding_all_sorts(store)
                if kill_at(store, site, operation):
                    break
        else:
            missed.append(name)
    assert missed == []


@pytest.mark.parametrize(
    "operation", [put_large, put_many_sizes, fill_up, replace], ids=lambda o: o.__name__
)
def test_killed_in_the_recovery_too(operation: Callable[[refstore.Store], None]) -> None:
    names = failpoints()
    killed = 0
    for first in range(1, _core.FAILPOINT_COUNT):
        for second in range(1, _core.FAILPOINT_COUNT):
            with fresh_store() as store:
                prepare(store)
                if not kill_at(store, first, operation):
                    break
                if kill_at(store, second, recover):
                    killed += 1
                    try:
                        assert_sound(store, operation)
                        assert_usable_to_the_full(store)
                    except AssertionError as error:
                        error.add_note(f"{names[first - 1]}, then {names[second - 1]}")
                        raise
    assert killed > 0


def used(store: refstore.Store) -> int:
    return store.stats().used


@pytest.mark.parametrize(
    ("site", "operation", "pins", "unfinished", "published", "locks"),
    [
        ("FP_EXTENT_SET", put_large, 0, 1, 0, 1),
        ("FP_FILLED", put_large, 0, 1, 0, 0),
        ("FP_NAME_LOCKED", replace, 0, 1, 0, 1),
        ("FP_PUBLISHING", replace, 1, 1, 0, 1),
        ("FP_INDEXED", replace, 1, 0, 1, 1),
        ("FP_INDEXED", put_named, 0, 0, 1, 1),
        ("FP_SEALED", replace, 1, 0, 0, 1),
    ],
)
def test_a_recovery_counts_what_it_did(
    site: str,
    operation: Callable[[refstore.Store], None],
    pins: int,
    unfinished: int,
    published: int,
    locks: int,
) -> None:
    with fresh_store() as store:
        prepare(store)
        assert kill_at(store, failpoints().index(site) + 1, operation)
        before = used(store)
        recovery = store.recover()
        assert recovery.processes == len(recovery.pids) == 1
        counts = recovery.pins, recovery.unfinished, recovery.published, recovery.locks
        assert counts == (pins, unfinished, published, locks)
        assert recovery.nbytes == before - used(store)
        if published and operation is replace:
            assert recovery.nbytes == 192  # of the object that was replaced


@pytest.mark.parametrize("operation", [replace, delete_pinned, write_and_abort, fill_up])
def test_a_recovery_counts_the_bytes_that_came_free(
    operation: Callable[[refstore.Store], None],
) -> None:
    freed = []
    for site in range(1, _core.FAILPOINT_COUNT):
        with fresh_store() as store:
            prepare(store)
            if kill_at(store, site, operation):
                before = used(store)
                freed.append(store.recover().nbytes)
                assert freed[-1] == before - used(store), failpoints()[site - 1]
    assert any(freed)


def test_what_a_stopped_process_left_to_others_is_no_recovery() -> None:
    with fresh_store() as store:
        prepare(store)
        child = os.fork()
        if child == 0:
            buf = store.get("large")
            store.delete("large")
            _core._arm(failpoints().index("FP_PIN_REMOVED") + 1, signal.SIGSTOP)
            buf.release()
            os._exit(0)
        try:
            assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
            assert store.stats().condemned == 1
            with pytest.raises(refstore.StoreFullError):
                store.put(bytes(CAPACITY))  # sweeps, and frees what the other was about to
            assert store.stats().condemned == 0
            assert store.recover() == refstore.Recovery(0, (), 0, 0, 0, 0, 0)
        finally:
            os.kill(child, signal.SIGCONT)
            os.waitpid(child, 0)


def test_nobody_answers_for_who_had_the_row_before() -> None:
    with fresh_store() as store:
        prepare(store)
        run_in_child(store, lambda: fork(store))
        store.recover()
        # its child dies with it, before it had a pid, in the row that the other child had
        assert kill_at(store, failpoints().index("FP_ROW_LIVE") + 1, fork)
        recovery = store.recover()
        assert (recovery.processes, len(recovery.pids)) == (2, 1)
