"""Calls that wait for names: they return when there is something, and say why if there is not."""

from __future__ import annotations

import fractions
import gc
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest
import signals
import workers
from children import child_process

import refstore

MakeStore = Callable[..., refstore.Store]
LONG = helpers.BUSY_TIMEOUT

WAITS: dict[str, Callable[..., object]] = {
    "get": lambda store, timeout=LONG: store.get("n", timeout=timeout),
    "wait": lambda store, timeout=LONG: store.wait("n", timeout=timeout),
    "wait_any": lambda store, timeout=LONG: store.wait_any(["m", "n"], timeout=timeout),
}
waits = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())


@waits
def test_a_wait_ends_with_the_publication(store: refstore.Store, wait: Any) -> None:
    with signals.done_while_waiting(lambda: store.put(b"published", name="n")):
        found = wait(store)
    assert found == ["n"] or bytes(found) == b"published"


@waits
def test_a_wait_ends_with_the_seal_of_a_writer(store: refstore.Store, wait: Any) -> None:
    with store.create(9, name="n") as writer:
        memoryview(writer)[:] = b"published"
        with signals.done_while_waiting(writer.seal):
            found = wait(store)
    assert found == ["n"] or bytes(found) == b"published"


@waits
def test_a_wait_for_what_is_there_returns_at_once(store: refstore.Store, wait: Any) -> None:
    store.put(b"there", name="n")
    found = wait(store, None)
    assert found == ["n"] or bytes(found) == b"there"


@waits
def test_a_wait_ends_with_its_time(store: refstore.Store, wait: Any) -> None:
    store.put(b"another", name="another")
    began = time.monotonic()
    with pytest.raises(refstore.GetTimeoutError, match=r"0\.1 seconds") as caught:
        wait(store, 0.1)
    assert 0.1 <= time.monotonic() - began < LONG
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.pid, caught.value.ready) == (None, [])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.pid, again.ready) == (str(caught.value), None, [])
    assert store.stats().pinned == 0


def test_a_get_without_time_does_not_wait(store: refstore.Store) -> None:
    with pytest.raises(refstore.ObjectNotFoundError, match="there is no object named 'n'"):
        store.get("n")


@pytest.mark.parametrize("wait", [WAITS["wait"], WAITS["wait_any"]], ids=["wait", "wait_any"])
def test_other_waits_without_time_look_once(store: refstore.Store, wait: Any) -> None:
    with pytest.raises(refstore.GetTimeoutError, match="0 seconds"):
        wait(store, 0)


def test_the_error_says_who_is_to_be_looked_at(store: refstore.Store) -> None:
    with pytest.raises(refstore.GetTimeoutError) as caught:
        store.get("weights", timeout=0.01)
    assert str(caught.value) == (
        f"nothing was published as 'weights' in store {store.path!r} within 0.01 seconds: see "
        "whether its publisher runs, or give a longer timeout"
    )


def test_a_ref_to_what_is_deleted_never_waits(make_store: MakeStore) -> None:
    store, other = make_store(), make_store(name="other")
    ref = store.put(b"x")
    store.delete(ref)
    for gone in (ref, other.put(b"y")):
        with pytest.raises(refstore.ObjectNotFoundError):
            store.get(gone, timeout=None)


def test_a_ref_to_what_is_there_needs_no_time(store: refstore.Store) -> None:
    assert bytes(store.get(store.put(b"x"), timeout=None)) == b"x"


def test_a_waiting_get_may_be_writable(store: refstore.Store) -> None:
    with signals.done_while_waiting(lambda: store.put(b"abc", name="n")):
        buf = store.get("n", timeout=LONG, writable=True)
    memoryview(buf)[:1] = b"x"
    assert bytes(buf) == b"xbc"
    assert bytes(store["n"]) == b"abc"


# --- newer versions


def test_a_version_that_is_known_is_waited_out(store: refstore.Store) -> None:
    first = store.put(b"1", name="n")
    with signals.done_while_waiting(lambda: store.put(b"2", name="n", replace=True)):
        buf = store.wait("n", newer_than=first, timeout=LONG)
    assert bytes(buf) == b"2"
    assert buf.ref != first


def test_the_latest_version_is_what_a_wait_returns(store: refstore.Store) -> None:
    first = store.put(b"1", name="n")
    for version in (b"2", b"3", b"4"):
        store.put(version, name="n", replace=True)
    assert bytes(store.wait("n", newer_than=first)) == b"4"
    assert store.stats().objects == 1


def test_a_name_that_was_deleted_is_no_newer_version(store: refstore.Store) -> None:
    first = store.put(b"1", name="n")
    store.delete("n")
    with pytest.raises(refstore.GetTimeoutError, match="nothing was published as 'n'"):
        store.wait("n", newer_than=first, timeout=0.05)
    with signals.done_while_waiting(lambda: store.put(b"1", name="n")):
        buf = store.wait("n", newer_than=first, timeout=LONG)
    assert buf.ref != first


