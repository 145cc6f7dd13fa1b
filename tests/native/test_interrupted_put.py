"""A signal that comes while put() copies: what its handler raises comes out, and nothing stays.

The signal is there before put() begins, and no bytecode runs in between: the next look at signals
is that of put() itself.
"""

from __future__ import annotations

import ctypes
import gc
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import helpers
import numpy as np
import pytest
import signals

import refstore

pytestmark = pytest.mark.native("the other one is interrupted at each line, see tests/filelock")

SIZE = 300_000
KINDS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: helpers.pattern(1, SIZE),
    "bytearray": lambda: bytearray(helpers.pattern(1, SIZE)),
    "memoryview": lambda: memoryview(helpers.pattern(1, SIZE)),
    "array": lambda: np.arange(SIZE, dtype="u1"),
    "array in Fortran's order": lambda: np.ones((1000, 40), order="F"),
    "array with gaps": lambda: np.ones((2000, 40))[::2],
    "object": lambda: [np.arange(SIZE, dtype="u1"), "text"],
    "large bytes in an object": lambda: {"b": helpers.pattern(1, SIZE)},
}


class Interrupt(Exception):
    pass


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """A callback of the collector would swallow what a signal handler raises in it."""
    gc.disable()
    yield
    gc.enable()


def interrupt(*_: object) -> None:
    raise Interrupt


def put_amid_a_signal(store: refstore.Store, obj: object, **options: Any) -> refstore.ObjectRef:
    send = partial(getattr(ctypes.CDLL(None), "raise"), int(signal.SIGUSR1))
    _, ref = map(partial.__call__, (send, partial(store.put, obj, **options)))
    assert isinstance(ref, refstore.ObjectRef)
    return ref


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_amid_the_copy_leaves_nothing(store: refstore.Store, kind: str) -> None:
    obj = KINDS[kind]()
    before = helpers.usage(store)
    with signals.handler(signal.SIGUSR1, interrupt), pytest.raises(Interrupt):
        put_amid_a_signal(store, obj)
    assert helpers.usage(store) == before
    store.get(store.put(obj)).release()


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_replacement_leaves_what_was_there(store: refstore.Store, kind: str) -> None:
    store["n"] = "old"
    before = helpers.usage(store)
    with signals.handler(signal.SIGUSR1, interrupt), pytest.raises(Interrupt):
        put_amid_a_signal(store, KINDS[kind](), name="n", replace=True)
    assert helpers.usage(store) == before
    assert store["n"].value == "old"


def test_a_handler_that_returns_lets_the_put_go_on(store: refstore.Store) -> None:
    happened = []
    with signals.handler(signal.SIGUSR1, lambda *_: happened.append("handled")):
        ref = put_amid_a_signal(store, helpers.pattern(1, SIZE))
    assert happened == ["handled"]
    assert bytes(store.get(ref)) == helpers.pattern(1, SIZE)


def test_an_interrupt_before_a_seal_gives_the_room_back(store: refstore.Store) -> None:
    before = helpers.usage(store)
    writer = store.create(SIZE, name="n")
    send = partial(getattr(ctypes.CDLL(None), "raise"), int(signal.SIGUSR1))
    leave = partial(writer.__exit__, None, None, None)
    with signals.handler(signal.SIGUSR1, interrupt), pytest.raises(Interrupt):
        list(map(partial.__call__, (send, leave)))
    assert writer.closed
    assert "n" not in store
    assert helpers.usage(store) == before
