"""`info`, `objects`, `names(prefix)`, `clear`: what is there, in whatever state, and who put it."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Iterator

import helpers
import numpy as np
import pytest
import workers
from children import child_process

import refstore
from refstore import ObjectInfo, _identity

FIELDS = (
    *("ref", "name", "kind", "nbytes", "block_nbytes", "pins", "pid", "command", "created"),
    *("owned", "evictable", "state"),
)


def only(store: refstore.Store) -> ObjectInfo:
    (info,) = store.objects()
    return info


def test_every_field_of_an_object(store: refstore.Store) -> None:
    before = time.time()
    ref = store.put(np.arange(25, dtype="f4"), name="n")
    info = store.info("n")
    assert [field.name for field in dataclasses.fields(info)] == list(FIELDS)
    assert (info.ref, info.name, info.kind, info.nbytes) == (ref, "n", "array", 100)
    assert info.block_nbytes == store.stats().used
    assert (info.pins, info.pid, info.state) == (0, os.getpid(), "live")
    assert (info.owned, info.evictable) == (False, False)
    assert info.command == " ".join(_identity.command().decode().split())
    assert before - 1 / 8 <= info.created <= time.time() + 1 / 8
    assert store.info(ref) == info
    assert only(store) == info


@pytest.mark.parametrize(
    ("obj", "kind", "nbytes"),
    [
        (b"abc", "bytes", 3),
        (b"", "bytes", 0),
        (np.zeros((0, 3)), "array", 0),
        ({"a": 1}, "object", None),
    ],
    ids=["bytes", "no bytes", "empty", "object"],
)
def test_what_every_kind_is(
    store: refstore.Store, obj: object, kind: str, nbytes: int | None
) -> None:
    info = store.info(store.put(obj))
    with store.get(info.ref or "") as buf:
        assert (info.kind, info.nbytes) == (kind, buf.nbytes)
    assert nbytes in (None, info.nbytes)


def test_pins_of_all_processes_are_counted(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x")
    with child_process(path) as child, store.get(ref), store.get(ref):
        child.do(workers.hold, ref)
        assert store.info(ref).pins == 3
        assert store.refcount(ref) == 4
        child.do(workers.drop)
        assert store.info(ref).pins == 2
    assert store.info(ref).pins == 0


def test_looking_pins_nothing_and_is_no_get(store: refstore.Store) -> None:
    ref = store.put(b"x")
    before = store.stats()
    store.info(ref)
    list(store.objects())
    assert store.stats() == before


@pytest.mark.parametrize("key", ["no such name", None], ids=["name", "ref"])
def test_what_is_not_there_is_not_found(store: refstore.Store, key: str | None) -> None:
    gone = store.put(b"x")
    store.delete(gone)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.info(key or gone)


def test_info_does_not_find_what_is_deleted_and_pinned(store: refstore.Store) -> None:
    ref = store.put(b"abc", name="n")
    with store.get(ref):
        store.delete(ref)
        with pytest.raises(refstore.ObjectNotFoundError):
            store.info(ref)
        info = only(store)
        assert (info.ref, info.kind, info.nbytes, info.pins) == (ref, "bytes", 3, 1)
        assert info.state == "pending delete"
    assert list(store.objects()) == []


def test_what_is_being_written_is_no_object_yet(store: refstore.Store) -> None:
    with store.create(1000, name="n"):
        info = only(store)
        assert (info.ref, info.kind, info.nbytes) == (None, None, 1000)
        assert (info.state, info.pid) == ("writing", os.getpid())
        with pytest.raises(refstore.ObjectNotFoundError):
            store.info("n")
    assert only(store).state == "live"


def test_what_was_aborted_and_is_viewed_never_was_an_object(store: refstore.Store) -> None:
    writer = store.create(1000)
    view = memoryview(writer)
    writer.abort()
    info = only(store)
    assert (info.ref, info.kind, info.state) == (None, None, "pending delete")
    del view
    assert list(store.objects()) == []


def test_all_of_many_are_listed_once(store: refstore.Store) -> None:
    refs = store.put_many([b"%d" % i for i in range(2500)])
    assert {info.ref for info in store.objects()} == set(refs)
    assert len(list(store.objects())) == 2500


def test_a_prefix_leaves_others_out(store: refstore.Store) -> None:
    names = ["batch/1", "batch/2", "bat", "ünicode/1", "ünicode/2"]
    store.put_many([b"x"] * 5, names=names)
    store.put(b"nameless")
    for prefix in ("batch/", "bat", "ünicode", "x", "batch/1"):
        wanted = sorted(name for name in names if name.startswith(prefix))
        assert sorted(info.name or "" for info in store.objects(prefix)) == wanted
        assert sorted(store.names(prefix)) == wanted
    assert {info.name for info in store.objects("")} == set(names)
    assert {info.name for info in store.objects()} == {*names, None}
    assert set(store.names("")) == set(names)


def test_clear_deletes_what_begins_so(store: refstore.Store) -> None:
    store.put_many([b"x"] * 4, names=["batch/1", "batch/2", "bat", "other"])
    nameless = store.put(b"nameless")
    assert store.clear("batch/") == 2
    assert sorted(store.names()) == ["bat", "other"]
    assert nameless in store
    assert store.clear() == 3
    assert len(store) == 0


def test_clear_leaves_what_is_pinned_to_its_pins(store: refstore.Store) -> None:
    with store.get(store.put(b"abc")) as buf:
        assert store.clear() == 1
        assert bytes(buf) == b"abc"
        assert store.stats().condemned == 1


@pytest.mark.parametrize("prefix", [b"bytes", 5])
def test_a_prefix_is_text(store: refstore.Store, prefix: object) -> None:
    wrong: list[object] = [store.objects, store.clear, store.names]
    for call in wrong:
        with pytest.raises(TypeError, match="a prefix is a str"):
            call(prefix)  # type: ignore[operator]


def test_a_closed_store_is_refused_at_once(store: refstore.Store) -> None:
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.objects()


def test_a_store_that_is_closed_amid_a_list_is_refused(store: refstore.Store) -> None:
    store.put_many([b"x"] * 2500)
    listed: Iterator[ObjectInfo] = store.objects()
    next(listed)
    store.close()
    with pytest.raises(ValueError, match="closed"):
        list(listed)


def test_who_put_it_is_known_when_it_is_gone(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        pid = child.pid
        ref = child.do(workers.put, b"x", "n")
        command = store.info(ref).command
        child.kill()
    store.recover()
    info = store.info(ref)
    assert (info.pid, info.command) == (pid, command)
    assert command
    assert store.info(store.put(b"y")).pid == os.getpid()


def test_who_writes_it_is_who_put_it(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        child.do(workers.begin, 1000, "n")
        assert (only(store).pid, only(store).state) == (child.pid, "writing")
        child.do(workers.seal)
        assert (only(store).pid, only(store).state) == (child.pid, "live")


def test_a_forked_childs_objects_are_its_own(store: refstore.Store) -> None:
    store.put(b"parent", name="parent")
    pid = os.getpid()

    def put() -> None:
        store.put(b"child", name="child")
        assert store.info("child").pid == os.getpid()

    assert helpers.forked(put) == 0
    assert store.info("child").pid != pid
    assert store.info("parent").pid == pid


def test_processes_are_told_apart_however_many_put(store: refstore.Store) -> None:
    pids = set()
    for number in range(20):
        assert helpers.forked(functools.partial(store.put, b"x", name=f"{number}")) == 0
        pids.add(store.info(f"{number}").pid)
    assert len(pids) == 20
