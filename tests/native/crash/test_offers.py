"""What is offered for eviction: who reads it keeps it, whoever is stopped or dies in between."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import helpers
import pytest
import workers
from children import child_process

import refstore
from refstore import _core
from tests.native.crash.stopping import Site, killed_at, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

MakeStore = Callable[..., refstore.Store]
SIZE = 900_000  # of which one object fits
OFFERED = ("offer", "if not cas_seq_cst(&v.slots[i].word, &word, offered)")
LOOKED_AT = ("pinned_by", "failpoint()")  # one row, and the next one is to come
SCANNED = ("pinned_at_all", "failpoint()")
TAKEN = ("take_offered", "return cas_seq_cst")
UNINDEXED = ("clear_cell", "cas_acq_rel(at, &cell, 0)")
OLD, NEW = helpers.pattern(1, SIZE), helpers.pattern(2, SIZE)


@pytest.fixture(params=[None, "lru", "s3fifo"])
def store(make_store: MakeStore, request: pytest.FixtureRequest) -> refstore.Store:
    """A store with one object, "it", that has to go before another one comes."""
    store = make_store("1MiB", evict=request.param)
    store.put(OLD, name="it", evictable=True)
    return store


def evict(store: refstore.Store) -> Callable[[], None]:
    """Puts another object, if there is room for it."""

    def work() -> None:
        with contextlib.suppress(refstore.StoreFullError):
            store.put(NEW, name="new", evictable=False)

    return work


def require_whole(store: refstore.Store, *names: str) -> None:
    """No other names are there, and the objects are what was put."""
    assert store.names() == list(names)
    for name in names:
        with store.get(name) as buf:
            assert bytes(buf) == (OLD if name == "it" else NEW)
    assert store.check() == []


# -- readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [OFFERED, SCANNED])
@pytest.mark.parametrize("by_name", [True, False])
def test_who_reads_what_is_offered_keeps_it(
    store: refstore.Store, site: Site, by_name: bool
) -> None:
    key = "it" if by_name else store.ref("it")
    with stopped_at(site, evict(store)):
        buf = store.get(key)
    assert bytes(buf) == OLD
    require_whole(store, "it")
    buf.release()
    evict(store)()
    require_whole(store, "new")


@pytest.mark.parametrize("site", [OFFERED, SCANNED])
def test_what_was_read_meanwhile_is_not_taken_on_an_old_look(
    store: refstore.Store, site: Site
) -> None:
    """The scan has found no pin, and finds none again: the offer itself is gone."""
    with stopped_at(site, evict(store)):
        store.get("it").release()
        assert store.refcount("it") == 1
    # by another offer, or not at all; in any case what is there is whole
    require_whole(store, *store.names())
    assert store.names() in (["it"], ["new"])


def test_an_offer_that_was_read_is_not_taken(make_store: MakeStore) -> None:
    """Of two offers the first one fails, and there is another object to go."""
    store = make_store("1MiB", evict="lru")
    refs = [store.put(helpers.pattern(n, 400_000), name=f"{n}") for n in range(2)]
    with stopped_at(SCANNED, lambda: store.put(bytes(400_000), evictable=False)):
        for ref in refs:
            store.get(ref).release()
        assert [store.refcount(ref) for ref in refs] == [1, 1]
    assert len(store) == 2
    assert store.check() == []


def test_a_pin_that_moves_to_a_child_amid_the_scan_counts(store: refstore.Store, path: str) -> None:
    """The child's row comes before its parent's, and the scan has passed it."""
    store.get("it").release()  # so that our row is looked at, and stops the scan
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as lower:
        for _ in range(2):
            lower.enter_context(child_process(path)).do(workers.nothing)
        reader = stack.enter_context(child_process(path))
        reader.do(workers.hold, "it")
        lower.close()  # two rows: for the evictor, and for the child
        with stopped_at(LOOKED_AT, evict(store)):
            reader.do(workers.fork_a_reader)
        store.get("it").release()
        require_whole(store, "it")
        assert reader.do(workers.read_by_reader) == OLD[:100]
        evict(store)()
        require_whole(store, "new")


# -- deleters, and others ---------------------------------------------------------------------


@pytest.mark.parametrize("site", [OFFERED, SCANNED])
@pytest.mark.parametrize("by_name", [True, False])
def test_what_is_offered_can_be_deleted(store: refstore.Store, site: Site, by_name: bool) -> None:
    key = "it" if by_name else store.ref("it")
    with stopped_at(site, evict(store)):
        store.delete(key)
        assert store.names() == []
        assert store.stats().used == 0
        store.put(OLD, name="it", evictable=False)
    require_whole(store, "it")


def test_what_is_offered_can_be_replaced(make_store: MakeStore) -> None:
    store = make_store("1MiB", evict="lru")
    store["it"] = bytes(500_000)
    work: Callable[[], object] = lambda: store.put(bytes(700_000), evictable=False)  # noqa: E731
    with stopped_at(OFFERED, work, ends=1):  # there is no room: the new one is not to go
        store.put(bytes(400_000), name="it", replace=True, evictable=False)
    assert store["it"].nbytes == 400_000
    assert store.check() == []


@pytest.mark.parametrize("site", [OFFERED, LOOKED_AT, SCANNED])
def test_an_evictor_that_stands_still_hinders_nobody(store: refstore.Store, site: Site) -> None:
    store.get("it").release()
    with stopped_at(site, evict(store)):
        began = time.monotonic()
        assert bytes(store["it"]) == OLD
        store.delete(store.put(bytes(1000), evictable=False))
        store.get("it").release()
        assert time.monotonic() - began < 1


# -- deaths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [OFFERED, SCANNED])
def test_what_a_dead_process_has_offered_lives_on(store: refstore.Store, site: Site) -> None:
    ref = store.ref("it")
    killed_at(site, evict(store))
    store.recover()
    assert store.refcount(ref) == 1
    require_whole(store, "it")
    evict(store)()
    require_whole(store, "new")


@pytest.mark.parametrize("site", [OFFERED, SCANNED])
def test_what_a_dead_process_has_offered_can_be_read(store: refstore.Store, site: Site) -> None:
    killed_at(site, evict(store))
    with store.get("it") as buf:
        assert bytes(buf) == OLD
        store.recover()
        assert bytes(buf) == OLD
    require_whole(store, "it")


def test_an_offer_of_the_dead_is_in_nobodys_way(store: refstore.Store) -> None:
    """Nobody asks for a recovery: who needs the room does it."""
    killed_at(OFFERED, evict(store))
    evict(store)()
    require_whole(store, "new")


@pytest.mark.parametrize("site", [TAKEN, UNINDEXED])
def test_what_a_dead_process_has_taken_is_gone(store: refstore.Store, site: Site) -> None:
    killed_at(site, evict(store))
    assert store.names() == []
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get("it")
    store.recover()
    assert (store.check(), store.stats().used) == ([], 0)
    store.put(OLD, name="it", evictable=False)
    require_whole(store, "it")


# -- each state, to all who look at it --------------------------------------------------------


class State(NamedTuple):
    """How an object comes to be in it, and whether it is there then."""

    name: str
    reach: Callable[[refstore.Store], contextlib.AbstractContextManager[object]]
    is_live: bool
    pending: bool = False


@contextlib.contextmanager
def _sealed(store: refstore.Store) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _condemned(store: refstore.Store) -> Iterator[None]:
    with store.get("it"):
        store.delete("it")
        yield


@contextlib.contextmanager
def _freed(store: refstore.Store) -> Iterator[None]:
    store.delete("it")
    yield


@contextlib.contextmanager
def _written(store: refstore.Store) -> Iterator[None]:
    store.delete("it")
    with store.create(SIZE, name="it") as writer:
        memoryview(writer)[:] = OLD
        yield


def _published(site: Site) -> Callable[[refstore.Store], contextlib.AbstractContextManager[int]]:
    def reach(store: refstore.Store) -> contextlib.AbstractContextManager[int]:
        store.delete("it")
        return stopped_at(site, lambda: store.put(OLD, name="it"))

    return reach


def _evicted(site: Site) -> Callable[[refstore.Store], contextlib.AbstractContextManager[int]]:
    return lambda store: stopped_at(site, evict(store))


STATES = [
    State("SEALED", _sealed, is_live=True),
    State("CONDEMNED", _condemned, is_live=False, pending=True),
    State("FREE", _freed, is_live=False),
    State("WRITING", _written, is_live=False),
    State(
        "PUBLISHING, not indexed",
        _published(("publish_locked", "store_release(&slot.word, publishing)")),
        is_live=False,
    ),
    State("PUBLISHING", _published(("index_in", "cas_acq_rel")), is_live=True),
    State("OFFERED", _evicted(OFFERED), is_live=True),
    State("RECLAIMING", _evicted(TAKEN), is_live=False),
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_all_calls_agree_on_what_is_there(make_store: MakeStore, state: State) -> None:
    store = make_store("1MiB")
    store.put(OLD, name="it", evictable=True)
    ref = store.ref("it")
    with state.reach(store):
        live = ["it"] if state.is_live else []
        assert store.names() == live
        assert ("it" in store) is state.is_live
        assert len(store) == store.stats().objects == len(live)
        assert [info.name for info in store.objects() if info.state == "live"] == live
        assert store.stats().condemned == state.pending
        assert {info.state for info in store.objects()} <= {"live", "pending delete", "writing"}
        assert [held.name for held in store.holders() if held.ref and held.pid == os.getpid()] == (
            ["it"] if state.pending else []
        )
        if state.is_live:
            ref = store.ref("it")
            assert store.info("it").ref == ref
            assert (store.refcount(ref), ref in store) == (1, True)
            assert len(store.holders("it")) == 0
            store.trim()
            with store.get("it") as buf:
                assert bytes(buf) == OLD
                assert store.refcount("it") == 2
                assert len(store.holders(ref)) == 1
        else:
            assert ref not in store
            for look in (store.get, store.info, store.refcount, store.delete):
                with pytest.raises(refstore.ObjectNotFoundError):
                    look("it")
    assert store.check() == []


def test_an_offer_survives_a_rebuild(store: refstore.Store) -> None:
    """Its pages are still its own to who makes the map of pages anew."""
    with stopped_at(OFFERED, evict(store)):
        killed_at(("lock", "cas_acq_rel(word"), lambda: store.put(bytes(50_000), evictable=False))
        store.put(bytes(50_000), evictable=False)
        buf = store.get("it")
    assert bytes(buf) == OLD
    buf.release()
    assert store.check() == []
