"""Looks beside changes that their makers have begun, and have not ended."""

from __future__ import annotations

import itertools
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

import refstore
from refstore._looking import Look
from refstore.engines.filelock import looking, slots
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import COUNT, HOLDER, JOURNAL, PAIRS, WRITES


def begin_deletion(store: refstore.Store, name: str, *, written: int) -> None:
    """What is there when the maker of a change dies: its journal, and some of the words."""
    att: Any = store._attachment
    change = Change(att.file)
    slot = next(
        k for k in range(slots.slots_used(change)) if slots.name(change, k) == name.encode()
    )
    slots.remove(change, slot)
    pairs = array("Q", itertools.chain.from_iterable(change.new.items()))
    words = att.file.words
    words[JOURNAL : JOURNAL + len(pairs)] = pairs
    words[WRITES] |= 1
    words[COUNT] = len(change.new)
    for i, value in itertools.islice(change.new.items(), written):
        words[i] = value


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_change_that_was_begun_is_seen_as_done_and_not_ended(
    store: refstore.Store, written: int
) -> None:
    store.put(b"x" * 100_000, name="stays")
    store.put(b"y" * 200_000, name="goes")
    begin_deletion(store, "goes", written=written)
    before = Path(store.path).read_bytes()
    with Look(store.path) as look:
        stats = look.stats()
        assert [info.name for info in look.objects()] == ["stays"]
        assert look.problems() == []
        assert stats.objects == 1
        assert Path(store.path).read_bytes() == before
        assert store.stats() == stats  # it took the lock, and ended the change
        assert Path(store.path).read_bytes() != before
        assert look.stats() == stats


def test_a_look_waits_for_who_writes_a_change(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    att: Any = store._attachment
    words = att.file.words
    store.put(b"x" * 100_000, name="goes")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:  # what was half written when the look began is whole now
            store.delete("goes")

    monkeypatch.setattr(time, "sleep", nap)
    words[WRITES] |= 1
    with Look(store.path) as look:
        assert look.stats().objects == 0
    assert naps == [looking.PAUSE]


def test_who_stands_still_in_a_change_keeps_no_look_waiting(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    att: Any = store._attachment
    store.put(b"x")
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    att.file.words[WRITES] |= 1
    with Look(store.path) as look:
        assert look.stats().objects == 1
    assert naps == [looking.PAUSE]


def test_a_store_that_changes_all_the_time_is_seen_all_the_same(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    att: Any = store._attachment
    words = att.file.words
    store.put(b"x")
    tries: list[int] = []

    def changing(self: object) -> tuple[int, int]:
        tries.append(1)
        return len(tries), 0

    monkeypatch.setattr(looking.Look, "_stamp", changing)
    with Look(store.path) as look, monkeypatch.context() as patch:
        assert look.stats().objects == 1
        assert len(tries) == 2 * (looking.TRIES + 1)
        patch.setattr(looking.Look, "_change", lambda self: Change(att.file)[1 << 60])
        words[HOLDER] = 77
        with pytest.raises(refstore.StoreBusyError, match="77"):
            look.stats()
        words[HOLDER] = 0


def test_a_journal_that_leads_out_of_the_file_is_damage(store: refstore.Store) -> None:
    att: Any = store._attachment
    words = att.file.words
    words[COUNT] = PAIRS + 1
    with Look(store.path) as look:
        with pytest.raises(refstore.StoreCorruptedError, match="journal"):
            look.stats()
        words[COUNT] = 0
        assert look.stats().objects == 0
