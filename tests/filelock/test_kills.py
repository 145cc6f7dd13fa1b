"""SIGKILL and SIGSTOP at any bytecode of an operation: all or nothing, and others go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import lock_files
import pytest
import workers
from children import child_process, clear_up_after_the_dead
from stops import assert_gives_up

import refstore
from tests.filelock import kills, opcodes

POINTS = 6  # of each operation; `python -m tests.filelock.kills` tries more


@pytest.mark.parametrize("is_attached", [True, False], ids=["inherited", "opened"])
@pytest.mark.parametrize("name", kills.OPERATIONS)
def test_a_kill_at_any_bytecode_leaves_all_or_nothing(
    play: kills.Play, name: str, is_attached: bool
) -> None:
    length = play(kills.length_of, name, is_attached)
    dice = random.Random(name)
    for turn in range(POINTS):
        first = dice.randint(1, length)
        second = dice.randint(1, 25_000) if turn % 4 == 0 else None
        print(f"bytecode {first} of {length}, then {second}")
        play(kills.trial, name, first, is_attached, second)


def test_a_creator_killed_half_way_leaves_nothing_or_a_whole_store(
    play: kills.Play, folder: Path, path: str
) -> None:
    play(kill_creators, folder, path)


def kill_creators(folder: Path, path: str) -> None:
    def create() -> None:
        refstore.Store(path, capacity="1MiB", max_objects=64, create=True)

    length = kills.killed_at(None, create)
    dice, left = random.Random(1), 0
    for turn in range(60):
        if os.path.exists(path):
            with refstore.Store(path, create=False) as store:
                assert store.check() == []
                helpers.assert_full_capacity_fits(store)
                store.unlink()
            left += 1
        else:
            # what the dead one left lies aside until the next create in that folder
            assert "store" not in helpers.stores(folder)
            refstore.Store.temporary(capacity="1MiB").close()
        with refstore.Store(str(folder / "next"), capacity="1MiB", create=True) as store:
            store.unlink()
        assert list(folder.iterdir()) == [], turn
        kills.killed_at(dice.randint(1, length), create)
    assert 0 < left < 60
    if os.path.exists(path):
        helpers.remove(path)
    with refstore.Store(str(folder / "next"), capacity="1MiB", create=True) as store:
        store.unlink()


# -- stopped with the lock --------------------------------------------------------------------


@contextlib.contextmanager
def stopped_in_a_change(path: str, work: Callable[[], object], part: float = 0.5) -> Iterator[int]:
    """The pid of a forked child stopped while it has the change lock; then it goes on.

    `part`: how far into the time for which it has the lock.
    """
    ours, theirs = os.pipe()
    held: list[int] = []

    def note(number: int) -> None:
        if lock_files.is_locked(path):
            held.append(number)

    def count() -> None:
        with opcodes.each(note):
            work()
        os.write(theirs, held[int(len(held) * part)].to_bytes(8, "little"))

    assert kills.in_child(count) == 0
    number = int.from_bytes(os.read(ours, 8), "little")
    os.close(ours)
    os.close(theirs)

    def step(now: int) -> None:
        if now == number:
            assert lock_files.is_locked(path)
            os.kill(os.getpid(), signal.SIGSTOP)

    def stop_on_the_way() -> None:
        with opcodes.each(step):
            work()

    with helpers.stopped(stop_on_the_way, (0, -signal.SIGKILL)) as pid:
        yield pid


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_who_needs_a_stopped_processs_lock_gives_up(
    store: refstore.Store, path: str, part: float
) -> None:
    ref = store.put(b"kept")
    buf = store.get(ref)
    view = memoryview(buf)
    with stopped_in_a_change(path, lambda: store.put(b"x" * 1000), part) as pid:
        assert_gives_up(lambda: store.put(b"y"), pid)
        assert bytes(view) == b"kept"
    view.release()
    buf.release()
    store.put(b"y")
    assert store.check() == []
    clear_up_after_the_dead(path)
    assert store.refcount(ref) == 1


def test_a_release_during_a_stop_is_made_good_later(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    held = [store.get(ref)]
    with stopped_in_a_change(path, lambda: store.delete(store.put(b"z"))):
        began = time.monotonic()
        held.clear()  # nothing is raised, and nothing is lost
        assert time.monotonic() - began < 2.0
    clear_up_after_the_dead(path)
    store.delete(ref)
    assert store.stats().condemned == 0
    for left in list(store):
        store.delete(left)
    helpers.assert_full_capacity_fits(store)


def test_a_killed_holder_of_the_lock_keeps_nobody_waiting(store: refstore.Store, path: str) -> None:
    with stopped_in_a_change(path, lambda: store.put(b"x" * 1000)) as pid:
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        store.put(b"y")
        assert time.monotonic() - began < 2.0
        assert store.check() == []
    store.recover()
    for ref in list(store):
        store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_a_process_killed_while_it_waits_hinders_nobody(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        with stopped_in_a_change(path, lambda: store.put(b"x" * 1000)):
            child.tell(workers.put, b"z" * 1000)
            child.kill()
        store.put(b"y")
    store.recover()
    assert store.stats().processes == 1
    assert store.check() == []
