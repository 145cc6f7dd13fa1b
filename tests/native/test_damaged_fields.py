"""One field of an attached store's file is wrong: the call ends, says which, or goes on rightly."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import helpers
import pytest

import refstore
from refstore import _core
from tests.fuzz import layout

CAPACITY, OBJECTS = 1 << 20, 200

pytestmark = [pytest.mark.native("writes to fields of its file"), pytest.mark.timeout(60)]


class Fields:
    """The numbers of a store's file by name."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tables = {table.name: table for table in layout.native(CAPACITY, OBJECTS).tables}

    def _place(self, table: str, entry: int, name: str, number: int) -> tuple[int, int]:
        found = self.tables[table]
        (field,) = [one for one in found.fields if one.name == name]
        return found.at + entry * found.stride + field.at + number * field.width, field.width

    def get(self, table: str, entry: int, name: str, number: int = 0) -> int:
        at, width = self._place(table, entry, name, number)
        with open(self.path, "rb") as file:
            file.seek(at)
            return int.from_bytes(file.read(width), "little")

    def set(self, table: str, entry: int, name: str, value: int, number: int = 0) -> None:
        at, width = self._place(table, entry, name, number)
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(at)
            file.write(value.to_bytes(width, "little"))


def slot_of(ref: refstore.ObjectRef) -> int:
    return int.from_bytes(bytes(ref)[:4], "little")


@pytest.fixture
def damaged(path: str) -> Iterator[refstore.Store]:
    """A store that need not be sound at the end."""
    with refstore.Store(path, capacity=CAPACITY, max_objects=OBJECTS, create=True) as store:
        yield store
    os.unlink(path)


@pytest.fixture
def fields(damaged: refstore.Store, path: str) -> Fields:
    """Of that store."""
    return Fields(path)


# -- words and locks


def by_ref(store: refstore.Store, ref: refstore.ObjectRef) -> None:
    store.delete(ref)


def by_name(store: refstore.Store, ref: refstore.ObjectRef) -> None:
    store.delete("n")


def by_replacing(store: refstore.Store, ref: refstore.ObjectRef) -> None:
    store.put(b"new", name="n", replace=True)


@pytest.mark.parametrize("end", [by_ref, by_name, by_replacing])
def test_an_object_that_seems_half_published_for_ever_can_be_ended(
    damaged: refstore.Store,
    fields: Fields,
    end: Callable[[refstore.Store, refstore.ObjectRef], None],
) -> None:
    ref = damaged.put(b"x" * 100, name="n")
    word = fields.get("Slot", slot_of(ref), "word")
    publishing = layout.constants()["PUBLISHING"]
    fields.set("Slot", slot_of(ref), "word", word & ~(15 << 12) | publishing << 12)
    end(damaged, ref)
    assert ref not in damaged
    assert damaged.check() == []


@pytest.mark.parametrize("row", [layout.constants()["MAX_ROWS"], 4000, 2**63])
def test_a_lock_of_no_row_is_named(damaged: refstore.Store, fields: Fields, row: int) -> None:
    damaged.put(b"x", name="n")
    fields.set("Pool", 0, "lock", row + 1)
    with pytest.raises(refstore.StoreCorruptedError, match=f"the space lock names row {row}"):
        damaged.put(bytes(200_000))
    fields.set("Pool", 0, "lock", 0)
    for number in range(layout.constants()["NAME_LOCKS"]):
        fields.set("NameLock", number, "lock", row + 1)
    with pytest.raises(refstore.StoreCorruptedError, match=f"name's lock names row {row}"):
        damaged.put(b"y", name="n", replace=True)


def test_a_slot_in_the_hand_of_no_row_is_named(damaged: refstore.Store, fields: Fields) -> None:
    refs = [damaged.put(b"x") for _ in range(OBJECTS)]
    slot = slot_of(refs[7])
    held = layout.constants()["HELD"]
    fields.set("Slot", slot, "word", 1 << 16 | held << 12 | 4000)
    with pytest.raises(refstore.StoreCorruptedError, match="names row 4000"):
        damaged.put(b"y")


@pytest.mark.parametrize("owner", [1, 2, 1024, 1025, 0x7FFF, 0x8000, 0x8001, 0x8002, 0xFFFF])
def test_a_name_whose_owner_is_no_other_process_is_taken(
    damaged: refstore.Store, fields: Fields, owner: int
) -> None:
    ref = damaged.put(b"old", name="n")
    writer = damaged.create(3, name="other")
    fields.set("Slot", slot_of(ref), "owned_by", owner)
    with pytest.raises(refstore.ObjectExistsError):
        damaged.put(b"new", name="n")
    with pytest.raises(refstore.ObjectExistsError):
        damaged.put_many([b"new"], names=["n"])
    writer.seal()
    with damaged["n"] as buf:
        assert bytes(buf) == b"old"


