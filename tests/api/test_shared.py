"""`SharedList` and `SharedDict`: what goes in comes out, in every process, for little memory."""

from __future__ import annotations

import datetime
import gc
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import helpers
import numpy as np
import pytest
import workers
from children import child_process

import refstore
from refstore import _records
from refstore.shared import SharedDict, SharedList

ITEMS: list[Any] = [
    *("", "text", "日本", "\ud800", "x" * 100_000),
    *(b"", b"bytes", b"y" * 100_000, bytearray(b"array"), memoryview(b"view")),
    *(0, 1, -1, 127, 128, -128, -129, 2**70, -(2**70), True, None, 1.5),
    *({"a": 1}, [1, "2", (3,)], {"text": "z" * 100_000}, datetime.date(2020, 1, 2)),
    {"array": np.arange(5000), "small": np.arange(3)},
    np.float32(2.5),
]
ARRAYS: list[Any] = [
    *(np.arange(10), np.arange(3, dtype="u1"), np.arange(5000, dtype="f4"), np.array(7)),
    *(np.zeros((0, 5)), np.zeros((5, 0)), np.zeros(0), np.ones((3, 4), "f4")),
    np.arange(60_000).reshape(200, 300),
    *(np.arange(20)[::-3], np.arange(6).reshape(2, 3).T, np.broadcast_to(np.arange(3), (4, 3))),
    *(np.array(["a", "ä"]), np.array([b"ab"]), np.zeros(3, "V0"), np.array(["2020-01"], "M8[M]")),
    np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    np.array(["a", None], object),
    np.ma.array([1, 2], mask=[False, True]),
    np.arange(4, dtype=">i2"),
]
Handle = SharedList | SharedDict


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray | np.generic):
        is_same = type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        return is_same and bool(np.array_equal(one, other))
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, bytearray | memoryview):
        other = bytes(other)
    return type(one) is type(other) and one == other


@pytest.fixture
def texts(store: refstore.Store) -> Iterator[SharedList]:
    with SharedList.put(store, [f"text {i}" for i in range(100)], name="texts") as made:
        yield made


@pytest.mark.parametrize("items", [ITEMS, ARRAYS], ids=["objects", "arrays"])
@pytest.mark.parametrize("make", [list, iter])
def test_items_come_back(store: refstore.Store, items: list[Any], make: Any) -> None:
    with SharedList.put(store, make(items)) as shared:
        assert len(shared) == len(items)
        for i, item in enumerate(items):
            assert same(shared[i], item), item
        for one, item in zip(shared, items, strict=True):
            assert same(one, item)


def test_values_come_back_by_keys_of_three_types(store: refstore.Store) -> None:
    entries: dict[Any, Any] = {f"k{i}": item for i, item in enumerate(ITEMS)}
    entries |= {b"k1": 1, 5: "five", -1: "minus", 2**70: "big", "": "", b"": b"", "\ud800": 0}
    with SharedDict.put(store, entries) as shared:
        assert len(shared) == len(entries)
        assert list(shared) == list(entries)
        assert all(same(shared[key], value) for key, value in entries.items())
        assert [key for key, _ in shared.items()] == list(entries)
        assert shared[np.int64(5)] == shared[5] == "five"
        assert b"k1" in shared
        for absent in ("absent", "1", b"5", 6, 5.0, None, (), b"k0", 2**71):
            assert absent not in shared
            assert shared.get(absent, "default") == "default"
            with pytest.raises(KeyError) as raised:
                shared[absent]
            assert raised.value.args == (absent,)


def test_a_large_dict_finds_every_key_and_no_other(store: refstore.Store) -> None:
    with SharedDict.put(store, ((f"key {i}", i) for i in range(20_000))) as shared:
        assert all(shared[f"key {i}"] == i for i in range(20_000))
        assert not any(f"key {i}" in shared for i in range(20_000, 21_000))


@pytest.mark.parametrize("kind", [SharedList, SharedDict])
def test_an_empty_one(store: refstore.Store, kind: type[Handle]) -> None:
    with kind.put(store, []) as shared:
        assert (len(shared), list(shared)) == (0, [])
        assert not shared
        with pytest.raises(LookupError):
            shared[0]


def test_indices_and_slices_are_a_lists(texts: SharedList) -> None:
    plain = list(texts)
    assert plain == [f"text {i}" for i in range(100)]
    for i in (0, 99, -1, -100, np.int64(5), True):
        assert texts[i] == plain[i]
    for part in (slice(None), slice(10), slice(-5, None), slice(50, 10, -7), slice(98, 500)):
        assert texts[part] == plain[part]
    for i in (100, -101, 2**70):
        with pytest.raises(IndexError, match=f"no item {i} in a SharedList of 100 items"):
            texts[i]
    with pytest.raises(TypeError):
        texts["1"]  # type: ignore[call-overload]
    assert list(reversed(texts)) == plain[::-1]
    assert "text 7" in texts
    assert texts.index("text 7") == 7