def test_a_version_that_stays_is_told(store: refstore.Store) -> None:
    first = store.put(b"1", name="n")
    with pytest.raises(
        refstore.GetTimeoutError, match=r"'n' .* got no object newer than `newer_than`"
    ):
        store.wait("n", newer_than=first, timeout=0.05)
    assert store.refcount(first) == 1


def test_the_object_of_another_name_or_store_is_older(make_store: MakeStore) -> None:
    store, other = make_store(), make_store(name="other")
    ref = store.put(b"1", name="n")
    for known in (None, store.put(b"2"), other.put(b"3", name="n")):
        assert store.wait("n", newer_than=known, timeout=0).ref == ref


@pytest.mark.parametrize("known", ["n", b"\0" * 16, 1])
def test_a_version_is_known_by_its_ref(store: refstore.Store, known: Any) -> None:
    with pytest.raises(TypeError, match=r"newer_than is .*: give an ObjectRef or None"):
        store.wait("n", newer_than=known)


def test_a_wait_takes_a_name(store: refstore.Store) -> None:
    wait: Any = store.wait
    with pytest.raises(TypeError, match="a name is a str"):
        wait(store.put(b"x"), timeout=0)
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        wait("", timeout=0)


# --- many names


def test_names_come_in_the_order_in_which_they_were_asked_for(store: refstore.Store) -> None:
    for name in "dba":
        store.put(b"x", name=name)
    assert store.wait_any(name for name in "abcd") == ["a", "b", "d"]
    assert store.wait_any(["d", "c", "a"], count=2) == ["d", "a"]
    assert store.wait_any(["b", "b"], count=2) == ["b", "b"]


def test_a_wait_for_several_ends_when_there_are_as_many(store: refstore.Store) -> None:
    store.put(b"x", name="c")

    def publish() -> None:
        store.put(b"x", name="unasked")
        store.put(b"x", name="a")

    with signals.done_while_waiting(publish):
        assert store.wait_any(["a", "b", "c"], count=2, timeout=LONG) == ["a", "c"]


def test_too_few_are_listed(store: refstore.Store) -> None:
    store.put(b"x", name="b")
    with pytest.raises(refstore.GetTimeoutError) as caught:
        store.wait_any(["a", "b", "c"], count=2, timeout=0.05)
    assert caught.value.ready == ["b"]
    assert str(caught.value).startswith("1 of 3 names have objects in store")
    assert pickle.loads(pickle.dumps(caught.value)).ready == ["b"]


@pytest.mark.parametrize("count", [0, -1, 3, 1 << 70])
def test_a_count_is_one_to_all_of_the_names(store: refstore.Store, count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}, of 2 names"):
        store.wait_any(["a", "b"], count=count)


