"""Refs: sixteen bytes that name one object for ever, and never another one."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refstore
from refstore._refs import _PythonRef

MakeStore = Callable[..., refstore.Store]


def assert_not_found(store: refstore.Store, ref: refstore.ObjectRef) -> None:
    """Every use of a ref that is no live object's."""
    assert ref not in store
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get(ref)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get(ref, writable=True)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.delete(ref)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.refcount(ref)


# -- the value --------------------------------------------------------------------------------


def test_a_ref_is_sixteen_bytes(store: refstore.Store) -> None:
    ref = store.put(b"x")
    assert isinstance(ref, refstore.ObjectRef)
    assert len(bytes(ref)) == 16
    assert ref.hex() == bytes(ref).hex()
    assert refstore.ObjectRef(bytes(ref)) == ref
    assert refstore.ObjectRef.from_hex(ref.hex()) == ref
    assert ref.hex() in repr(ref)


@given(st.binary(min_size=16, max_size=16))
@settings(deadline=None, database=None)
def test_any_sixteen_bytes_make_a_round_trip(raw: bytes) -> None:
    ref = refstore.ObjectRef(raw)
    assert bytes(ref) == raw
    assert refstore.ObjectRef.from_hex(ref.hex()) == ref
    assert pickle.loads(pickle.dumps(ref)) == ref


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
@settings(deadline=None, database=None)
def test_refs_are_equal_just_when_their_bytes_are(one: bytes, other: bytes) -> None:
    assert (refstore.ObjectRef(one) == refstore.ObjectRef(other)) == (one == other)
    assert refstore.ObjectRef(one) == refstore.ObjectRef(bytes(bytearray(one)))
    assert hash(refstore.ObjectRef(one)) == hash(refstore.ObjectRef(one))


@pytest.mark.parametrize("raw", [b"", b"x" * 15, b"x" * 17, b"x" * 32])
def test_any_other_length_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="16"):
        refstore.ObjectRef(raw)


CLASSES = pytest.mark.parametrize("cls", [refstore.ObjectRef, _PythonRef])


@CLASSES
@pytest.mark.parametrize("raw", ["0" * 16, 5, None, [0] * 16])
def test_any_other_type_is_a_type_error(cls: Any, raw: object) -> None:
    said = f"^an ObjectRef is made of bytes, not {type(raw).__name__}$"
    with pytest.raises(TypeError, match=said):
        cls(raw)


@pytest.mark.parametrize("text", ["", "00" * 15, "00" * 17, "zz" * 16, "0" * 31, "0x" + "00" * 16])
def test_bad_hex_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)hex|16|32"):
        refstore.ObjectRef.from_hex(text)


@CLASSES
def test_hex_of_another_type_is_a_type_error(cls: Any) -> None:
    with pytest.raises(TypeError, match=r"^hex digits are a str, not bytes$"):
        cls.from_hex(b"00" * 16)


def test_refs_are_keys(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(100)]
    assert len(set(refs)) == 100
    table = {ref: i for i, ref in enumerate(refs)}
    assert table[refstore.ObjectRef(bytes(refs[42]))] == 42


def test_a_ref_equals_nothing_else(store: refstore.Store) -> None:
    ref = store.put(b"x")
    others: list[object] = [bytes(ref), ref.hex(), None, object(), hash(ref)]
    assert all(ref != other for other in others)
    assert not any(ref == other for other in others)


def test_refs_have_no_order(store: refstore.Store) -> None:
    one, other = store.put(b"x"), store.put(b"y")
    with pytest.raises(TypeError):
        one < other  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        one >= other  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        sorted([one, other])  # type: ignore[type-var]


def test_a_ref_cannot_be_changed(store: refstore.Store) -> None:
    ref = store.put(b"x")
    before = bytes(ref)
    with pytest.raises((AttributeError, TypeError)):
        ref.slot = 5  # type: ignore[misc, assignment, attr-defined, unused-ignore]
    with pytest.raises((AttributeError, TypeError)):
        ref.anything = 5  # type: ignore[attr-defined, unused-ignore]
    assert bytes(ref) == before


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_ref_is_picklable_and_small(store: refstore.Store, protocol: int) -> None:
    ref = store.put(b"x")
    dumped = pickle.dumps(ref, protocol)
    assert len(dumped) < 100 or protocol < 3
    assert pickle.loads(dumped) == ref
    assert copy.copy(ref) == copy.deepcopy(ref) == ref