def test_it_is_read_only(store: refstore.Store, texts: SharedList) -> None:
    with pytest.raises(TypeError):
        texts[0] = "x"  # type: ignore[index]
    with pytest.raises(TypeError):
        del texts[0]  # type: ignore[attr-defined]
    with (
        SharedList.put(store, [np.arange(5), np.arange(5000)]) as arrays,
        pytest.raises(ValueError, match="read-only"),
    ):
        arrays[1][0] = 1


def test_an_item_of_100_bytes_has_an_overhead_of_a_few(store: refstore.Store) -> None:
    n, overhead = 2000, []
    for item in (b"x" * 100, "x" * 100, np.zeros(100, "u1"), np.zeros(25, "f4")):
        with SharedList.put(store, [item] * n) as shared, store.get(shared.ref) as buf:
            overhead.append((buf.nbytes - 100 * n) / n)
    assert max(overhead) <= 6  # bytes; with 5 of its own, and the parts' alignment


def test_numbers_of_more_than_4_gib_are_read(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "NARROW", 0)
    with SharedList.put(store, ITEMS) as shared:
        assert all(same(one, item) for one, item in zip(shared, ITEMS, strict=True))
    with SharedDict.put(store, {"a": 1, "b": 2}) as shared_dict:
        assert dict(shared_dict) == {"a": 1, "b": 2}


def test_more_formats_of_arrays_than_there_are_tags(store: refstore.Store) -> None:
    items = [np.zeros(1, f"S{n}") for n in range(1, 400)]
    with SharedList.put(store, items) as shared:
        assert all(same(one, item) for one, item in zip(shared, items, strict=True))


def test_arrays_lie_in_shared_memory_aligned(store: refstore.Store) -> None:
    with SharedList.put(store, ["x", np.arange(5000), "y", np.arange(3.0)]) as shared:
        for i, alignment in ((1, 64), (3, 8)):
            where = helpers.address(shared[i])
            assert where % alignment == 0
            assert helpers.lies_in(store.path, where)


def test_an_array_outlives_the_list_and_its_object(store: refstore.Store) -> None:
    with SharedList.put(store, [np.full(5000, 7)]) as shared:
        array = shared[0]
    store.delete(shared.ref)
    helpers.fill_with_junk(store)
    assert (array == 7).all()
    assert store.stats().condemned == 1
    del array
    assert store.stats().condemned == 0


def test_a_generator_may_use_one_array_again(store: refstore.Store) -> None:
    def batches() -> Iterator[Any]:
        array = np.zeros(20_000)
        for i in range(5):
            array[:] = i
            yield array if i % 2 else {"array": array}

    with SharedList.put(store, batches()) as shared:
        for i, item in enumerate(shared):
            assert ((item if i % 2 else item["array"]) == i).all()


def test_torch_tensors_are_items(store: refstore.Store) -> None:
    torch = pytest.importorskip("torch")
    with SharedList.put(store, ["x", {"t": torch.arange(5000)}]) as shared:
        tensor = shared[1]["t"]
        tensor += 1  # a private page
        assert torch.equal(tensor, torch.arange(5000) + 1)
        assert torch.equal(shared[1]["t"], torch.arange(5000))


# -- in other processes


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_a_handle_opens_the_same_in_another_process(
    store: refstore.Store, texts: SharedList, method: str
) -> None:
    with (
        SharedDict.put(store, {"a": 1, 2: "b"}) as entries,
        child_process(store, method) as child,
    ):
        assert child.do(workers.items_of, texts) == list(texts)
        assert child.do(workers.items_of, entries) == [("a", 1), (2, "b")]


def test_a_forked_child_reads_what_it_inherits(store: refstore.Store, texts: SharedList) -> None:
    def work() -> None:
        assert texts[-1] == "text 99"
        texts.close()

    store.delete("texts")
    assert helpers.forked(work) == 0
    assert texts[0] == "text 0"


def test_a_handle_of_what_is_gone_says_so(store: refstore.Store, texts: SharedList) -> None:
    dumped = pickle.dumps(texts)
    store.delete(texts.ref)
    assert texts[0] == "text 0", "open ones keep it"
    with pytest.raises(refstore.ObjectNotFoundError):
        pickle.loads(dumped)