@pytest.mark.parametrize("count", [None, 1.0, "1", True])
def test_a_count_is_an_int(store: refstore.Store, count: Any) -> None:
    with pytest.raises(TypeError, match="count is "):
        store.wait_any(["a"], count=count)


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ("abc", TypeError, "names is one str: give a list"),
        (5, TypeError, "names is one int: give a list"),
        ([b"a"], TypeError, "a name is a str"),
        (None, TypeError, "names is None: give a list"),
        ([""], ValueError, "1 to 255 bytes"),
        ([], ValueError, "of 0 names"),
    ],
    ids=repr,
)
def test_names_are_an_iterable_of_names(
    store: refstore.Store, names: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        store.wait_any(names, timeout=0)


def test_ten_thousand_names_may_be_waited_for(store: refstore.Store) -> None:
    names = [f"name {i}" for i in range(10_000)]
    with signals.done_while_waiting(lambda: store.put(b"x", name=names[9_876])):
        assert store.wait_any(names, timeout=LONG) == [names[9_876]]


# --- what may come in the way


class Interrupt(Exception):
    pass


@waits
def test_a_signal_whose_handler_raises_ends_a_wait(store: refstore.Store, wait: Any) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    with (
        signals.handler(signal.SIGUSR1, interrupt),
        pytest.raises(Interrupt),
        signals.sent_while_waiting(),
    ):
        wait(store, None)
    store.put(b"x", name="n")
    assert store.stats().pinned == 0
    assert store.refcount("n") == 1


@waits
def test_a_wait_goes_on_after_a_signal(store: refstore.Store, wait: Any) -> None:
    publish = signals.between_changes(lambda: store.put(b"by the handler", name="n"))
    with signals.handler(signal.SIGUSR1, publish), signals.sent_while_waiting():
        found = wait(store)
    assert found == ["n"] or bytes(found) == b"by the handler"


@waits
def test_a_child_forked_in_a_wait_does_not_go_on_with_it(store: refstore.Store, wait: Any) -> None:
    children: list[int] = []

    def fork() -> None:
        with helpers.forking_on_purpose():
            children.append(os.fork())
        if children[0]:
            store.put(b"by the parent", name="n")

    status = 1
    try:
        handle = signals.between_changes(fork)
        with signals.handler(signal.SIGUSR1, handle), signals.sent_while_waiting():
            found = wait(store)
    except refstore.RefstoreError as error:
        status = 0 if "in the middle of its parent's call" in str(error) else 2
    finally:
        if children == [0]:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert found == ["n"] or bytes(found) == b"by the parent"


@waits
def test_a_store_that_is_closed_waits_no_more(store: refstore.Store, path: str, wait: Any) -> None:
    with (
        refstore.Store(path, create=False) as other,
        pytest.raises(ValueError, match="this store is closed"),
        signals.done_while_waiting(other.close),
    ):
        wait(other)
    store.put(b"x", name="n")


@waits
def test_a_timeout_is_any_number(store: refstore.Store, wait: Any) -> None:
    for timeout in (fractions.Fraction(1, 1000), np.float32(0.001), np.int8(0)):
        with pytest.raises((refstore.GetTimeoutError, refstore.ObjectNotFoundError)):
            wait(store, timeout)


@waits
def test_nobody_waits_for_a_store_that_nobody_can_reach(store: refstore.Store, wait: Any) -> None:
    store.unlink()
    with pytest.raises(refstore.RefstoreError, match="would wait for ever: the file of store"):
        wait(store, None)
    store.put(b"x", name="n")
    wait(store, None)


@waits
def test_a_store_is_given_up_while_one_waits(store: refstore.Store, wait: Any) -> None:
    with (
        pytest.raises(refstore.RefstoreError, match="no other process is attached"),
        signals.done_while_waiting(store.unlink),
    ):
        wait(store, None)


@waits
def test_a_removed_store_is_waited_for_while_others_are_attached(
    store: refstore.Store, path: str, wait: Any
) -> None:
    with child_process(path) as child:
        store.unlink()
        with signals.done_while_waiting(lambda: child.tell(workers.put, b"x", "n")):
            found = wait(store, None)
        assert found == ["n"] or bytes(found) == b"x"
        child.answer()


def test_many_threads_wait_for_one_name(store: refstore.Store) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bytes(store.wait("n", timeout=LONG))))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    store.put(b"x", name="n")
    for thread in threads:
        thread.join(LONG)
    assert found == [b"x"] * 20
    assert store.stats().pinned == 0


@waits
def test_a_closed_store_is_not_waited_for(store: refstore.Store, wait: Any) -> None:
    store.close()
    with pytest.raises(ValueError, match="this store is closed"):
        wait(store, None)


# --- one thread that waits for others


@pytest.mark.parametrize("change", ["publish", "replace", "delete"])
def test_a_watch_sees_what_changes_after_it_looked(store: refstore.Store, change: str) -> None:
    changes: dict[str, Callable[[], object]] = {
        "publish": lambda: store.put(b"x", name="new"),
        "replace": lambda: store.put(b"x", name="n", replace=True),
        "delete": lambda: store.delete("n"),
    }
    store.put(b"x", name="n")
    watch = engine_of(store)._watch()
    seen = watch.seen(["n", "new"])
    changes[change]()
    began = time.monotonic()
    watch.sleep(["n", "new"], seen, LONG)
    with signals.done_while_waiting(
        changes["publish"] if change != "publish" else changes["delete"]
    ):
        watch.sleep(["n", "new"], watch.seen(["n", "new"]), LONG)
    assert time.monotonic() - began < LONG


def test_a_watch_that_is_poked_sleeps_no_more(store: refstore.Store) -> None:
    watch = engine_of(store)._watch()
    began = time.monotonic()
    watch.poke()
    watch.sleep(["n"], watch.seen(["n"]), LONG)  # a poke before the sleep ends it
    with signals.done_while_waiting(watch.poke):
        watch.sleep(["n"], watch.seen(["n"]), LONG)
    assert time.monotonic() - began < LONG


def test_a_watch_wakes_by_itself(store: refstore.Store) -> None:
    watch = engine_of(store)._watch()
    began = time.monotonic()
    watch.sleep(["n"], watch.seen(["n"]), 0.1)
    watch.sleep([], watch.seen([]), 0.1)
    assert 0.2 <= time.monotonic() - began < LONG


def test_a_watch_keeps_no_store_open(store: refstore.Store, folder: Any) -> None:
    watch, att = engine_of(store)._watch(), weakref.ref(engine_of(store)._attachment)
    store.unlink()
    store.close()
    gc.collect()
    assert att() is None
    assert helpers.mappings(folder) == []
    watch.sleep(["n"], watch.seen(["n"]), 0.01)
    watch.poke()


def engine_of(store: refstore.Store) -> Any:
    return store
