"""Entries of processes that put objects: taken once, kept while named, and taken again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helpers
from children import clear_up_after_the_dead

import refstore
from refstore.engines.filelock import layout, origins, process_table
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.life import here

MakeStore = Callable[..., refstore.Store]


def attachment_of(store: refstore.Store) -> Any:
    return store._attachment


def become_another(store: refstore.Store, pid: int) -> None:
    """What this process puts from here on counts as another one's."""
    att = attachment_of(store)

    def change(c: Change) -> None:
        row = process_table.row_at(c.file, att.own)
        c[row + layout.ROW_ORIGIN] = 0
        c[row + layout.ROW_PID] = pid
        c.commit()

    att.run(here(), "a test", change)


def test_entries_are_taken_again_when_nothing_names_them(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=4)
    att = attachment_of(store)
    kept = {}
    for pid in range(1, 1000):
        become_another(store, pid)
        ref = store.put(b"x")
        if pid in (3, 300, 900):
            kept[ref] = pid
        else:
            store.delete(ref)
        assert {ref: store.info(ref).pid for ref in kept} == kept
    assert att.file.words[layout.ORIGINS_USED] == att.file.g.n_origins == 4 + layout.MAX_ROWS
    assert store.check() == []


def test_a_process_takes_one_entry(store: refstore.Store, path: str) -> None:
    att = attachment_of(store)
    for number in range(20):
        store.put(b"x", name=f"{number}")
    assert att.file.words[layout.ORIGINS_USED] == 1

    def put() -> None:
        store.put_many([b"x"] * 20)

    assert helpers.forked(put) == 0
    clear_up_after_the_dead(path)  # one that puts nothing takes none
    assert att.file.words[layout.ORIGINS_USED] == 2


def test_without_an_entry_the_process_is_not_known(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=4)
    att = attachment_of(store)
    att.file.g = att.file.g._replace(n_origins=2)
    told = []
    for pid in (11, 12, 13):
        become_another(store, pid)
        info = store.info(store.put(b"x"))
        told.append((info.pid, bool(info.command)))
    assert told == [(11, True), (12, True), (0, False)]
    assert att.run(here(), "a test", origins.origin_of, att.own) == layout.UNKNOWN
    assert store.check() == []
    become_another(store, 0)
