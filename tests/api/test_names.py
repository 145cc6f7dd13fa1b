"""Names: what may be one, publishing, replacing, deleting; and no tombstones, however often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import engines
import helpers
import numpy as np
import pytest

import refstore

LONGEST = "é" * 127 + "x"  # 255 bytes of UTF-8

GOOD = [
    "a",
    "with spaces and / and \\",
    "ünïcödé",
    "名前",
    "🙂" * 63,
    "x" * 255,
    LONGEST,
    "nul\0inside",
    "\0",
    "line\nbreak",
    ".",
    "..",
    "0",
]
TOO_LONG = ["x" * 256, "é" * 128, "🙂" * 64, "x" * 100_000]
WRONG_TYPES = [b"bytes", 5, 1.5, ("a",), bytearray(b"x"), object()]

Use = Callable[[refstore.Store, Any], object]

USES: dict[str, Use] = {
    "put": lambda store, name: store.put(b"x", name=name),
    "put replacing": lambda store, name: store.put(b"x", name=name, replace=True),
    "create": lambda store, name: store.create(10, name=name),
    "get": lambda store, name: store.get(name),
    "delete": lambda store, name: store.delete(name),
    "refcount": lambda store, name: store.refcount(name),
    "ref": lambda store, name: store.ref(name),
    "[]": lambda store, name: store[name],
    "[] =": lambda store, name: store.__setitem__(name, b"x"),
    "del []": lambda store, name: store.__delitem__(name),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_works_everywhere(store: refstore.Store, name: str) -> None:
    ref = store.put(b"value", name=name)
    assert store.ref(name) == ref
    assert name in store
    assert list(store.names()) == [name]
    assert bytes(store[name]) == b"value"
    assert store.refcount(name) == 1
    with store.get(name) as buf:
        assert buf.ref == ref
    store[name] = b"another"
    assert bytes(store.get(name)) == b"another"
    del store[name]
    assert name not in store
    assert len(store) == 0


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("name", ["", *TOO_LONG, "\ud800"], ids=lambda name: repr(name)[:12])
def test_a_bad_name_is_a_value_error(store: refstore.Store, use: Use, name: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)name|surrogate"):
        use(store, name)
    assert store.stats().used == 0


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("name", WRONG_TYPES, ids=lambda name: type(name).__name__)
def test_a_name_of_another_type_is_a_type_error(
    store: refstore.Store, use: Use, name: object
) -> None:
    with pytest.raises(TypeError):
        use(store, name)
    assert store.stats().used == 0


@pytest.mark.parametrize("use", ["get", "delete", "refcount", "ref", "[]", "del []"])
def test_none_is_no_name(store: refstore.Store, use: str) -> None:
    store.put(b"unnamed", name=None)
    with pytest.raises(TypeError):
        USES[use](store, None)


@pytest.mark.parametrize("use", ["get", "delete", "refcount", "ref", "[]", "del []"])
def test_a_missing_name_is_not_found(store: refstore.Store, use: str) -> None:
    store["there"] = b"x"
    with pytest.raises(refstore.ObjectNotFoundError, match="missing") as caught:
        USES[use](store, "missing")
    assert isinstance(caught.value, KeyError)
    assert "missing" not in store


def test_names_that_share_a_beginning_are_apart(store: refstore.Store) -> None:
    names = ["x" * n for n in range(1, 256)]
    for name in names:
        store[name] = len(name)
    assert sorted(store.names()) == sorted(names)
    assert [store[name].value for name in names] == [len(name) for name in names]


def test_a_name_is_compared_by_its_code_points(store: refstore.Store) -> None:
    store["é"] = b"composed"
    store["e\u0301"] = b"decomposed"
    assert bytes(store["é"]) == b"composed"
    assert len(store) == 2


def test_a_taken_name_is_refused(store: refstore.Store) -> None:
    ref = store.put(b"first", name="n")
    before = helpers.usage(store)
    with pytest.raises(refstore.ObjectExistsError, match="n") as caught:
        store.put(b"second", name="n")
    assert isinstance(caught.value, FileExistsError)
    assert helpers.usage(store) == before
    assert store.ref("n") == ref
    assert bytes(store["n"]) == b"first"


def test_a_taken_name_is_refused_for_an_object_too(store: refstore.Store) -> None:
    store["n"] = b"first"
    before = helpers.usage(store)
    with pytest.raises(refstore.ObjectExistsError, match="n"):
        store.put({"a": np.ones(10_000)}, name="n")
    assert helpers.usage(store) == before


def test_replace_swaps_the_name_and_deletes_the_earlier_object(store: refstore.Store) -> None:
    old = store.put(b"old", name="n")
    new = store.put(b"new", name="n", replace=True)
    assert old != new
    assert old not in store
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get(old)
    assert store.ref("n") == new
    assert list(store) == [new]
    assert list(store.names()) == ["n"]


def test_replace_of_a_name_that_is_not_there_publishes_it(store: refstore.Store) -> None:
    store.put(b"x", name="n", replace=True)
    assert bytes(store["n"]) == b"x"


def test_replace_without_a_name_is_an_ordinary_put(store: refstore.Store) -> None:
    store.put(b"a", replace=True)
    store.put(b"b", replace=True)
    assert len(store) == 2


def test_a_replace_that_finds_no_room_keeps_the_old_object(store: refstore.Store) -> None:
    old = store.put(b"x" * (store.capacity // 2 + 1), name="n")
    before = helpers.usage(store)
    with pytest.raises(refstore.StoreFullError):
        store["n"] = b"y" * (store.capacity // 2 + 1)
    assert store.ref("n") == old
    assert helpers.usage(store) == before


def test_a_replace_that_cannot_be_pickled_keeps_the_old_object(store: refstore.Store) -> None:
    store["n"] = b"old"
    with pytest.raises(TypeError):
        store["n"] = [np.ones(1000), threading.Lock()]
    assert bytes(store["n"]) == b"old"
    assert len(store) == 1


def test_delete_by_ref_frees_the_name(store: refstore.Store) -> None:
    store.delete(store.put(b"x", name="n"))
    assert "n" not in store
    assert list(store.names()) == []
    store.put(b"y", name="n")
    assert bytes(store["n"]) == b"y"


def test_delete_by_name_deletes_the_object(store: refstore.Store) -> None:
    ref = store.put(b"x", name="n")
    store.delete("n")
    assert ref not in store
    with pytest.raises(refstore.ObjectNotFoundError, match="n"):
        store.delete("n")
    assert store.stats().used == 0


def test_a_name_can_be_used_again_while_the_old_object_is_pinned(store: refstore.Store) -> None:
    store["n"] = b"old"
    with store["n"] as old:
        del store["n"]
        assert "n" not in store
        store["n"] = b"new"
        assert bytes(old) == b"old"
        assert bytes(store["n"]) == b"new"
    assert len(store) == 1


def test_unnamed_objects_have_no_names(store: refstore.Store) -> None:
    store.put(b"x")
    store.put(b"y", name="y")
    assert list(store.names()) == ["y"]
    assert len(store) == 2


def test_iteration_gives_the_refs_of_all_live_objects(store: refstore.Store) -> None:
    refs = {store.put(i, name=f"n{i}" if i % 2 else None) for i in range(500)}
    assert set(store) == refs
    assert all(isinstance(ref, refstore.ObjectRef) for ref in store)
    assert len(store) == len(list(store)) == 500
    for ref in list(store)[::3]:
        store.delete(ref)
        refs.remove(ref)
    assert set(store) == refs
    assert all(ref in store for ref in refs)


def test_objects_may_be_deleted_while_iterating(store: refstore.Store) -> None:
    for i in range(100):
        store[f"n{i}"] = i
    for ref in store:
        store.delete(ref)
    assert len(store) == 0
    for i in range(100):
        store[f"n{i}"] = i
    for name in store.names():
        del store[name]
    assert len(store) == 0


def test_names_leave_no_rot(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store("1MiB", max_objects=64)
    count = engines.rounds(20_000)
    for i in range(count):
        store.put(b"%d" % i, name=f"passing {i}")
        if i >= 50:
            store.delete(f"passing {i - 50}")
    assert sorted(store.names()) == sorted(f"passing {i}" for i in range(count - 50, count))
    for i in range(count // 2):
        store["hot"] = i
    assert store["hot"].value == count // 2 - 1
    assert store.check() == []
    for name in list(store.names()):
        del store[name]
    helpers.assert_full_capacity_fits(store)


def test_as_many_names_as_objects(make_store: Callable[..., refstore.Store]) -> None:
    count = engines.rounds(3000)
    store = make_store("8MiB", max_objects=count)
    for round_ in range(2):
        for i in range(count):
            store.put(b"%d" % i, name=f"round {round_} name {i}")
        assert len(set(store.names())) == count
        for i in range(count):
            assert bytes(store[f"round {round_} name {i}"]) == b"%d" % i
        for name in store.names():
            store.delete(name)


def test_a_long_name_costs_no_capacity(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store(1_000_000)
    store[LONGEST] = b"x" * 1_000_000
    assert store[LONGEST].nbytes == 1_000_000
    store["n" * 255] = b""
    assert len(store) == 2


def test_a_prefix_may_be_of_a_subclass_of_str(store: refstore.Store) -> None:
    store["a 1"] = store["a 2"] = store["b"] = b""
    prefix = np.str_("a ")
    assert sorted(store.names(prefix)) == ["a 1", "a 2"]
    assert {one.name for one in store.objects(prefix)} == {"a 1", "a 2"}
    assert store.clear(prefix) == 2
