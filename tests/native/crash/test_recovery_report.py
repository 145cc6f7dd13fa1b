"""What recover() says came back, after a death at a failpoint, is what came back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash import operations
from tests.native.crash.contents import CAPACITY, NAMED
from tests.native.crash.failpoints import failpoint, failpoints

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

Work = Callable[[refstore.Store], None]
OLD_BLOCK = 192  # bytes of the block of the object that is replaced
EXTENT_SET = ("give_extent", "assign(v.slots[i].extent")
FILLED = ("publish_object", "failpoint()")
REPLACES_SET = ("publish_locked", "store_release_u32(&slot.replaces_slot")
PUBLISHING = ("publish_locked", "store_release(&slot.word, publishing)")
CELL_SWAPPED = ("publish_locked", "indexed = cas_acq_rel")
CELL_TAKEN = ("index_in", "cas_acq_rel(&bucket.cells[k]")
SETTLED = ("end_writing", "cas_seq_cst(&v.slots[i].word")


@pytest.fixture
def store(make_store: Callable[..., refstore.Store]) -> refstore.Store:
    made = make_store(CAPACITY, max_objects=2000)
    for name, data in NAMED.items():
        made.put(data, name=name)
    return made


def used(store: refstore.Store) -> int:
    return store.stats().used


def dies_at(number: int, store: refstore.Store, work: Work) -> bool:
    """Whether a forked child that does the work died there."""

    def cut_short() -> None:
        _core._arm(number, signal.SIGKILL)
        work(store)

    status = helpers.forked(cut_short)
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize(
    ("site", "work", "pins", "unfinished", "published", "locks"),
    [
        (EXTENT_SET, operations.put_large, 0, 1, 0, 1),
        (FILLED, operations.put_large, 0, 1, 0, 0),
        (REPLACES_SET, operations.replace, 1, 1, 0, 1),
        (PUBLISHING, operations.replace, 1, 1, 0, 1),
        (CELL_SWAPPED, operations.replace, 1, 0, 1, 1),
        (CELL_TAKEN, operations.put_named, 0, 0, 1, 1),
        (SETTLED, operations.replace, 1, 0, 0, 1),
    ],
)
def test_it_counts_what_was_done(
    store: refstore.Store,
    site: tuple[str, str],
    work: Work,
    pins: int,
    unfinished: int,
    published: int,
    locks: int,
) -> None:
    assert dies_at(failpoint(*site).number, store, work)
    before = used(store)
    recovery = store.recover()
    assert recovery.processes == len(recovery.pids) == 1
    counts = recovery.pins, recovery.unfinished, recovery.published, recovery.locks
    assert counts == (pins, unfinished, published, locks)
    assert recovery.nbytes == before - used(store)
    if published and work is operations.replace:
        assert recovery.nbytes == OLD_BLOCK


@pytest.mark.parametrize(
    "work", [operations.replace, operations.delete_pinned, operations.write_and_abort]
)
def test_it_counts_the_bytes_that_came_free(store: refstore.Store, work: Work) -> None:
    freed = []
    for point in failpoints():
        for name in NAMED.keys() - set(store.names()):
            store.put(NAMED[name], name=name)
        if dies_at(point.number, store, work):
            before = used(store)
            freed.append(store.recover().nbytes)
            assert freed[-1] == before - used(store), point
    assert any(freed)


def test_what_a_stopped_process_left_to_others_is_no_recovery(store: refstore.Store) -> None:
    child = os.fork()
    if child == 0:
        buf = store.get("large")
        store.delete("large")
        _core._arm(failpoint("unpin", "fetch_sub_seq_cst_u32").number, signal.SIGSTOP)
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


def test_nobody_answers_for_who_had_the_row_before(store: refstore.Store) -> None:
    helpers.forked(lambda: operations.fork(store))
    store.recover()
    # its child dies with it, before it had a pid, in the row that the other child had
    assert dies_at(failpoint("mark_live", "fetch_or_seq_cst").number, store, operations.fork)
    recovery = store.recover()
    assert (recovery.processes, len(recovery.pids)) == (2, 1)
