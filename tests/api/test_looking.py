"""A look at a store: what it shows is what the store says, and nobody there takes notice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import helpers
import numpy as np
import pytest

import refstore
from refstore._looking import Look, PageState


@pytest.fixture
def full(store: refstore.Store) -> Iterator[refstore.Store]:
    """A store with objects in all states."""
    store.put(np.arange(100), name="small")
    store.put(b"x" * 3_000_000, name="large", owned=True)
    store.put({"a": b"y" * 100}, meta=b"meta")
    store.put(b"evict" * 8_000, evictable=True)
    gone = store.put(b"z" * 300_000, name="gone")
    with (
        store.get("large") as kept,
        store.get(gone),
        store.create(200_000),
        store.create(name="claimed", nbytes=70_000, claim=True),
    ):
        assert kept.nbytes == 3_000_000
        store.delete(gone)
        yield store


def test_it_shows_what_the_store_says(full: refstore.Store) -> None:
    with Look(full.path) as look:
        assert (look.name, look.path) == (os.path.basename(full.path), full.path)
        assert (look.backend, look.evict) == (full.backend, full.evict)
        assert (look.capacity, look.max_objects) == (full.capacity, full.max_objects)
        assert len(look.uuid) == 16
        assert abs(look.made_at - time.time()) < 100
        assert look.stats() == full.stats()
        assert list(look.objects()) == list(full.objects())
        assert list(look.objects("s")) == list(full.objects("s"))
        assert {one.state for one in look.objects()} == {
            *("live", "pending delete", "writing", "claimed")
        }
        assert look.info("small") == full.info("small")
        assert look.holders() == full.holders()
        assert look.holders("large") == full.holders("large")
        assert look.holders(full.ref("large")) == full.holders("large")
        assert look.problems() == full.check() == []
        assert look.recoveries() == []


def test_it_looks_anew_each_time(store: refstore.Store) -> None:
    with Look(store.path) as look:
        for count in range(1, 5):
            store.put(b"x" * 100_000, name=str(count))
            assert look.stats().objects == count
            assert look.info(str(count)).nbytes == 100_000
        store.clear()
        assert list(look.objects()) == []
        with pytest.raises(refstore.ObjectNotFoundError):
            look.info("1")


def test_a_ref_to_what_is_not_there_is_not_found(store: refstore.Store) -> None:
    ref = store.put(b"x")
    store.delete(ref)
    with Look(store.path) as look, refstore.Store.temporary("1MiB") as other:
        for key in (ref, other.put(b"x"), "absent"):
            with pytest.raises(refstore.ObjectNotFoundError):
                look.holders(key)
        with pytest.raises(TypeError):
            look.info(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="255"):
            look.info("")


def test_this_process_is_shown_once_with_all_that_it_has(full: refstore.Store) -> None:
    refs = [full.put(b"a", owned=True) for _ in range(3)]
    full.delete(refs[0])
    stats = full.stats()
    with Look(full.path) as look:
        (me,) = look.processes()
    assert (me.pid, me.alive, me.ended, me.waiting) == (os.getpid(), True, False, 0)
    assert me.command == full.info("small").command
    assert me.label == ""
    assert (me.pins, me.owned) == (2, 3)
    assert me.bytes == sum(holder.bytes for holder in full.holders())
    assert (me.puts, me.gets, me.deletes) == (stats.puts, stats.gets, stats.deletes)
    assert me.evictions == 0


def test_each_page_has_the_state_of_its_block(full: refstore.Store) -> None:
    with Look(full.path) as look:
        states = look.page_states()
    assert len(states) == full.capacity // 4096
    pages = {state: states.count(state) for state in PageState}
    assert pages[PageState.PINNED] in (3_000_000 // 4096, 3_000_000 // 4096 + 1)
    assert 70 <= pages[PageState.PENDING_DELETE] <= 300_000 // 4096 + 1
    assert 60 <= pages[PageState.WRITTEN] <= 270_000 // 4096 + 2
    assert 8 <= pages[PageState.LIVE] <= 15
    assert pages[PageState.NEVER_USED] > len(states) // 2


def test_pages_that_come_free_were_used(store: refstore.Store) -> None:
    with Look(store.path) as look:
        assert set(look.page_states()) <= {PageState.NEVER_USED, PageState.FREE}
        ref = store.put(b"x" * 1_000_000)
        assert look.page_states().count(PageState.LIVE) >= 1_000_000 // 4096
        store.delete(ref)
        states = look.page_states()
        assert states.count(PageState.LIVE) == 0
        assert states.count(PageState.FREE) >= 1_000_000 // 4096


def test_a_page_of_several_blocks_has_the_strongest_state(store: refstore.Store) -> None:
    refs = [store.put(b"x" * 1000) for _ in range(8)]
    with Look(store.path) as look, store.get(refs[1]), store.get(refs[2]) as held:
        assert PageState.PINNED in look.page_states()
        store.delete(refs[2])
        assert PageState.PENDING_DELETE not in look.page_states()[:1]
        held.release()
        store.clear()
        assert set(look.page_states()) & {PageState.LIVE, PageState.WRITTEN} == set()


def test_it_maps_the_file_to_read_and_lets_it_go(store: refstore.Store, folder: Path) -> None:
    before = helpers.mappings(store.path)
    with Look(store.path) as look:
        (mine,) = [one for one in helpers.mappings(store.path) if one not in before]
        assert mine.permissions == "r--s"
        assert look.stats().objects == 0
    assert helpers.mappings(store.path) == before
    with pytest.raises(ValueError, match="closed"):
        look.stats()
    look.close()


def test_it_lasts_as_long_as_a_list_that_it_began(store: refstore.Store) -> None:
    for _ in range(3):
        store.put(b"x")
    with Look(store.path) as look:
        listed = look.objects()
        next(listed)
    assert len(list(listed)) == 2


def test_a_store_that_was_unlinked_is_still_seen(store: refstore.Store) -> None:
    store.put(b"x")
    with Look(store.path) as look:
        store.unlink()
        assert look.stats().objects == 1
        assert look.problems() == []


def test_what_is_no_store_is_refused(folder: Path) -> None:
    file = folder / "other"
    with pytest.raises(FileNotFoundError, match="other"):
        Look(str(file))
    file.write_bytes(b"something else" * 1000)
    with pytest.raises(refstore.StoreCorruptedError, match="is not a store"):
        Look(str(file))
    file.unlink()


def test_a_truncated_store_is_refused(store: refstore.Store, folder: Path) -> None:
    copy = folder / "copy"
    copy.write_bytes(Path(store.path).read_bytes()[:100_000])
    with pytest.raises(refstore.StoreCorruptedError, match="is truncated"):
        Look(str(copy))
    copy.unlink()


def test_another_users_store_is_looked_at_if_that_is_wanted(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.stat(store.path).st_uid + 1)
        with pytest.raises(PermissionError, match="user"):
            Look(store.path)
        with Look(store.path, foreign=True) as look:
            assert look.stats().objects == 0


def test_a_damaged_store_is_shown_with_its_problems(store: refstore.Store, folder: Path) -> None:
    store.put(b"x" * 100_000)
    copy = folder / "copy"
    raw = bytearray(Path(store.path).read_bytes())
    at = raw.rindex((100_000).to_bytes(8, "little"))
    raw[at : at + 8] = (1 << 40).to_bytes(8, "little")
    copy.write_bytes(raw)
    with Look(str(copy)) as look:
        assert any("size" in problem for problem in look.problems())
        assert look.stats().objects == 1
    copy.unlink()