def test_many_threads_read_one_list(texts: SharedList) -> None:
    seen: list[list[str]] = []
    threads = [threading.Thread(target=lambda: seen.append(list(texts))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [list(texts)] * 4


# -- opening and closing


def test_it_opens_by_name_and_by_ref(store: refstore.Store, texts: SharedList) -> None:
    for key in ("texts", texts.ref):
        with SharedList(store, key) as again:
            assert again[5] == "text 5"
            assert again.ref == texts.ref
    with pytest.raises(refstore.ObjectNotFoundError):
        SharedList(store, "absent")


@pytest.mark.parametrize("kind", [SharedList, SharedDict])
def test_a_closed_one_refuses_use_and_pins_nothing(
    store: refstore.Store, kind: type[Handle]
) -> None:
    shared = kind.put(store, [("a", 1)])
    ref = shared.ref
    assert store.refcount(ref) == 2
    shared.close()
    shared.close()
    assert store.refcount(ref) == 1
    assert shared.closed
    for use in (len, list, pickle.dumps, lambda s: s[0], lambda s: 1 in s, lambda s: s.__enter__()):
        with pytest.raises(ValueError, match=f"this {kind.__name__} is closed"):
            use(shared)
    assert repr(shared) == f"<{kind.__name__}, closed>"
    assert shared.ref == ref


def test_a_list_that_is_let_go_of_pins_nothing(store: refstore.Store) -> None:
    ref = SharedList.put(store, ["a"]).ref
    gc.collect()
    assert store.refcount(ref) == 1


def test_names_are_taken_and_replaced(store: refstore.Store, texts: SharedList) -> None:
    with pytest.raises(refstore.ObjectExistsError):
        SharedList.put(store, [1], name="texts")
    with SharedList.put(store, [1], name="texts", replace=True) as newer:
        assert SharedList(store, "texts")[0] == newer[0] == 1
        assert texts[0] == "text 0"
    SharedDict.put(store, {}, "entries", owned=True, evictable=False, timeout=1).close()
    assert store.info("entries").owned


def test_what_is_no_list_is_refused(store: refstore.Store, texts: SharedList) -> None:
    with SharedDict.put(store, {"a": 1}, name="entries"):
        for key, obj in {"bytes": b"x", "long": bytes(500), "array": np.zeros(99)}.items():
            store.put(obj, name=key)
            with pytest.raises(TypeError, match=f"object '{key}' in store .* is no SharedList"):
                SharedList(store, key)
        with pytest.raises(TypeError, match="is no SharedList"):
            SharedList(store, "entries")
        with pytest.raises(TypeError, match="is no SharedDict"):
            SharedDict(store, "texts")
    assert store.stats().pinned == 1


def test_what_cannot_be_put_is_named_and_leaves_nothing(store: refstore.Store) -> None:
    before = helpers.usage(store)
    error: type[Exception]
    for items, error, text in (
        ([1, lambda: 0], pickle.PicklingError, "item 1 of a SharedList cannot be pickled: "),
        ([1, 2, threading.Lock()], TypeError, "item 2 of a SharedList cannot be pickled: "),
        ([bytes(store.capacity), b"x"], refstore.StoreFullError, "store"),
    ):
        with pytest.raises(error, match=text):
            SharedList.put(store, items)
    for entries, error, text in (
        ([(1, 2), (True, 3)], ValueError, "the key True is there twice"),
        ({1.5: 2}, TypeError, r"1\.5 is a key of a SharedDict: give str, bytes or int"),
        ({"a": lambda: 0}, pickle.PicklingError, "the value of 'a' cannot be pickled: "),
    ):
        with pytest.raises(error, match=text):
            SharedDict.put(store, entries)
    assert helpers.usage(store) == before


@pytest.mark.parametrize("at", [8, 16, 24, 32, 36, 64, 128])
def test_a_damaged_block_is_an_error_that_names_what(store: refstore.Store, at: int) -> None:
    with SharedList.put(store, [np.zeros((2, 2)), b"x"]) as shared, store.get(shared.ref) as buf:
        octets = bytearray(buf)
    octets[at : at + 4] = b"\xff" * 4
    ref = store.put(octets)
    with pytest.raises((refstore.StoreCorruptedError, TypeError)):
        list(SharedList(store, ref))


def test_a_damaged_text_is_an_error_that_names_what(store: refstore.Store) -> None:
    text = "a text of some length"
    with SharedList.put(store, [text]) as shared, store.get(shared.ref) as buf:
        octets = bytes(buf).replace(text.encode(), b"\xff" * len(text))
    damaged = SharedList(store, store.put(octets))
    with damaged, pytest.raises(refstore.StoreCorruptedError, match="text of record 0"):
        list(damaged)