def test_a_slot_in_the_hand_of_a_row_that_is_free_is_waited_for_once(
    damaged: refstore.Store, fields: Fields
) -> None:
    refs = [damaged.put(b"x") for _ in range(OBJECTS)]
    held = layout.constants()["HELD"]
    fields.set("Slot", slot_of(refs[7]), "word", 1 << 16 | held << 12 | 128)
    with pytest.raises(refstore.StoreBusyError):
        damaged.put(b"y")
    assert any(problem.startswith("owner: ") for problem in damaged.check())


def test_a_slot_that_is_found_and_holds_nothing_ends_the_look(
    damaged: refstore.Store, fields: Fields
) -> None:
    ref = damaged.put(b"x")
    slot = slot_of(ref)
    publishing = layout.constants()["PUBLISHING"]
    fields.set("Slot", slot, "word", publishing << 12 | 0xFFF)  # its first generation
    with pytest.raises(refstore.StoreCorruptedError, match=f"slot {slot} is found"):
        damaged.info(ref)


# -- labels


def test_a_damaged_name_is_named_by_its_slot(damaged: refstore.Store, fields: Fields) -> None:
    ref = damaged.put(b"x", name="a name")
    damaged["other"] = b"y"
    for letter in (0xFF, ord("b")):  # no UTF-8 any more; another name
        fields.set("Label", slot_of(ref), "name", letter)
        with pytest.raises(refstore.StoreCorruptedError, match=f"label of slot {slot_of(ref)} "):
            damaged.names()
    assert bytes(damaged.get(ref)) == b"x"
    assert bytes(damaged["other"]) == b"y"
    assert "a name" not in damaged


# -- blocks


def what_is_shown(store: refstore.Store, ref: refstore.ObjectRef) -> bytes | str:
    """The bytes, or which slot is damaged."""
    try:
        with store.get(ref) as buf:
            return bytes(buf)
    except refstore.StoreCorruptedError as error:
        (slot,) = re.findall(r"slot \d+", str(error))
        return str(slot)


@pytest.mark.parametrize("size", [60, 700, 40_000])
@pytest.mark.parametrize("field", ["offset", "nbytes", "extent", "run", "block", "size_class"])
def test_an_object_shows_no_bytes_but_those_of_its_block(
    damaged: refstore.Store, fields: Fields, size: int, field: str
) -> None:
    refs = [damaged.put(bytes([n]) * size) for n in range(5)]
    slot, other = slot_of(refs[3]), slot_of(refs[2])
    right = fields.get("Slot", slot, field)
    wrong = {fields.get("Slot", other, field), 0, 1, right + 1, right ^ 64, right ^ 1 << 7}
    if field in ("offset", "nbytes", "extent"):
        wrong |= {2**64 - 1, 2**63, right + (1 << 32)}
    shown = []
    for value in wrong - {right}:
        fields.set("Slot", slot, field, value % 256 if field in ("block", "size_class") else value)
        each = what_is_shown(damaged, refs[3])
        shown.append(each)
        # in its own block it may look like another size, with what lay there before
        if each == f"slot {slot}" or (isinstance(each, bytes) and set(each) <= {3, 0}):
            continue
        # where a small block lies is known by its run's record, which a get has no time to read
        assert (field, size < 40_000) == ("offset", True)
        assert any(f"slot {slot} " in problem for problem in damaged.check())
    seen_late = ("offset", "block") if size < 40_000 else ("run", "block", "size_class")
    assert f"slot {slot}" in shown or field in seen_late
    fields.set("Slot", slot, field, right)
    assert bytes(damaged.get(refs[3])) == bytes([3]) * size


def test_a_count_of_pins_that_is_damaged_does_not_wrap(store: refstore.Store) -> None:
    if not _core.DEBUG:
        pytest.skip("counts are set in debug builds")
    ref = store.put(b"x")
    buf = store.get(ref)
    _core._set_pins(cast(Any, store), ref, 0)
    buf.release()
    assert store.refcount(ref) == 1
    store.get(ref).release()
    assert store.refcount(ref) == 1
    store.delete(ref)
    assert store.stats().used == 0


