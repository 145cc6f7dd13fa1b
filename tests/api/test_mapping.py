"""`StoreMapping`: CPython's and zict's tests of mappings, names, and what others do meanwhile."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import helpers
import numpy as np
import pytest
import workers
from children import child_processes

import refstore
from refstore.mapping import StoreMapping

zict: Any = pytest.importorskip("zict")
protocol: Any = pytest.importorskip("test.mapping_tests", reason="Python has its tests along")
checks: Any = pytest.importorskip("zict.tests.utils_test")

PROTOCOL = [name for name in dir(protocol.BasicTestMappingProtocol) if name.startswith("test_")]
CHECKS = [
    "check_mapping",
    "check_different_keys_threadsafe",
    "check_same_key_threadsafe",
    "check_bad_key_types",
]
# Keys that file systems, paths or patterns would choke on, all of which are names.
KEYS = ["a/b", "..", "*", "a\0b", " ", "ä", "日本", "\n", "%2F", "-x", "x" * 240, "/", "\u202e"]


@pytest.fixture
def mapping(store: refstore.Store) -> StoreMapping:
    return StoreMapping(store, "m/")


@pytest.mark.parametrize("name", PROTOCOL)
def test_it_passes_cpythons_own_tests(store: refstore.Store, name: str) -> None:
    numbers = itertools.count()

    class Case(protocol.BasicTestMappingProtocol):  # type: ignore[misc]
        def _empty_mapping(self) -> StoreMapping:
            return StoreMapping(store, f"{next(numbers)}/")

    Case(name).debug()


@pytest.mark.parametrize("prefix", ["", "m/"])
@pytest.mark.parametrize("name", CHECKS)
def test_it_passes_zicts_tests(store: refstore.Store, name: str, prefix: str) -> None:
    getattr(checks, name)(StoreMapping(store, prefix))


def test_it_is_the_slow_half_of_a_zict_buffer(mapping: StoreMapping) -> None:
    buffer = zict.Buffer({}, mapping, n=2)
    buffer.update({f"k{i}": b"%d" % i for i in range(5)})
    assert sorted(mapping) == ["k0", "k1", "k2"]
    assert {key: bytes(value) for key, value in buffer.items()} == {
        f"k{i}": b"%d" % i for i in range(5)
    }


def test_it_holds_what_an_lru_keeps(mapping: StoreMapping) -> None:
    lru = zict.LRU(2, mapping)
    for key in "abc":
        lru[key] = key
    assert sorted(mapping) == ["b", "c"]


@pytest.mark.parametrize("prefix", ["", "m/"])
def test_any_text_that_makes_a_name_is_a_key(store: refstore.Store, prefix: str) -> None:
    mapping = StoreMapping(store, prefix)
    for key in KEYS:
        mapping[key] = key
    assert sorted(mapping) == sorted(KEYS)
    assert dict(mapping) == {key: key for key in KEYS}


@pytest.mark.parametrize("key", ["x" * 256, "ä" * 128, "\ud800"])
def test_what_makes_no_name_is_not_there_and_cannot_be_set(mapping: StoreMapping, key: str) -> None:
    assert key not in mapping
    assert mapping.get(key, 1) == 1
    assert mapping.pop(key, 1) == 1
    for refused in (mapping.__getitem__, mapping.__delitem__, mapping.pop):
        with pytest.raises(KeyError):
            refused(key)
    for set_it in (mapping.__setitem__, mapping.setdefault):
        with pytest.raises(ValueError, match=r"^a name "):
            set_it(key, 1)


def test_the_empty_key_needs_a_prefix(store: refstore.Store) -> None:
    StoreMapping(store, "m")[""] = 1
    assert store.names() == ["m"]
    assert "" not in StoreMapping(store)
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        StoreMapping(store)[""] = 1


@pytest.mark.parametrize("call", ["__getitem__", "__delitem__", "pop"])
def test_a_missing_key_is_a_plain_key_error_of_that_key(mapping: StoreMapping, call: str) -> None:
    with pytest.raises(KeyError) as raised:
        getattr(mapping, call)("absent")
    assert type(raised.value) is KeyError
    assert raised.value.args == ("absent",)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_values_are_what_was_put_without_a_copy(
    store: refstore.Store, mapping: StoreMapping
) -> None:
    mapping["array"], mapping["bytes"] = np.arange(1000), b"abc"
    array = mapping["array"]
    assert np.array_equal(array, np.arange(1000))
    assert not array.flags.writeable
    assert helpers.lies_in(store.path, helpers.address(array))
    assert mapping["bytes"] == b"abc"
    assert isinstance(mapping["bytes"], memoryview)


def test_a_value_outlives_its_key(store: refstore.Store, mapping: StoreMapping) -> None:
    mapping["a"] = np.full(100_000, 7)
    value = mapping.pop("a")
    helpers.fill_with_junk(store)
    assert (value == 7).all()


def test_a_prefix_shows_its_own_keys_alone(store: refstore.Store) -> None:
    one, two, every = StoreMapping(store, "1/"), StoreMapping(store, "2/"), StoreMapping(store)
    nameless = store.put(b"x")
    one["a"], two["a"], every["b"] = 1, 2, 3
    assert (dict(one), dict(two)) == ({"a": 1}, {"a": 2})
    assert dict(every) == {"1/a": 1, "2/a": 2, "b": 3}
    one.clear()
    assert sorted(every) == ["2/a", "b"]
    every.clear()
    assert len(every) == 0
    assert nameless in store


def test_a_key_error_of_an_objects_own_is_no_missing_key(mapping: StoreMapping) -> None:
    mapping["a"] = RaisesKeyError()
    for use in (mapping.__getitem__, mapping.get, mapping.pop, mapping.setdefault):
        with pytest.raises(KeyError, match="of its own"):
            use("a")
    assert "a" in mapping, "what could not be rebuilt is not deleted"


class RaisesKeyError:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_key_error, ()


def raise_key_error() -> None:
    raise KeyError("of its own")


def test_views_pass_over_what_goes_meanwhile(mapping: StoreMapping) -> None:
    mapping.update(a=1, b=2, c=3)
    first: dict[type, Any] = {}
    for view in (mapping.items(), mapping.values()):
        left: Iterator[Any] = iter(view)
        first[type(view)] = next(left)
        taken = mapping.popitem()
        rest = list(left)
        mapping[taken[0]] = taken[1]
        assert len(rest) in (1, 2)
    assert 2 in mapping.values()
    assert ("b", 2) in mapping.items()
    assert ("b", 3) not in mapping.items()


def test_of_several_processes_one_pops_a_key(store: refstore.Store, mapping: StoreMapping) -> None:
    keys = [f"k{i}" for i in range(60)]
    mapping.update({key: key for key in keys})
    with child_processes(3, store) as children:
        for child in children:
            child.tell(workers.pop_all, "m/", keys)
        popped = [child.answer() for child in children]
    assert sorted(itertools.chain(*popped)) == sorted(keys)


def test_of_several_threads_one_sets_a_default(mapping: StoreMapping) -> None:
    seen: list[tuple[str, int]] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        for i in range(10):
            start.wait()
            seen.append((f"k{i}", mapping.setdefault(f"k{i}", number)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert set(seen) == set(mapping.items())


def test_a_claimed_key_has_no_default(store: refstore.Store, mapping: StoreMapping) -> None:
    with store.create(1, name="m/a", claim=True) as writer:
        with pytest.raises(refstore.ObjectExistsError):
            mapping.setdefault("a", 1)
        assert "a" not in mapping
        writer.abort()


def test_it_pickles_as_store_and_prefix(store: refstore.Store, mapping: StoreMapping) -> None:
    mapping["a"] = 1
    again = pickle.loads(pickle.dumps(mapping))
    assert (dict(again), again.prefix, again.store.path) == ({"a": 1}, "m/", store.path)
    again.store.close()


def test_a_closed_store_refuses_all(store: refstore.Store) -> None:
    mapping = StoreMapping(store)
    store.close()
    for use in (len, list, dict, lambda m: m.get("a"), lambda m: "a" in m):
        with pytest.raises(ValueError, match="closed"):
            use(mapping)
    assert repr(mapping) == "StoreMapping(<Store, closed: open it anew to use it>, prefix='')"


def test_a_prefix_is_text(store: refstore.Store) -> None:
    with pytest.raises(TypeError):
        StoreMapping(store, b"m/")  # type: ignore[arg-type]