def test_the_bytes_are_slot_generation_and_tag(make_store: MakeStore) -> None:
    store, other = make_store(name="a"), make_store(name="b")
    refs = [store.put(b"x") for _ in range(50)]
    assert len({bytes(ref)[:4] for ref in refs}) == 50, "slots differ"
    assert len({bytes(ref)[10:] for ref in refs}) == 1, "the tag is the store's"
    assert bytes(other.put(b"x"))[10:] != bytes(refs[0])[10:], "another store's is another"


# -- what it finds ----------------------------------------------------------------------------


def test_a_deleted_ref_is_not_found(store: refstore.Store) -> None:
    ref = store.put(b"x")
    store.delete(ref)
    assert_not_found(store, ref)


def test_a_pinned_deleted_ref_is_not_found(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with store.get(ref) as buf:
        store.delete(ref)
        assert_not_found(store, ref)
        assert bytes(buf) == b"x"
    assert_not_found(store, ref)


def test_stale_refs_are_never_mistaken_for_the_slots_new_object(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=8)
    stale = []
    for i in range(500):
        stale.append(store.put(b"%d" % i))
        store.delete(stale[-1])
    live = [store.put(b"live") for _ in range(8)]
    assert len({bytes(ref)[:4] for ref in stale}) <= 8, "slots were used again"
    assert len(set(stale)) == 500
    for ref in stale:
        assert_not_found(store, ref)
    assert set(store) == set(live)


def test_a_ref_of_another_store_is_not_found(make_store: MakeStore) -> None:
    one, other = make_store(name="one"), make_store(name="other")
    refs = [one.put(b"x") for _ in range(20)]
    for _ in range(20):
        other.put(b"y")
    for ref in refs:
        assert_not_found(other, ref)
    assert len(other) == 20


def test_a_ref_of_the_store_before_is_not_found(folder: Path) -> None:
    path = str(folder / "s")
    with refstore.Store(path, capacity="1MiB") as first:
        ref = first.put(b"x")
        first.unlink()
    with refstore.Store(path, capacity="1MiB") as second:
        second.put(b"y")
        assert_not_found(second, ref)
        second.unlink()


def test_every_flipped_bit_is_not_found(store: refstore.Store) -> None:
    live = {store.put(b"x") for _ in range(300)}
    ref = bytes(min(live, key=bytes))
    for bit in range(128):
        raw = bytearray(ref)
        raw[bit // 8] ^= 1 << bit % 8
        garbage = refstore.ObjectRef(bytes(raw))
        if garbage not in live:
            assert_not_found(store, garbage)
    assert set(store) == live


def test_garbage_is_not_found(store: refstore.Store) -> None:
    live = store.put(b"x")
    rng = random.Random(6)
    for raw in (bytes(16), b"\xff" * 16, *(rng.randbytes(16) for _ in range(300))):
        assert_not_found(store, refstore.ObjectRef(raw))
        if any(raw):
            assert_not_found(store, refstore.ObjectRef(raw[:10] + bytes(live)[10:]))
    with store.get(live) as buf:
        assert bytes(buf) == b"x"


@pytest.mark.parametrize("slot", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_slot_that_is_not_there_is_not_found(store: refstore.Store, slot: int) -> None:
    live = bytes(store.put(b"x"))
    for order in ("little", "big"):
        raw = slot.to_bytes(4, order) + live[4:]
        if raw != live:
            assert_not_found(store, refstore.ObjectRef(raw))


@pytest.mark.parametrize("key", [b"x" * 16, "0" * 32, 0])
def test_what_looks_like_a_ref_is_none(store: refstore.Store, key: object) -> None:
    store.put(b"x")
    error = refstore.ObjectNotFoundError if isinstance(key, str) else TypeError
    with pytest.raises(error):
        store.get(key)  # type: ignore[arg-type]


def test_an_empty_store_finds_nothing(store: refstore.Store) -> None:
    assert_not_found(store, refstore.ObjectRef(bytes(16)))
    assert list(store) == []
    helpers.assert_full_capacity_fits(store)
