"""A full store says what was asked, what there is and who holds it; nothing is left behind."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import helpers
import numpy as np
import pytest

import refstore


def full(store: refstore.Store, size: int) -> refstore.StoreFullError:
    """The error of a put that does not fit."""
    with pytest.raises(refstore.StoreFullError) as caught:
        store.put(bytes(size))
    return caught.value


def test_the_error_tells_the_whole_story(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store(2_000_000)
    ref = store.put(bytes(1_500_000))
    with store.get(ref):
        error = full(store, 1_000_000)
        stats = store.stats()
    assert isinstance(error, MemoryError)
    assert error.needed >= 1_000_000
    assert error.free == stats.free
    assert error.largest_free == stats.largest_free
    assert os.getpid() in [int(pid) for pid in error.holders]
    text = str(error)
    for figure in (1_000_000, error.free, error.largest_free):
        assert str(figure) in text.replace(",", "").replace("_", "")
    assert str(os.getpid()) in text


def test_nobody_is_blamed_when_nothing_is_pinned(store: refstore.Store) -> None:
    error = full(store, store.capacity + 1)
    assert list(error.holders) == []
    assert error.free == error.largest_free == store.capacity
    assert str(store.capacity + 1) in str(error).replace(",", "").replace("_", "")


def test_a_fragmented_store_says_so(make_store: Callable[..., refstore.Store]) -> None:
    store = make_store("4MiB")
    refs = [store.put(bytes(100_000)) for _ in range(40)]
    for ref in refs[::2]:
        store.delete(ref)
    error = full(store, 1_500_000)
    assert error.free >= 1_900_000
    assert 100_000 <= error.largest_free < 1_500_000


@pytest.mark.parametrize(
    "obj",
    [
        b"x" * (2**24 + 1),
        np.zeros(2**21 + 1),
        {"a": np.zeros(2**20), "b": [np.zeros(2**20 + 1)]},
        "x" * (2**24 + 1),
        memoryview(bytes(2**25))[::-1],
        np.zeros((2**12, 2**12), "i4").T[::2],
    ],
    ids=["bytes", "array", "arrays in an object", "text", "memoryview", "strided array"],
)
def test_a_put_that_does_not_fit_leaves_nothing(store: refstore.Store, obj: object) -> None:
    store.put(b"small", name="other")
    before = helpers.usage(store)
    for _ in range(3):
        with pytest.raises(refstore.StoreFullError):
            store.put(obj, name="never")
    assert helpers.usage(store) == before
    assert list(store.names()) == ["other"]
    assert store.check() == []


def test_room_comes_back_after_the_error(store: refstore.Store) -> None:
    ref = store.put(bytes(store.capacity))
    full(store, 1)
    store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_the_error_survives_pickling(store: refstore.Store) -> None:
    error = full(store, store.capacity + 1)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is refstore.StoreFullError
    assert str(back) == str(error)
    assert (back.needed, back.free, back.largest_free, list(back.holders)) == (
        error.needed,
        error.free,
        error.largest_free,
        list(error.holders),
    )
