"""A signal handler that raises while stores are made, opened and closed leaves nothing open."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import interrupts
import pytest
from interrupts import Interrupt, interrupted

import refstore

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with interrupts.unheard():
        yield


def made_and_removed() -> None:
    store = refstore.Store.temporary("64KiB")
    store.put(b"x")
    store.close()


def opened_and_closed(path: str) -> None:
    with refstore.Store(path, create=False) as store:
        store.put(b"x")


def numbers() -> Iterator[int]:
    """Each of the first moments, then fewer: what comes late is the same for all of them."""
    yield from range(1, 400)
    yield from range(400, 100_000, 7)


def interrupt_at_each_moment(work: Callable[[], object]) -> int:
    """How many moments there were."""
    before = sorted(os.listdir("/proc/self/fd"))
    for number in numbers():
        if not interrupted(number, Interrupt, work):
            return number
        if sorted(os.listdir("/proc/self/fd")) != before:
            gc.collect()  # an exception and the frames that it went through know each other
        assert sorted(os.listdir("/proc/self/fd")) == before, f"interrupted at moment {number}"
    raise AssertionError("it has no end")


def test_an_interrupt_leaves_no_descriptor_of_a_store_that_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    made_and_removed()
    try:
        assert interrupt_at_each_moment(made_and_removed) > 50
    finally:
        assert helpers.mappings(folder) == []
        made_and_removed()  # removes what was made and then interrupted
    assert helpers.stores(folder) == []


def test_an_interrupt_leaves_no_descriptor_of_a_store_that_is_opened(
    store: refstore.Store, path: str
) -> None:
    store.close()
    opened_and_closed(path)
    assert interrupt_at_each_moment(lambda: opened_and_closed(path)) > 20
    with refstore.Store(path, create=False) as again:
        for ref in again:
            again.delete(ref)
        assert helpers.usage(again)[0] == 0
