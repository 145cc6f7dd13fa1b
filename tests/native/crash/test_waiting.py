"""Whoever waits for a stopped process lets its own threads and signals go on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import helpers
import pytest
import signals

import refstore
from refstore import _core
from tests.native.crash.stopping import (
    INDEXED,
    LOCKED,
    MAP_REBUILT,
    NAME_LOCKED,
    Site,
    killed_at,
    stopped_at,
)

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

LARGE = bytes(100_000)
BUSY_TIMEOUT_MS = 20_000


class Wait(NamedTuple):
    """Somebody is stopped there, in that work, and this is what then waits for it."""

    site: Site
    stopped: Callable[[refstore.Store], object]
    waits: Callable[[refstore.Store], object]
    dies_first: bool = False  # another one, with the space lock


def replace(store: refstore.Store) -> None:
    store.put(b"new", name="n", replace=True)


def replace_by_writer(store: refstore.Store) -> None:
    with store.create(3, name="n", replace=True) as writer:
        memoryview(writer)[:] = b"new"


def put_large(store: refstore.Store) -> None:
    store.delete(store.put(LARGE))


WAITS = {
    "put under a name": Wait(NAME_LOCKED, replace, replace),
    "seal under a name": Wait(NAME_LOCKED, replace, replace_by_writer),
    "delete of a name": Wait(INDEXED, replace, lambda store: store.delete("n")),
    "put of much": Wait(LOCKED, put_large, put_large),
    "trim": Wait(LOCKED, put_large, refstore.Store.trim),
    "put during a recovery": Wait(MAP_REBUILT, refstore.Store.recover, put_large, True),
    "recover": Wait(MAP_REBUILT, refstore.Store.recover, refstore.Store.recover, True),
}
each_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    _core._set_busy_timeout(BUSY_TIMEOUT_MS)
    with signals.only_who_waits_lets_others_run():
        yield
    _core._set_busy_timeout(-1)


@contextlib.contextmanager
def somebody_stopped(store: refstore.Store, wait: Wait) -> Iterator[int]:
    store["n"] = b"old"
    store["other"] = b"other"
    if wait.dies_first:
        killed_at(LOCKED, lambda: store.put(LARGE))
    with stopped_at(wait.site, lambda: wait.stopped(store)) as pid:
        yield pid
    assert store.check() == []


@each_wait
def test_other_threads_go_on_while_one_waits(store: refstore.Store, wait: Wait) -> None:
    happened: list[Any] = []
    begun = threading.Lock()
    begun.acquire()
    with somebody_stopped(store, wait) as pid:

        def work() -> None:
            begun.release()
            try:
                wait.waits(store)
            except BaseException as error:
                happened.append(error)
            else:
                happened.append("waited")

        thread = threading.Thread(target=work)
        thread.start()
        with begun, store.get("other") as buf:
            assert bytes(buf) == b"other"
            happened.append("got")
            os.kill(pid, signal.SIGCONT)
        thread.join(helpers.BUSY_TIMEOUT)
        assert not thread.is_alive()
    assert happened == ["got", "waited"]


@each_wait
def test_a_signal_handler_runs_while_its_thread_waits(store: refstore.Store, wait: Wait) -> None:
    with somebody_stopped(store, wait) as pid:

        def let_go_on(*_: object) -> None:
            happened.append("handled")
            os.kill(pid, signal.SIGCONT)

        with signals.handler(signal.SIGUSR1, let_go_on), signals.sent_while_waiting() as happened:
            wait.waits(store)
            happened.append("waited")
    assert happened == ["sent", "handled", "waited"]


class InterruptedByTestError(Exception):
    pass


@each_wait
def test_what_a_signal_handler_raises_ends_the_wait(store: refstore.Store, wait: Wait) -> None:
    with somebody_stopped(store, wait):
        before = helpers.usage(store), len(list(store.names()))

        def give_up(*_: object) -> None:
            raise InterruptedByTestError

        with (
            signals.handler(signal.SIGUSR1, give_up),
            signals.sent_while_waiting() as happened,
            pytest.raises(InterruptedByTestError),
        ):
            wait.waits(store)
        assert happened == ["sent"]
        assert (helpers.usage(store), len(list(store.names()))) == before
    wait.waits(store)
    assert store.stats().condemned == 0


# -- what others do to a Writer while its seal waits, and to its process ------------------------


SEALS = WAITS["seal under a name"]


def test_an_abort_comes_too_late_for_a_seal_that_waits(store: refstore.Store) -> None:
    with somebody_stopped(store, SEALS) as pid:
        writer = store.create(3, name="n", replace=True)
        memoryview(writer)[:] = b"new"

        def abort(*_: object) -> None:
            writer.abort()
            os.kill(pid, signal.SIGCONT)

        with signals.handler(signal.SIGUSR1, abort), signals.sent_while_waiting():
            ref = writer.seal()
        assert writer.ref == ref
        assert writer.array.tobytes() == b"new"
        assert store.ref("n") == ref


def test_the_last_view_may_go_while_a_seal_waits(store: refstore.Store) -> None:
    with somebody_stopped(store, SEALS) as pid:
        writer = store.create(3, name="n", replace=True)
        views = [memoryview(writer)]

        def let_go(*_: object) -> None:
            views.clear()
            assert helpers.forked(writer.abort) == 0  # the child's is another one's
            os.kill(pid, signal.SIGCONT)

        with signals.handler(signal.SIGUSR1, let_go), signals.sent_while_waiting():
            ref = writer.seal()
        store.recover()  # the child had a pin of its own
        assert store.refcount(ref) == 1


def test_a_child_forked_by_a_handler_ends_its_parents_put(
    store: refstore.Store,
) -> None:
    children: list[int] = []
    with somebody_stopped(store, WAITS["put under a name"]) as pid:

        def fork(*_: object) -> None:
            with helpers.forking_on_purpose():
                child = os.fork()
            if child:
                children.append(child)
                os.kill(pid, signal.SIGCONT)

        with signals.handler(signal.SIGUSR1, fork), signals.sent_while_waiting():
            try:
                ref = store.put(b"mine", name="n", replace=True)
            except refstore.RefstoreError:
                os._exit(0 if not children else 1)
            if not children:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        assert bytes(store.get(ref)) == b"mine"
    assert store.refcount(ref) == 1
