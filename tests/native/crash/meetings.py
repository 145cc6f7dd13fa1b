"""What a process does that waits for others, makes what they ask for, or claims a name."""

from __future__ import annotations

import contextlib
from typing import Any

import refstore
from tests.native.crash.contents import CAPACITY, NEW, SMALL


def make_what_is_not_there(store: refstore.Store) -> None:
    """One maker of a name, one that fails, and one whose name somebody else takes meanwhile."""
    store.get_or_put("fresh", lambda: NEW, timeout=0.001)
    with contextlib.suppress(ZeroDivisionError):
        store.get_or_put("failed", lambda: 1 / 0, timeout=0.001)

    def taken() -> bytes:
        with contextlib.suppress(refstore.ObjectExistsError):
            store.put(SMALL, name="taken")
        return NEW

    store.get_or_put("taken", taken, timeout=0.001)


def make_in_the_last_slot(store: refstore.Store) -> None:
    """The claim has it, so what is made goes there; once somebody has put under the name."""
    empty = []
    with contextlib.suppress(refstore.StoreFullError):
        while True:
            empty.append(store.put(b"", evictable=False))

    def make() -> bytes:
        store.delete(empty.pop())
        store.put(SMALL, name="fresh")
        return NEW

    for factory in (lambda: b"", lambda: NEW, make):
        store.delete(empty.pop())
        store.get_or_put("fresh", factory, timeout=0.001)
        store.delete("fresh")


def make_from_others(store: refstore.Store) -> None:
    """What another one makes is waited for in a factory."""

    def make() -> bytes:
        with store.get_or_put("fresh", lambda: NEW, timeout=0.001) as buf:
            return bytes(buf)

    store.get_or_put("taken", make, timeout=0.001)


def claim_and_seal(store: refstore.Store) -> None:
    with store.create(50000, name="fresh", claim=True) as writer:
        memoryview(writer)[:] = bytes(50000)


def claim_and_replace(store: refstore.Store) -> None:
    with store.create(len(NEW), name="old", replace=True, claim=True) as writer:
        writer.write_at(0, NEW)


def claim_and_abort(store: refstore.Store) -> None:
    for keeps in (False, True):
        writer = store.create(50000, name="fresh", claim=True)
        view = memoryview(writer) if keeps else None
        writer.abort()
        del view


def wait_in_vain(store: refstore.Store) -> None:
    """On one name, on several, on more than a kernel sleeps on at once."""
    many = [f"nothing {k}" for k in range(500)]
    for names in ([], ["large", "nothing"], many):
        with contextlib.suppress(refstore.GetTimeoutError):
            if names:
                store.wait_any(names, count=len(names), timeout=0.001)
            else:
                store.wait("nothing", timeout=0.001)


def wait_for_what_comes(store: refstore.Store) -> None:
    with contextlib.suppress(refstore.GetTimeoutError):
        known = store.ref("old") if "old" in store else None
        store.wait("old", newer_than=known, timeout=0.001)
    store.wait_any(["old", "fresh"], timeout=0.001)


def wait_for_room(store: refstore.Store) -> None:
    """In vain; then something comes free."""
    for _ in range(2):
        with contextlib.suppress(refstore.StoreFullError):
            store.put(bytes(CAPACITY), timeout=0.001)
        with contextlib.suppress(refstore.ObjectNotFoundError):
            store.delete("small")


def wait_for_room_for_many(store: refstore.Store) -> None:
    """In vain: there is room for some of them; then something comes free."""
    for _ in range(2):
        with contextlib.suppress(refstore.StoreFullError):
            store.put_many([bytes(CAPACITY // 4)] * 4, timeout=0.001)
        with contextlib.suppress(refstore.ObjectNotFoundError):
            store.delete("small")


def replace_what_is_waited_for(store: refstore.Store) -> None:
    """Somebody has said that he may sleep on each of the words."""
    engine: Any = store
    for names in (["old", "small"], [f"nothing {k}" for k in range(500)]):
        engine._watch().seen(names)
    store.put(NEW, name="old", replace=True)
    with contextlib.suppress(refstore.ObjectNotFoundError):
        store.delete("small")
