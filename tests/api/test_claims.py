"""create(claim=True): a name that is the Writer's from the beginning, and nobody else's."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable
from typing import Any

import helpers
import pytest
import signals

import refstore
from refstore import _threads

MakeStore = Callable[..., refstore.Store]
LONG = helpers.BUSY_TIMEOUT

PUBLISHES: dict[str, Callable[[refstore.Store], object]] = {
    "put": lambda store: store.put(b"other", name="n"),
    "put large": lambda store: store.put(bytes(100_000), name="n"),
    "replace": lambda store: store.put(b"other", name="n", replace=True),
    "setitem": lambda store: store.__setitem__("n", b"other"),
    "create": lambda store: store.create(5, name="n"),
    "create to replace": lambda store: store.create(5, name="n", replace=True),
    "create with a claim": lambda store: store.create(5, name="n", claim=True),
    "create to replace with a claim": lambda store: store.create(
        5, name="n", replace=True, claim=True
    ),
    "put many": lambda store: store.put_many([b"other"], names=["n"]),
}
publishes = pytest.mark.parametrize("publish", PUBLISHES.values(), ids=PUBLISHES.keys())


def claimed(store: refstore.Store, data: bytes = b"claimed", **options: Any) -> refstore.Writer:
    writer = store.create(len(data), name="n", claim=True, **options)
    memoryview(writer)[:] = data
    return writer


@publishes
def test_a_claimed_name_is_refused_to_all_others(store: refstore.Store, publish: Any) -> None:
    with claimed(store):
        used = store.stats().used
        with pytest.raises(refstore.ObjectExistsError, match="is claimed by process") as caught:
            publish(store)
        assert store.stats().used == used
    assert (caught.value.pid, caught.value.key) == (os.getpid(), "n")
    assert isinstance(caught.value, FileExistsError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.pid, again.key, str(again)) == (os.getpid(), "n", str(caught.value))
    assert bytes(store["n"]) == b"claimed"


@publishes
def test_a_claim_that_is_given_up_is_nobodys(store: refstore.Store, publish: Any) -> None:
    writer = claimed(store)
    writer.abort()
    made = publish(store)
    if isinstance(made, refstore.Writer):
        made.seal()
    assert store.names() == ["n"]


def test_the_error_says_what_can_be_done(store: refstore.Store) -> None:
    with claimed(store), pytest.raises(refstore.ObjectExistsError) as caught:
        store.put(b"x", name="n")
    assert str(caught.value) == (
        f"the name 'n' in store {store.path!r} is claimed by process {os.getpid()}, which is "
        "writing an object for it: wait for that with get(timeout=) or wait(), or give another name"
    )


def test_a_seal_under_a_name_that_is_claimed_by_then_is_refused(store: refstore.Store) -> None:
    plain = store.create(5, name="n")
    with claimed(store):
        with pytest.raises(refstore.ObjectExistsError) as caught:
            plain.seal()
        assert caught.value.pid == os.getpid()
    assert plain.closed
    assert bytes(store["n"]) == b"claimed"
    store.delete("n")
    assert store.stats().used == 0


def test_a_claimed_name_has_no_object(store: refstore.Store) -> None:
    with claimed(store):
        assert "n" not in store
        assert (store.names(), list(store), len(store)) == ([], [], 0)
        for look in (store.get, store.ref, store.refcount, store.delete, store.info):
            with pytest.raises(refstore.ObjectNotFoundError):
                look("n")
        assert store.clear() == store.clear("n") == store.delete_many(["n"]) == 0
    assert store.names() == ["n"]


def test_a_claim_is_one_row(store: refstore.Store) -> None:
    with claimed(store):
        (row,) = store.objects()
        assert (row.ref, row.name, row.kind, row.state) == (None, "n", None, "claimed")
        assert (row.nbytes, row.pid) == (7, os.getpid())
        assert row.block_nbytes == store.stats().used
        assert [one.name for one in store.objects("n")] == ["n"]
        (holder,) = store.holders()
        assert (holder.pid, holder.ref, holder.name, holder.pins) == (os.getpid(), None, "n", 0)
        assert store.check() == []
    (row,) = store.objects()
    assert (row.ref, row.state) == (store.ref("n"), "live")


WAITS: dict[str, Callable[[refstore.Store], bytes]] = {
    "get": lambda store: bytes(store.get("n", timeout=LONG)),
    "wait": lambda store: bytes(store.wait("n", timeout=LONG)),
    "wait_any": lambda store: store.wait_any(["n"], timeout=LONG)[0].encode(),
    "get_or_put": lambda store: bytes(store.get_or_put("n", lambda: b"own", timeout=LONG)),
}
waits = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())


@waits
def test_a_claim_is_waited_for(store: refstore.Store, wait: Any) -> None:
    writer = claimed(store)
    with signals.done_while_waiting(writer.seal):
        assert wait(store) in (b"claimed", b"n")


def test_a_claim_that_is_given_up_is_taken_over(store: refstore.Store) -> None:
    writer = claimed(store)
    with signals.done_while_waiting(writer.abort):
        assert WAITS["get_or_put"](store) == b"own"


def test_waits_for_a_claim_end_with_their_time(store: refstore.Store) -> None:
    with claimed(store):
        for wait in (store.get, store.wait):
            with pytest.raises(refstore.GetTimeoutError, match="has claimed it") as caught:
                wait("n", timeout=0.05)
            assert caught.value.pid == os.getpid()
        with pytest.raises(refstore.GetTimeoutError, match="has claimed it") as caught:
            store.get_many(["n"], timeout=0.05)
        assert caught.value.pid == os.getpid()
        with pytest.raises(refstore.GetTimeoutError) as caught:
            store.get_or_put("n", lambda: b"x", timeout=0.05)
        assert caught.value.pid == os.getpid()


def test_a_wait_for_ones_own_writer_is_an_error(store: refstore.Store) -> None:
    with claimed(store), pytest.raises(refstore.RefstoreError, match="would wait for ever"):
        store.get_or_put("n", lambda: b"x")
    with store.get_or_put("n", lambda: b"x") as buf:
        assert bytes(buf) == b"claimed"


def test_what_another_thread_has_sealed_until_it_ended_is_found(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = claimed(store)

    def has_others() -> bool:
        writer.seal()  # as a thread that has ended by now
        return False

    with monkeypatch.context() as patch:
        patch.setattr(_threads, "has_others", has_others)
        with store.get_or_put("n", lambda: b"x") as buf:
            assert bytes(buf) == b"claimed"


def test_a_claim_in_the_last_slot_gives_way_to_a_hard_one(make_store: MakeStore) -> None:
    store = make_store(max_objects=2)
    writers: list[refstore.Writer] = []

    def claim() -> bytes:
        writers.append(claimed(store))
        return b"own"

    with pytest.raises(refstore.GetTimeoutError):
        store.get_or_put("n", claim, timeout=0.05)
    writers[0].seal()
    assert bytes(store["n"]) == b"claimed"


# --- beside an object that has the name


def test_the_old_object_is_readable_until_the_seal(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    with claimed(store, replace=True) as writer:
        assert bytes(store["n"]) == b"old"
        assert store.ref("n") == old
        assert store.names() == ["n"]
        assert store.get_or_put("n", lambda: b"x").ref == old
        assert sorted(row.state for row in store.objects("n")) == ["claimed", "live"]
        assert store.check() == []
        with pytest.raises(refstore.ObjectExistsError) as caught:
            store.put(b"other", name="n", replace=True)
        assert caught.value.pid == os.getpid()
    assert store.ref("n") == writer.ref
    assert old not in store
    assert len(store) == 1


def test_the_old_object_stays_if_the_claim_is_given_up(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    claimed(store, replace=True).abort()
    assert store.ref("n") == old
    assert store.put(b"new", name="n", replace=True) == store.ref("n")
    assert len(store) == 1


def test_the_old_object_may_be_deleted_meanwhile(store: refstore.Store) -> None:
    store.put(b"old", name="n")
    writer = claimed(store, replace=True)
    store.delete("n")
    assert "n" not in store
    with pytest.raises(refstore.ObjectExistsError, match="is claimed"):
        store.put(b"other", name="n")
    assert writer.seal() == store.ref("n")
    assert store.check() == []


def test_a_newer_version_is_waited_for_while_it_is_claimed(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    writer = claimed(store, replace=True)
    with signals.done_while_waiting(writer.seal):
        assert bytes(store.wait("n", newer_than=old, timeout=LONG)) == b"claimed"


@pytest.mark.parametrize("options", [{}, {"claim": True}], ids=repr)
def test_a_name_that_is_taken_cannot_be_claimed(store: refstore.Store, options: Any) -> None:
    store.put(b"there", name="n")
    with pytest.raises(refstore.ObjectExistsError, match="has an object named 'n'") as caught:
        store.create(1, name="n", **options)
    assert caught.value.pid is None
    assert len(list(store.objects())) == 1


# --- Writers that claim


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_writers_of_any_size_may_claim(store: refstore.Store, size: int) -> None:
    data = helpers.pattern(2, size)
    with claimed(store, data) as writer:
        assert store.check() == []
    assert bytes(store["n"]) == data
    assert store.refcount(writer.ref) == 1
    store.delete("n")
    assert store.stats().used == 0


def test_an_array_may_be_claimed(store: refstore.Store) -> None:
    with store.create(shape=(2, 3), dtype="f4", name="n", claim=True) as writer:
        writer.array[:] = 7
    assert store["n"].array.tolist() == [[7.0] * 3] * 2


def test_a_claim_is_of_a_name(store: refstore.Store) -> None:
    with pytest.raises(ValueError, match=r"create\(claim=True\) claims a name: give one"):
        store.create(1, claim=True)
    assert list(store.objects()) == []


def test_an_exception_ends_the_claim(store: refstore.Store) -> None:
    with pytest.raises(ZeroDivisionError), claimed(store):
        1 / 0  # noqa: B018
    store.put(b"x", name="n")


def test_a_writer_that_is_collected_ends_its_claim(store: refstore.Store) -> None:
    writer = claimed(store)
    del writer
    gc.collect()
    store.put(b"x", name="n")
    assert store.check() == []


def test_a_view_that_outlives_its_claim_does_not_keep_the_name(
    store: refstore.Store,
) -> None:
    writer = claimed(store)
    view = memoryview(writer)
    writer.abort()
    store.put(b"x", name="n")
    assert store.stats().condemned == 1
    assert bytes(view) == b"claimed"
    view.release()
    assert (store.stats().condemned, store.names()) == (0, ["n"])


def test_many_names_may_be_claimed_at_once(store: refstore.Store) -> None:
    writers = {f"n{i}": store.create(1, name=f"n{i}", claim=True) for i in range(100)}
    assert store.check() == []
    for i, (name, writer) in enumerate(writers.items()):
        if i % 2:
            writer.abort()
            store.put(b"x", name=name)
        else:
            writer.seal()
    assert len(store) == 100
    assert store.check() == []


def test_a_claim_takes_one_slot(make_store: MakeStore) -> None:
    store = make_store(max_objects=1)
    with claimed(store), pytest.raises(refstore.StoreFullError):
        store.put(b"x")
    assert bytes(store["n"]) == b"claimed"
