"""Whoever sleeps is woken by what happens, whoever dies on the way: no nap ends by itself here."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.stopping import INDEXED as REPLACED
from tests.native.crash.stopping import NAME_LOCKED, killed_at, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

INDEXED = ("index_in", "cas_acq_rel(&bucket.cells[k]")
SEALED = ("end_writing", "cas_seq_cst(&v.slots[i].word")
ANNOUNCED = ("announce", "fetch_add_seq_cst_u32(&stripe.changes")
FREED = ("free_slot", "generation + 1, FREE")
HINTED = ("hint_set", "fetch_or_release(&words")
TURN_TAKEN = ("take_turn", "cas_acq_rel(&v.pool.turn")
UNPINNED = ("unpin", "fetch_sub_seq_cst_u32(&v.pins[i], 1)")
LOOKED = ("pin", "failpoint()")  # the word of the object is read
NAP_MS = 1000 * int(helpers.BUSY_TIMEOUT) * 2


@pytest.fixture(autouse=True)
def sound_sleep() -> Iterator[None]:
    _core._set_nap(NAP_MS)
    yield
    _core._set_nap(-1)


@contextlib.contextmanager
def asleep(store: refstore.Store, *works: Callable[[], object]) -> Iterator[None]:
    """Forked children that do these works, all asleep by now; at the end, they have done them."""
    children = []
    for work in works:
        with helpers.forking_on_purpose():
            pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                work()
                status = 0
            os._exit(status)
        children.append(pid)
    try:
        wait_until(lambda: _core._waiting(store) == len(works))
        yield
        for pid in children:
            wait_until(lambda pid=pid: has_ended(pid))  # type: ignore[misc]
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert statuses == [0] * len(works)


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + helpers.BUSY_TIMEOUT
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def get(store: refstore.Store, data: bytes) -> Callable[[], object]:
    def wait() -> None:
        assert bytes(store.get("n", timeout=None)) == data

    return wait


def newer(store: refstore.Store, known: refstore.ObjectRef) -> Callable[[], object]:
    def wait() -> None:
        assert bytes(store.wait("n", newer_than=known)) == b"new"

    return wait


def any_of(store: refstore.Store, n: int) -> Callable[[], object]:
    def wait() -> None:
        assert store.wait_any([*(f"nothing {k}" for k in range(n)), "n"]) == ["n"]

    return wait


def test_all_who_wait_are_woken_at_once(store: refstore.Store) -> None:
    waits = [get(store, b"new"), get(store, b"new"), any_of(store, 5), any_of(store, 500)]
    with asleep(store, *waits):
        store.put(b"new", name="n")


def test_who_waits_for_a_newer_version_is_woken_by_it(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    with asleep(store, newer(store, old)):
        store.put(b"new", name="n", replace=True)


def test_a_name_that_comes_again_is_a_newer_version(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    with asleep(store, newer(store, old)):
        store.delete("n")
        store.put(b"new", name="n")


@pytest.mark.parametrize("site", [INDEXED, SEALED, ANNOUNCED], ids=lambda site: site[0])
def test_what_a_dead_process_has_published_wakes(
    store: refstore.Store, site: tuple[str, str]
) -> None:
    with asleep(store, get(store, b"new"), any_of(store, 5), any_of(store, 500)):
        killed_at(site, lambda: store.put(b"new", name="n"))
        store.recover()


def test_what_a_dead_recoverer_has_sealed_wakes(store: refstore.Store) -> None:
    with asleep(store, get(store, b"new")):
        killed_at(INDEXED, lambda: store.put(b"new", name="n"))
        killed_at(SEALED, store.recover)
        store.recover()


def test_what_a_dead_process_put_in_the_place_of_another_wakes(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    with asleep(store, newer(store, old)):
        killed_at(REPLACED, lambda: store.put(b"new", name="n", replace=True))
        store.recover()


def test_who_begins_to_wait_during_a_publication_is_woken_by_it(store: refstore.Store) -> None:
    with (
        contextlib.ExitStack() as sleepers,
        stopped_at(NAME_LOCKED, lambda: store.put(b"new", name="n")),
    ):
        sleepers.enter_context(asleep(store, get(store, b"new"), any_of(store, 500)))


def test_what_is_published_between_look_and_sleep_ends_it(
    store: refstore.Store,
) -> None:
    old = store.put(b"old", name="n")
    with stopped_at(UNPINNED, newer(store, old)) as pid:
        store.put(b"new", name="n", replace=True)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: has_ended(pid))


def test_many_names_are_looked_at_after_their_words_are_read(store: refstore.Store) -> None:
    # Of the stripes' words, one that has changed since makes the kernel refuse to sleep.
    engine: Any = store
    watch = engine._watch()
    for names in (["n"], [f"nothing {k}" for k in range(500)] + ["n"]):
        seen = watch.seen(names)
        store.put(b"new", name="n", replace=True)
        watch.sleep(names, seen, helpers.BUSY_TIMEOUT)
    assert watch.seen(["n"]) != seen[-1:]


def test_who_waits_for_a_change_is_woken_by_a_removal(store: refstore.Store) -> None:
    engine: Any = store
    watch = engine._watch()
    began = time.monotonic()
    for key_of in (lambda _: "n", lambda ref: ref):
        ref = store.put(b"old", name="n")
        seen = watch.seen(["n"])
        store.delete(key_of(ref))
        watch.sleep(["n"], seen, helpers.BUSY_TIMEOUT)
    assert time.monotonic() - began < helpers.BUSY_TIMEOUT


def test_a_sleeper_that_dies_is_waited_for_by_nobody(store: refstore.Store) -> None:
    with helpers.forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        store.get("n", timeout=None)
        os._exit(1)
    wait_until(lambda: _core._waiting(store) == 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert _core._waiting(store) == 0
    store.put(b"new", name="n")
    store.recover()
    assert store.check() == []


# --- for room


def fill(store: refstore.Store) -> refstore.ObjectRef:
    return store.put(bytes(store.capacity))


def put(store: refstore.Store, n: int) -> Callable[[], object]:
    """Of a part of the capacity."""

    def wait() -> None:
        store.put(bytes(store.capacity // n), timeout=None)

    return wait


def test_all_who_wait_for_room_are_woken_by_what_comes_free(store: refstore.Store) -> None:
    ref = fill(store)
    with asleep(store, put(store, 4), put(store, 4), put(store, 2)):
        store.delete(ref)
    assert len(store) == 3


def test_who_waits_for_room_is_woken_by_the_last_unpin(store: refstore.Store) -> None:
    ref = fill(store)
    with asleep(store, put(store, 1)), store.get(ref):  # a child has no pin of it
        store.delete(ref)


def test_room_that_a_dead_process_held_wakes(store: refstore.Store) -> None:
    ref = fill(store)
    with asleep(store, put(store, 1)):
        killed_at(LOOKED, lambda: store.get(ref))
        store.delete(ref)
        store.recover()


@pytest.mark.parametrize("site", [FREED, HINTED], ids=lambda site: site[0])
def test_room_that_a_process_freed_and_died_wakes(
    store: refstore.Store, site: tuple[str, str]
) -> None:
    ref = fill(store)
    with asleep(store, put(store, 1)):
        killed_at(site, lambda: store.delete(ref))
        store.recover()


@pytest.mark.parametrize("is_recovered", [False, True])
def test_the_turn_of_a_dead_process_goes_to_the_next(
    store: refstore.Store, is_recovered: bool
) -> None:
    ref = fill(store)
    killed_at(TURN_TAKEN, put(store, 1))
    if is_recovered:
        store.recover()
        assert store.check() == []
    with asleep(store, put(store, 2)):
        store.delete(ref)
