"""Names that are claimed while an object has them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.stopping import NAME_LOCKED, arm, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

READ = ("find_in", "failpoint()")  # a cell of the name's buckets is read
PUBLISHING = ("publish_locked", "store_release(&slot.word, publishing)")
BEGUN = ("start_slot", "assign(slot.spill_nbytes")
NAMES = [f"name {k}" for k in range(60)]  # of some of them the claim is read before the object


def claims_and_stops(path: str, name: str) -> Callable[[], None]:
    """Stops when the name is claimed, and again amid the seal."""

    def work() -> None:
        store = refstore.Store(path, create=False)
        writer = store.create(3, name=name, replace=True, claim=True)
        writer.write_at(0, b"new")
        os.kill(os.getpid(), signal.SIGSTOP)
        arm(PUBLISHING, signal.SIGSTOP)
        writer.seal()

    return work


def reads_twice(path: str, name: str) -> Callable[[], None]:
    """Stops once it has read a cell; what it finds then never goes back."""

    def work() -> None:
        store = refstore.Store(path, create=False)
        arm(READ, signal.SIGSTOP)
        found = [bytes(store[name]) for _ in range(2)]
        assert found != [b"new", b"old"]

    return work


def test_nobody_finds_an_object_before_its_name_leads_to_it(
    store: refstore.Store, path: str
) -> None:
    crowd = [store.put(b"", name=f"other {k}") for k in range(2000)]
    for name in NAMES:
        store[name] = b"old"
    for ref in crowd:  # whose cells come free
        store.delete(ref)
    for name in NAMES:
        with (
            helpers.stopped(claims_and_stops(path, name)) as claimant,
            helpers.stopped(reads_twice(path, name)),
        ):
            os.kill(claimant, signal.SIGCONT)
            assert os.WIFSTOPPED(os.waitpid(claimant, os.WUNTRACED)[1])
        assert bytes(store[name]) == b"new"


def test_a_claim_is_seen_while_its_slot_takes_the_object(
    make_store: Callable[..., refstore.Store],
) -> None:
    store = make_store(max_objects=1)

    def make() -> bytes:
        arm(BEGUN, signal.SIGSTOP)
        return b"made"

    def work() -> None:
        with refstore.Store(store.path, create=False) as other:
            other.get_or_put("n", make)

    with helpers.stopped(work) as maker:
        with pytest.raises(refstore.GetTimeoutError) as caught:
            store.get_or_put("n", lambda: b"", timeout=0.05)
        assert caught.value.pid == maker
    assert bytes(store["n"]) == b"made"
    assert store.check() == []


def test_who_is_forked_while_a_publication_waits_keeps_no_pin(store: refstore.Store) -> None:
    held_up = contextlib.ExitStack()
    children: list[int] = []

    def make() -> bytes:
        put = stopped_at(NAME_LOCKED, lambda: store.put(b"other", name="n"))
        held_up.enter_context(put)
        return b"made"

    def visit(point: str) -> None:
        if point == "waiting for another process" and not children:
            with helpers.forking_on_purpose():
                children.append(os.fork())
            if children[0]:
                held_up.close()

    _core._visit_points(visit)
    try:
        with store.get_or_put("n", make) as buf:
            assert bytes(buf) == b"other"
    except refstore.RefstoreError:  # in the child
        os._exit(sum(holder.pid == os.getpid() for holder in store.holders()))
    finally:
        _core._visit_points(None)
    assert os.waitpid(children[0], 0)[1] == 0
