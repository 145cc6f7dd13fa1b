"""What `get_or_put` does for a name that nobody else asks for, in writes to shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import refstore
from refstore import _core
from tests.native.crash.failpoints import Passes, failpoints

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

MakeStore = Callable[..., refstore.Store]
NBYTES = 4096
TIMES = 200


@contextmanager
def counting() -> Iterator[Passes]:
    passes = Passes()
    passes.count()
    try:
        yield passes
    finally:
        _core._count_passes(0)


def make_all(store: refstore.Store, names: str) -> None:
    for i in range(TIMES):
        store.get_or_put(f"{names} {i}", lambda: bytes(NBYTES)).release()


def test_it_does_not_say_that_it_sleeps(make_store: MakeStore) -> None:
    store = make_store("4MiB")
    with counting() as passes:
        make_all(store, "made")
    functions = {failpoints()[number].function for number, _ in passes.passed()}
    assert "claim_locked" in functions
    assert "register_sleeper" not in functions


def test_a_full_cache_is_not_searched_for_room_at_each_name(make_store: MakeStore) -> None:
    store = make_store("2MiB", evict="lru")
    for i in range(2 * store.capacity // NBYTES):
        store.put(bytes(NBYTES), name=f"full {i}")
    with counting() as of_puts:
        for i in range(TIMES):
            store.put(bytes(NBYTES), name=f"put {i}")
    with counting() as of_makers:
        make_all(store, "made")
    puts, makers = (sum(n for _, n in passes.passed()) for passes in (of_puts, of_makers))
    assert puts > TIMES
    assert makers < 3 * puts
