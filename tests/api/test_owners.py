"""Owners: what a process owns goes when its last Store on the file is closed, and not before."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import helpers
import pytest

import refstore

MakeStore = Callable[..., refstore.Store]


def owned(store: refstore.Store) -> list[bool]:
    return [row.owned for row in store.objects()]


PUTS: dict[str, Callable[[refstore.Store], refstore.ObjectRef]] = {
    "put": lambda store: store.put(b"x", owned=True),
    "put large": lambda store: store.put(bytes(3_000_000), owned=True),
    "put with a name": lambda store: store.put(b"x", name="n", owned=True),
    "put many": lambda store: store.put_many([b"x"], owned=True)[0],
    "create": lambda store: store.create(1, owned=True).seal(),
    "claim": lambda store: store.create(1, name="n", claim=True, owned=True).seal(),
    "get_or_put": lambda store: store.get_or_put("n", lambda: b"x", owned=True).ref,
    "adopt": lambda store: adopted(store, store.put(b"x")),
    "adopt by name": lambda store: adopted(store, store.put(b"x", name="n"), "n"),
}


def adopted(store: refstore.Store, ref: refstore.ObjectRef, key: Any = None) -> refstore.ObjectRef:
    store.adopt(ref if key is None else key)
    return ref


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS.keys())
def test_what_a_store_owns_goes_when_it_is_closed(make_store: MakeStore, put: Any) -> None:
    store = make_store()
    path = store.path
    kept = store.put(b"kept")
    ref = put(store)
    assert store.info(ref).owned
    assert not store.info(kept).owned
    assert store.check() == []
    store.close()
    with refstore.Store(path, create=False) as again:
        assert list(again) == [kept]
        assert again.names() == []
        assert again.check() == []


def test_what_is_owned_stays_until_the_last_store_is_closed(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"x", owned=True)
    with refstore.Store(path, create=False) as second:
        owned_by_second = second.put(b"y", owned=True)
    assert ref in store
    assert owned_by_second in store
    third = refstore.Store(path, create=False)
    store.close()
    assert list(third) == [ref, owned_by_second]
    third.close()
    with refstore.Store(path, create=False) as again:
        assert len(again) == 0


def test_what_is_owned_goes_with_a_store_that_is_collected(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    store.close()
    refstore.Store(path, create=False).put(b"x", owned=True)
    gc.collect()
    with refstore.Store(path, create=False) as again:
        assert len(again) == 0


def test_views_keep_what_went_with_its_owner(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    data = helpers.pattern(1, 100_000)
    with store.get(store.put(data, name="n", owned=True)) as buf:
        view = memoryview(buf)
    store.close()
    with refstore.Store(path, create=False) as again:
        assert "n" not in again
        assert again.stats().condemned == 1
        assert bytes(view) == data
        view.release()
        assert (again.stats().used, again.stats().condemned) == (0, 0)


def test_a_writer_that_outlives_its_store_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    writer = store.create(1, name="n", owned=True)
    store.close()
    writer.seal()
    with refstore.Store(path, create=False) as again:
        assert (again.names(), again.stats().used) == ([], 0)


def test_what_is_disowned_stays(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    refs = store.put_many([b"1", b"2", b"3"], names=["a", "b", "c"], owned=True)
    store.disown(refs[0])
    store.disown("b")
    store.disown("b")
    assert owned(store) == [False, False, True]
    store.close()
    with refstore.Store(path, create=False) as again:
        assert list(again) == refs[:2]


def test_who_adopts_twice_is_still_one_owner(store: refstore.Store) -> None:
    ref = store.put(b"x", owned=True)
    store.adopt(ref)
    store.adopt(ref)
    assert owned(store) == [True]
    store.delete(ref)
    assert store.check() == []


def test_an_owned_object_is_deleted_like_any_other(store: refstore.Store) -> None:
    ref = store.put(b"x", owned=True)
    store.delete(ref)
    assert store.put(b"y") != ref
    assert owned(store) == [False]


def test_what_replaces_an_owned_object_has_its_own_owner(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    store.put(b"1", name="n", owned=True)
    store.put(b"2", name="n", replace=True)
    store.put(b"3", name="m")
    store.put(b"4", name="m", replace=True, owned=True)
    store.close()
    with refstore.Store(path, create=False) as again:
        assert again.names() == ["n"]
        assert bytes(again["n"]) == b"2"


def test_many_owned_objects_go(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path
    for i in range(300):
        store.put(bytes(i), name=f"n{i}", owned=i % 3 > 0)
    store.close()
    with refstore.Store(path, create=False) as again:
        assert sorted(again.names()) == sorted(f"n{i}" for i in range(0, 300, 3))
        assert again.check() == []


@pytest.mark.parametrize("give", ["adopt", "disown"])
def test_what_is_not_there_gets_no_owner(make_store: MakeStore, give: str) -> None:
    store, other = make_store(), make_store(name="other")
    gone, foreign = store.put(b"x"), other.put(b"x")
    store.delete(gone)
    call: Any = getattr(store, give)
    for key in (gone, foreign, "n"):
        with pytest.raises(refstore.ObjectNotFoundError):
            call(key)
    for wrong, error in ((1, TypeError), ("", ValueError)):
        with pytest.raises(error):
            call(wrong)
    store.close()
    with pytest.raises(ValueError, match="this store is closed"):
        call(gone)


def test_what_is_being_written_has_no_owner_yet(store: refstore.Store) -> None:
    with store.create(1, name="n", owned=True):
        assert owned(store) == [False]
    assert owned(store) == [True]


def test_a_forked_child_owns_nothing(store: refstore.Store) -> None:
    ref = store.put(b"x", owned=True)

    def close() -> None:
        assert store.info(ref).owned
        store.close()

    assert helpers.forked(close) == 0
    assert ref in store


def test_a_forked_child_may_own_something(store: refstore.Store) -> None:
    def put_and_close() -> None:
        store.put(b"the child's", owned=True)
        store.close()

    mine = store.put(b"mine", owned=True)
    assert helpers.forked(put_and_close) == 0
    assert list(store) == [mine]


def test_a_forked_child_may_adopt_and_disown(store: refstore.Store) -> None:
    adopted, disowned = store.put(b"x", owned=True), store.put(b"y", owned=True)

    def take() -> None:
        store.adopt(adopted)
        store.disown(disowned)
        store.close()

    assert helpers.forked(take) == 0
    assert list(store) == [disowned]
    assert owned(store) == [False]


def test_a_program_that_ends_leaves_nothing_that_it_owned(store: refstore.Store) -> None:
    source = """
        import sys, refstore
        store = refstore.Store(sys.argv[1], create=False)
        store.put(b"kept", name="kept")
        store.put(b"owned", name="owned", owned=True)
        view = memoryview(store.get(store.put(b"pinned", name="pinned", owned=True)))
    """
    helpers.run_clean(source, store.path)
    assert store.names() == ["kept"]
