"""A process is stopped with something in hand: others see no fault in that, and go on."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.failpoints import Passes, failpoints
from tests.native.crash.stopping import LOCKED, killed_at, stopped_at

MakeStore = Callable[..., refstore.Store]
Work = Callable[[refstore.Store], object]

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

SLOT_CLAIMED = ("claim", "cas_acq_rel")


# -- check() ----------------------------------------------------------------------------------


def write_and_give_up(store: refstore.Store) -> None:
    with store.create(50_000) as writer:
        writer.abort()


def read_by_name(store: refstore.Store) -> None:
    store.get("n").release()


def look_for_what_is_gone(store: refstore.Store) -> None:
    ref = store.ref("n")
    store.delete(ref)
    with contextlib.suppress(refstore.ObjectNotFoundError):
        store.get(ref)


WORK: dict[str, Work] = {
    "put of little": lambda store: store.put(bytes(100)),
    "put of nothing": lambda store: store.put(b""),
    "put of pages": lambda store: store.put(bytes(100_000)),
    "put under a name": lambda store: store.put(b"new", name="new"),
    "put in another's place": lambda store: store.put(b"new", name="n", replace=True),
    "create and abort": write_and_give_up,
    "get": read_by_name,
    "get of what is gone": look_for_what_is_gone,
    "delete by name": lambda store: store.delete("n"),
    "delete by ref": lambda store: store.delete(store.ref("n")),
    "trim": refstore.Store.trim,
}


@contextlib.contextmanager
def populated(path: str) -> Iterator[refstore.Store]:
    """A store with an object in it, and with room that was in use before."""
    with refstore.Store(path, capacity="1MiB", max_objects=64, create=True) as store:
        for size in (100, 3000, 60_000):
            store.delete(store.put(bytes(size)))
        store["n"] = b"old"
        try:
            yield store
        finally:
            store.unlink()


def passed_by(path: str, work: Work) -> list[tuple[int, int]]:
    """The failpoints on the way of a forked child that does this: first and last pass."""
    passes = Passes()
    with populated(path) as store:

        def watched() -> None:
            passes.count()
            work(store)
            _core._count_passes(0)

        assert helpers.forked(watched) == 0
    return [(number, skip) for number, times in passes.passed() for skip in {0, times - 1}]


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_check_finds_no_fault_wherever_another_stands_still(path: str, work: Work) -> None:
    points = passed_by(path, work)
    assert points
    for number, skip in points:
        with populated(path) as store:
            with stopped_at(number, functools.partial(work, store), skip):
                assert store.check() == [], str(failpoints()[number])
            store.recover()
            assert store.check() == [], str(failpoints()[number])


# -- slots ------------------------------------------------------------------------------------


def fill(store: refstore.Store, error: type[refstore.RefstoreError]) -> refstore.RefstoreError:
    """Put nothing at all until that error comes."""

    def until_it_comes() -> None:
        for _ in range(store.max_objects + 1):
            store.put(b"")

    with pytest.raises(error) as caught:
        until_it_comes()
    return caught.value


def test_a_put_says_who_is_stopped_with_the_last_slots(
    make_store: MakeStore, short_busy_timeout: None
) -> None:
    store = make_store("1MiB", max_objects=64)
    store.put(b"")
    with stopped_at(SLOT_CLAIMED, lambda: store.put(bytes(100)), skip=4) as pid:
        error = fill(store, refstore.StoreBusyError)
        assert isinstance(error, refstore.StoreBusyError)
        assert error.pid == pid
        assert f"process {pid}" in str(error)
        assert len(store) < store.max_objects - 1
        assert store.check() == []
        objects = store.stats().objects
    store.put(b"")
    assert store.stats().objects == objects + 2  # the other's is there, too
    fill(store, refstore.StoreFullError)
    assert len(store) == store.max_objects


def test_a_put_with_all_slots_taken_says_so_beside_a_stopped_one(
    make_store: MakeStore, short_busy_timeout: None
) -> None:
    """Somebody who has none of them in hand."""
    store = make_store("1MiB", max_objects=64)
    ref = store.put(b"")
    with stopped_at(("pin", "fetch_add_seq_cst_u32"), lambda: store.get(ref)):
        fill(store, refstore.StoreFullError)
        assert len(store) == store.max_objects


# -- trim() -----------------------------------------------------------------------------------


def test_a_trim_after_a_killed_trim_gives_short_slots_back(
    make_store: MakeStore,
) -> None:
    store = make_store("4MiB", max_objects=16)
    refs = [store.put(bytes(200_000)) for _ in range(15)]
    store.put(b"x")
    for ref in refs:
        store.delete(ref)
    killed_at(LOCKED, store.trim)
    assert store.trim() >= 14 * 200_000
    store.recover()
    assert store.check() == []
    helpers.fill_with_junk(store)


def test_a_put_gets_the_last_slot_once_its_holder_is_killed(
    make_store: MakeStore,
) -> None:
    store = make_store("4MiB", max_objects=64)
    store.delete(store.put(bytes(3_000_000)))
    refs = [store.put(bytes(100)) for _ in range(63)]
    store.delete(refs.pop())
    with stopped_at(LOCKED, store.trim, ends=-signal.SIGKILL) as pid:
        fill(store, refstore.StoreBusyError)
        os.kill(pid, signal.SIGKILL)
        store.put(bytes(100))