@pytest.mark.parametrize("run", [0, OBJECTS, 0xEBED07D8])
def test_a_block_of_no_run_is_given_to_no_other_object(path: str, run: int) -> None:
    """The one object that may go has a larger block than the new one takes, and a wrong run."""
    small, nbytes = 64, 1000
    options: dict[str, Any] = {"capacity": CAPACITY, "max_objects": OBJECTS, "evict": "lru"}
    with refstore.Store(path, create=True, **options) as store:
        store.put(bytes(CAPACITY - small * 1024), evictable=False)
        refs: list[refstore.ObjectRef] = []
        while store.stats().evictions == 0:
            refs.append(store.put(bytes(nbytes)))
        refs = [ref for ref in refs if ref in store]
        fields, victim = Fields(path), refs.pop(len(refs) // 2)
        with contextlib.ExitStack() as pins:
            for buf in store.get_many(refs):
                pins.enter_context(buf)
            fields.set("Slot", slot_of(victim), "run", run)
            with pytest.raises(refstore.StoreFullError):
                store.put(bytes(100))
            assert [bytes(buf) for buf in store.get_many(refs)] == [bytes(nbytes)] * len(refs)
    os.unlink(path)


@pytest.mark.parametrize("size", [3000, 100_000])
@pytest.mark.parametrize(
    ("table", "field", "wrong"),
    [
        ("Slot", "offset", (1 << 32) + 3),
        ("Slot", "offset", 1 << 62),
        ("Slot", "nbytes", 1 << 62),
        ("Slot", "nbytes", 150_000),
        ("Meta", "nbytes", 60_000),
    ],
)
def test_a_writer_moves_nothing_but_what_its_block_holds(
    damaged: refstore.Store, fields: Fields, size: int, table: str, field: str, wrong: int
) -> None:
    refs = [damaged.put(bytes([k]) * size) for k in range(2)]
    writer: Any = damaged.create(size, meta=bytes(300))
    refs += [damaged.put(bytes([k]) * size) for k in range(2, 4)]
    fields.set(table, slot_of(writer._ref), field, wrong)
    with pytest.raises(refstore.StoreCorruptedError, match="an invalid block"):
        writer.truncate(100)
    writer.abort()
    for k, ref in enumerate(refs):
        with damaged.get(ref) as buf:
            assert bytes(buf) == bytes([k]) * size


# -- the map of pages


@pytest.mark.parametrize("wrong", [1 << 31, 0xFFFFFFFF, 200])
@pytest.mark.parametrize("field", ["head", "next", "prev"])
def test_a_free_run_of_any_length_and_place_ends_no_trim(
    damaged: refstore.Store, fields: Fields, field: str, wrong: int
) -> None:
    refs = [damaged.put(bytes([n]) * 100_000) for n in range(8)]
    for ref in refs[::2]:
        damaged.delete(ref)
    damaged.trim()
    heads = [page for page in range(256) if fields.get("PageTag", page, "head")]
    assert heads
    for page in heads:
        fields.set("PageTag", page, field, wrong)
    damaged.trim()
    for n in range(1, 8, 2):
        assert bytes(damaged.get(refs[n])) == bytes([n]) * 100_000
    new = damaged.put(b"z" * 200_000)
    assert bytes(damaged.get(new)) == b"z" * 200_000
    assert damaged.check() == []


def test_pages_that_a_wrong_top_offers_are_not_taken(
    damaged: refstore.Store, fields: Fields
) -> None:
    refs = [damaged.put(bytes([n]) * 100_000) for n in range(5)]
    fields.set("Pool", 0, "top", 0)
    new = [damaged.put(bytes([100 + n]) * 100_000) for n in range(5)]
    for n, ref in enumerate(refs):
        assert bytes(damaged.get(ref)) == bytes([n]) * 100_000
    assert [bytes(damaged.get(ref))[0] for ref in new] == [100, 101, 102, 103, 104]
    assert damaged.check() == []


# -- what check() sees


def seen(store: refstore.Store) -> set[str]:
    """The invariants that do not hold."""
    return {problem.partition(":")[0] for problem in store.check()}


@pytest.mark.parametrize(
    ("table", "field", "bit", "invariant"),
    [
        ("Header", "live", 0, "live"),
        ("Header", "live_words", 0, "live_words"),
        ("Header", "slots_used", 7, "slots_used"),
        ("Header", "capacity", 20, "header"),
        ("Header", "max_objects", 7, "header"),
        ("Pool", "runs_used", 6, "runs_used"),
        ("pins_ready", "word", 0, "pins_ready"),
        ("labels_ready", "word", 0, "labels_ready"),
        ("index_ready", "word", 0, "index_ready"),
        ("data_ready", "word", 0, "data_ready"),
        ("used_bits", "word", 0, "used"),
        ("Run", "live", 0, "run"),
        ("Run", "first", 3, "run"),
        ("Run", "pages", 3, "run"),
        ("Run", "blocks", 0, "run"),
        ("Run", "unowned", 0, "unowned"),
        ("Run", "unowned", 0, "unowned_blocks"),
        ("Run", "slots", 0, "block"),
        ("Run", "free", 5, "lost slot"),
        ("Pool", "unowned_blocks", 0, "unowned_blocks"),
        ("Pool", "class_pages", 1, "class_pages"),
        ("Pool", "bin_bits", 3, "bins"),
        ("Pool", "bin_head", 0, "bins"),
        ("empty_bits", "word", 50, "lost slot"),
        ("run_bits", "word", 5, "lost run"),
        ("Row", "state", 5, "row"),
        ("Row", "state", 0, "live"),
        ("Slot", "owned_by", 3, "owned_by"),
        ("Slot", "put_by", 9, "put_by"),
        ("Row", "origin", 9, "origins"),
        ("Slot", "flags", 1, "meta"),
        ("Slot", "spill_nbytes", 6, "size"),
    ],
)
def test_check_sees_a_wrong_truth(
    damaged: refstore.Store, fields: Fields, table: str, field: str, bit: int, invariant: str
) -> None:
    ref = damaged.put(helpers.pattern(1, 60), name="n")
    damaged.put(helpers.pattern(2, 40_000))
    with damaged.get(ref):
        assert damaged.check() == []
        right = fields.get(table, 0, field)
        fields.set(table, 0, field, right ^ 1 << bit)
        assert invariant in seen(damaged)
        fields.set(table, 0, field, right)
        assert damaged.check() == []


def test_check_sees_that_pins_of_a_row_that_was_left_do_not_count(
    damaged: refstore.Store, fields: Fields
) -> None:
    state, live = fields.get("Row", 0, "state"), fields.get("Header", 0, "live")
    fields.set("Row", 0, "state", layout.constants()["ROW_LEFT"])
    assert damaged.check() == []
    fields.set("Header", 0, "live", 0)
    assert "live" in seen(damaged)
    fields.set("Header", 0, "live", live)
    fields.set("Row", 0, "state", state)
    assert damaged.check() == []


@pytest.mark.parametrize(
    ("table", "field", "invariant"),
    [("Meta", "nbytes", "metas_ready"), ("Label", "name_nbytes", "labels_ready")],
)
def test_check_sees_what_is_written_where_no_memory_counts(
    damaged: refstore.Store, fields: Fields, table: str, field: str, invariant: str
) -> None:
    damaged.put(b"x")
    for entry in (0, 90, OBJECTS - 1):  # each in a page of its own; those before it are zeros
        fields.set(table, entry, field, 1)
        assert invariant in seen(damaged)
        fields.set(table, entry, field, 0)
        assert damaged.check() == []


@pytest.mark.parametrize(
    ("table", "invariant"), [("empty_bits", "lost slot"), ("run_bits", "lost run")]
)
def test_check_sees_hints_that_nobody_looks_for(
    damaged: refstore.Store, fields: Fields, table: str, invariant: str
) -> None:
    damaged.put(b"x")
    summary = 8  # words from the first: each of the two has less than a line of them
    assert fields.get(table, summary, "word") & 1
    fields.set(table, summary, "word", 0)
    assert invariant in seen(damaged)


def test_check_sees_a_free_run_of_pages_that_no_list_leads_to(
    damaged: refstore.Store, fields: Fields
) -> None:
    refs = [damaged.put(bytes(40_000)) for _ in range(3)]
    damaged.delete(refs[1])
    damaged.put(bytes(60_000))  # for which that one's block goes back to the map
    assert damaged.check() == []
    (b,) = [b for b in range(32) if fields.get("Pool", 0, "bin_head", b)]
    fields.set("Pool", 0, "bin_head", 0, b)
    fields.set("Pool", 0, "bin_bits", 0)
    assert "bins" in seen(damaged)


def test_check_sees_a_publisher_that_there_is_not(damaged: refstore.Store, fields: Fields) -> None:
    ref = damaged.put(b"x", name="n")
    publishing = layout.constants()["PUBLISHING"]
    fields.set("Slot", slot_of(ref), "word", 1 << 16 | publishing << 12 | 700)
    assert "owner" in seen(damaged)


def test_check_sees_a_slot_and_a_run_that_disagree(damaged: refstore.Store, fields: Fields) -> None:
    ref = damaged.put(b"x")
    fields.set("Run", 0, "slots", 0, fields.get("Slot", slot_of(ref), "block"))
    assert {"block", "unowned"} <= seen(damaged)


def test_check_sees_a_pin_that_a_mask_denies(damaged: refstore.Store, fields: Fields) -> None:
    ref = damaged.put(b"x")
    with damaged.get(ref):
        right = fields.get("Slot", slot_of(ref), "mask")
        fields.set("Slot", slot_of(ref), "mask", 0)
        assert "mask" in seen(damaged)
        fields.set("Slot", slot_of(ref), "mask", right)
        assert damaged.check() == []
