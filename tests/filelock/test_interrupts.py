"""A signal handler that raises during a release, as Ctrl-C and timeouts by SIGALRM do."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import interrupts
import pytest
from interrupts import Alarm, Interrupt, interrupted

import refstore
from refstore.engines import filelock
from refstore.engines.filelock import mapping
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.transaction import TRIES
from tests.filelock import kills
from tests.filelock.test_kills import stopped_in_a_change


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with interrupts.unheard():
        yield


@pytest.mark.parametrize("error", [Interrupt, Alarm])
def test_an_interrupted_release_gives_back_no_other_pin(
    store: refstore.Store, error: type[BaseException]
) -> None:
    """In a child, which may lose a pin until it ends."""
    assert helpers.forked(lambda: interrupt_releases(store, error)) == 0
    assert store.check() == []


def interrupt_releases(store: refstore.Store, error: type[BaseException]) -> None:
    ref = store.put(b"A" * 1000)
    with store.get(ref) as kept:
        view = memoryview(kept)
        for number in range(1, 1000):
            buf = store.get(ref)
            before = store.refcount(ref)
            if not interrupted(number, error, buf.release):
                break
            del buf
            with contextlib.suppress(Interrupt, Alarm):  # what came up in a finalizer
                store.stats()
            # given back; or, interrupted before it was noted, lost until the process ends
            assert store.refcount(ref) in (before - 1, before), number
        assert number > 50
    assert bytes(view) == b"A" * 1000
    assert store.check() == []


def interrupts_of(store: refstore.Store, release: Callable[[], object], number: int) -> int | None:
    """How often an Interrupt at that call comes out of a release or of what follows it; None if
    there is no such call."""
    came = 0

    def release_and_go_on() -> None:
        nonlocal came
        for work in (release, store.stats):
            try:
                work()
            except Interrupt:  # noqa: PERF203
                came += 1

    return came if interrupted(number, Interrupt, release_and_go_on) else None


def lost_interrupts(store: refstore.Store, pinned: Callable[[], Callable[[], object]]) -> list[int]:
    """At which calls an Interrupt is lost. `pinned()` pins an object; what it returns gives that
    back."""
    lost, number = [], 1
    while (came := interrupts_of(store, pinned(), number)) is not None:
        if came != 1:
            lost.append(number)
        number += 1
    assert number > 50
    return lost


def test_an_interrupt_amid_a_release_is_not_lost(store: refstore.Store) -> None:
    ref = store.put(b"A")
    lost = lost_interrupts(store, lambda: store.get(ref).release)
    # where Python has entered the finalizer of a pin that is given back, and it cannot be helped
    assert len(lost) <= 2, lost


def test_an_interrupt_amid_the_last_view_s_end_is_not_lost(store: refstore.Store) -> None:
    ref = store.put(b"A")
    lost = lost_interrupts(store, lambda: [memoryview(store.get(ref))].clear)
    assert len(lost) <= 4, lost  # as above


def test_an_interrupt_amid_a_close_is_not_lost_and_leaves_nothing(
    store: refstore.Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    lost = lost_interrupts(store, lambda: refstore.Store.temporary("1MiB").close)
    # as above: finalizers of the row, the locks and the map are entered, three calls of each
    assert len(lost) <= 24, lost
    gc.collect()
    refstore.Store.temporary("1MiB").close()  # it takes along what those have left
    assert [one for one in os.listdir(folder) if one.startswith("tmp-")] == []


@pytest.mark.parametrize("error", [Interrupt, Alarm])
def test_an_interrupted_release_keeps_no_other_thread_waiting(
    play: kills.Play, store: refstore.Store, error: type[BaseException]
) -> None:
    play(look_after_interrupted_releases, store.path, error)


def look_after_interrupted_releases(path: str, error: type[BaseException]) -> None:
    """From another thread and from a child, both of which would wait for what is still held."""
    with interrupts.unheard(), refstore.Store(path, create=False) as store:
        ref = store.put(b"A")
        for number in range(1, 1000):
            buf = store.get(ref)
            if not interrupted(number, error, buf.release):
                break
            with contextlib.suppress(Interrupt, Alarm):
                store.stats()
            seen: list[int] = []

            def look(seen: list[int] = seen) -> None:
                seen.append(store.refcount(ref))

            other = threading.Thread(target=look, daemon=True)
            other.start()
            other.join(20)
            assert seen, number
            assert helpers.forked(look) == 0
        assert number > 50


def test_releases_wait_but_once_for_a_stopped_process(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x")
    held = [store.get(ref) for _ in range(100)]
    with stopped_in_a_change(path, lambda: store.put(b"y" * 1000)):
        began = time.monotonic()
        held.clear()
        assert time.monotonic() - began < 2.0
    store.recover()  # the stopped one was forked, with pins of its own
    assert store.refcount(ref) == 1


def test_what_was_released_beside_a_stopped_one_is_room_for_a_put(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"x" * (store.capacity - 10_000))
    held = [store.get(ref)]
    store.delete(ref)
    with stopped_in_a_change(path, lambda: store.put(b"y" * 1000)):
        held.clear()
    store.put(b"y" * (store.capacity - 10_000))


def test_a_release_that_cannot_be_done_is_given_up(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def fail(self: Attachment, c: Change, slot: int) -> None:
        tries.append(slot)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Attachment, "_unpin", fail)
        buf = store.get(store.put(b"A"))
        for work in (buf.release, store.stats, store.stats, store.stats):
            with contextlib.suppress(MemoryError):
                work()
        del buf
    assert len(tries) == TRIES
    assert bytes(store.get(store.put(b"B"))) == b"B"
    assert len(tries) == TRIES


FINALIZED = [
    cls
    for module in pkgutil.walk_packages(filelock.__path__, f"{filelock.__name__}.")
    for cls in vars(importlib.import_module(module.name)).values()
    if "__del__" in getattr(cls, "__dict__", {}) and cls.__module__ == module.name
]


@pytest.mark.parametrize("cls", FINALIZED, ids=lambda cls: cls.__name__)
def test_what_is_given_up_half_made_ends_quietly(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: said.append(hook.exc_value))
    cls.__new__(cls)
    gc.collect()
    assert said == []


@pytest.mark.parametrize("step", ["remove", "allocate"])
def test_what_a_handler_raises_amid_a_system_call_comes_out(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Also if it is an OSError, which the system call might raise itself."""

    def raises(*_: object) -> None:
        raise TimeoutError("the handler's")

    before = signal.signal(signal.SIGUSR1, raises)
    store.delete(store.put(bytes(3_000_000)))
    owner: Any = mapping if step == "allocate" else mapping.Mapping
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
        try:
            with pytest.raises(TimeoutError, match="the handler's"):
                store.trim() if step == "remove" else store.put(bytes(12_000_000))
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert store.check() == []
    assert len(store) == 0
