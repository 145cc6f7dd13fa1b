"""A closed store refuses every method; what it handed out goes on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import refstore

REF = refstore.ObjectRef(bytes(16))

METHODS: dict[str, Callable[[refstore.Store], Any]] = {
    "put": lambda store: store.put(b"x"),
    "put an array": lambda store: store.put(__import__("numpy").zeros(3)),
    "put an object": lambda store: store.put({"a": 1}),
    "put named": lambda store: store.put(b"x", name="n", replace=True),
    "create": lambda store: store.create(10),
    "get by ref": lambda store: store.get(REF),
    "get by name": lambda store: store.get("n"),
    "get writable": lambda store: store.get("n", writable=True),
    "delete by ref": lambda store: store.delete(REF),
    "delete by name": lambda store: store.delete("n"),
    "refcount": lambda store: store.refcount("n"),
    "in by ref": lambda store: REF in store,
    "in by name": lambda store: "n" in store,
    "len": len,
    "iteration": list,
    "names": lambda store: list(store.names()),
    "ref": lambda store: store.ref("n"),
    "[]": lambda store: store["n"],
    "[] =": lambda store: store.__setitem__("n", b"x"),
    "del []": lambda store: store.__delitem__("n"),
    "stats": lambda store: store.stats(),
    "check": lambda store: store.check(),
    "holders": lambda store: store.holders(),
    "holders by name": lambda store: store.holders("n"),
    "recover": lambda store: store.recover(),
    "trim": lambda store: store.trim(),
    "unlink": lambda store: store.unlink(),
    "enter": lambda store: store.__enter__(),
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_closed_store_refuses(
    store: refstore.Store, method: Callable[[refstore.Store], Any]
) -> None:
    store["n"] = b"x"
    store.close()
    with pytest.raises(ValueError, match="closed"):
        method(store)


def test_leaving_with_closes(store: refstore.Store) -> None:
    with store as entered:
        assert entered is store
        store["n"] = b"x"
    with pytest.raises(ValueError, match="closed"):
        store.get("n")


def test_leaving_with_by_an_exception_closes(store: refstore.Store) -> None:
    with pytest.raises(KeyError, match="mine"), store:
        raise KeyError("mine")
    with pytest.raises(ValueError, match="closed"):
        len(store)


def test_closing_within_with_is_no_error(store: refstore.Store) -> None:
    with store:
        store.close()


def test_a_writer_open_at_the_close_is_whole_or_nothing(store: refstore.Store, path: str) -> None:
    sealed, dropped = store.create(1000, name="sealed"), store.create(1000, name="dropped")
    memoryview(sealed)[:] = b"x" * 1000
    store.close()
    expected = ["sealed"]
    try:
        sealed.seal()
    except ValueError:
        expected = []
    del sealed, dropped
    with refstore.Store(path, create=False) as again:
        assert list(again.names()) == expected
        assert all(bytes(again[name]) == b"x" * 1000 for name in expected)
        for name in expected:
            del again[name]
        assert again.stats().used == 0


def test_the_repr_of_a_store_tells_its_path_and_that_it_is_closed(
    store: refstore.Store, path: str
) -> None:
    assert path in repr(store)
    store.close()
    assert "closed" in repr(store)
