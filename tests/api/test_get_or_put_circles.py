"""get_or_put(): factories that ask for what others make never wait for each other for ever."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from making import LONG, Making, assert_nothing_left, never

import refstore

MakeStore = Callable[..., refstore.Store]


def test_a_factory_may_ask_for_other_names(store: refstore.Store) -> None:
    def make(depth: int) -> bytes:
        if depth == 50:
            return b"x"
        with store.get_or_put(f"{depth + 1}", lambda: make(depth + 1)) as buf:
            return bytes(buf) + b"x"

    assert bytes(store.get_or_put("0", lambda: make(0))) == b"x" * 51
    assert len(store) == 51


def test_a_factory_that_asks_for_its_own_name_is_an_error(store: refstore.Store) -> None:
    def factory() -> object:
        with pytest.raises(refstore.RefstoreError, match="would wait for ever"):
            store.get_or_put("n", never)
        return b"made"

    assert bytes(store.get_or_put("n", factory)) == b"made"


class AsksForItself:
    """Pickled with an object of the store, that of the name under which it is put."""

    def __init__(self, store: refstore.Store) -> None:
        self.store = store

    def __reduce__(self) -> Any:
        return bytes, (bytes(self.store.get_or_put("n", never)),)


def test_a_value_whose_pickle_asks_for_its_name_is_an_error(store: refstore.Store) -> None:
    with pytest.raises(refstore.RefstoreError, match="would wait for ever"):
        store.get_or_put("n", lambda: [AsksForItself(store)])
    assert_nothing_left(store)


def test_a_factory_that_comes_back_to_its_name_is_an_error(store: refstore.Store) -> None:
    def outer() -> object:
        return store.get_or_put("inner", lambda: store.get_or_put("outer", never).value).value

    with pytest.raises(refstore.RefstoreError, match=r"'outer'.* would wait for ever"):
        store.get_or_put("outer", outer)
    assert_nothing_left(store)


def test_a_name_of_another_store_is_another_name(make_store: MakeStore) -> None:
    one, other = make_store(), make_store(name="other")
    buf = one.get_or_put("n", lambda: bytes(other.get_or_put("n", lambda: b"x")))
    assert bytes(buf) == b"x"


def test_two_factories_that_ask_for_each_others_names_do_not_hang(store: refstore.Store) -> None:
    barrier = threading.Barrier(2)
    outcomes: dict[str, object] = {}

    def make(own: str, other: str) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):  # the second time there is but one
            barrier.wait(LONG)
            barrier.abort()
        return bytes(store.get_or_put(other, lambda: make(other, own)))

    def ask(own: str, other: str) -> None:
        try:
            outcomes[own] = bytes(store.get_or_put(own, lambda: make(own, other)))
        except refstore.RefstoreError as error:
            outcomes[own] = str(error)

    threads = [threading.Thread(target=ask, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert all("would wait for ever" in str(outcome) for outcome in outcomes.values())
    assert_nothing_left(store)


def test_one_of_a_circle_fails_and_the_others_get_theirs(store: refstore.Store) -> None:
    names = ["a", "b", "c"]
    barrier = threading.Barrier(3)
    outcomes: dict[str, object] = {}

    def ask(own: str, other: str) -> None:
        def factory() -> bytes:
            barrier.wait(LONG)
            try:
                return own.encode() + bytes(store.get_or_put(other, lambda: b"!"))
            except refstore.RefstoreError:
                return own.encode() + b"?"

        outcomes[own] = bytes(store.get_or_put(own, factory))

    threads = [
        threading.Thread(target=ask, args=(own, other))
        for own, other in zip(names, names[1:] + names[:1], strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert sorted(map(len, outcomes.values())) == [2, 3, 4]  # type: ignore[arg-type]
    assert store.check() == []


def test_who_waits_beside_a_maker_is_in_no_circle(store: refstore.Store) -> None:
    """One thread makes "a", another of the same process waits for "b", whose maker wants "a"."""
    with Making(store, "a", b"a") as first:
        asking = threading.Event()
        outcomes: list[object] = []

        def make_b() -> bytes:
            asking.set()
            return bytes(store.get_or_put("a", never, timeout=LONG))

        def ask() -> None:
            try:
                outcomes.append(bytes(store.get_or_put("b", make_b)))
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert asking.wait(LONG)
        with pytest.raises(refstore.GetTimeoutError):
            store.get_or_put("b", never, timeout=0.3)
        first.may_end.set()
        for thread in threads:
            thread.join(LONG)
    assert outcomes == [b"a", b"a"]
