"""`refstore.dask.Data`, and what is put and found, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from children import Session, child_process
from libraries import Late

import refstore

distributed: Any = pytest.importorskip("distributed")
zict: Any = pytest.importorskip("zict")
spill: Any = pytest.importorskip("distributed.spill")
ours: Any = pytest.importorskip("refstore.dask")
_keeper: Any = pytest.importorskip("refstore.dask._keeper")
pandas: Any = Late("pandas")
pyarrow: Any = Late("pyarrow")
torch: Any = Late("torch")

SIZE = 100_000
protocol: Any = pytest.importorskip("test.mapping_tests", reason="Python has its tests along")
PROTOCOL = [name for name in dir(protocol.BasicTestMappingProtocol) if name.startswith("test_")]


@pytest.fixture
def data(store: refstore.Store) -> Iterator[Any]:
    data = ours.Data(store)
    yield data
    data.clear()
    data.close()


@pytest.fixture
def keeper(store: refstore.Store) -> Iterator[Any]:
    keeper = _keeper.Keeper(store)
    yield keeper
    keeper.close()


def numbers(seed: int = 0) -> helpers.Array:
    return np.random.default_rng(seed).integers(0, 9, SIZE)


def is_in(store: refstore.Store, array: helpers.Array) -> bool:
    ref = store.ref_of(array)
    return ref is not None and ref in store


# --- Data


@pytest.mark.parametrize("name", PROTOCOL)
def test_it_passes_cpythons_own_tests(store: refstore.Store, name: str) -> None:
    made = []

    class Case(protocol.BasicTestMappingProtocol):  # type: ignore[misc]
        type2test = dict

        def _empty_mapping(self) -> Any:
            made.append(ours.Data(store))
            return made[-1]

    Case(name).debug()
    for data in made:
        data.close()


VALUES: dict[str, Callable[[], Any]] = {
    "array": numbers,
    "columns": lambda: np.asfortranarray(numbers().reshape(10, -1)),
    "steps": lambda: numbers()[::2],
    "structured": lambda: np.zeros(SIZE, [("a", "i4"), ("b", "f8")]),
    "dates": lambda: numbers().astype("M8[s]"),
    "frame": lambda: pandas.DataFrame({"a": numbers(), "b": numbers() / 2}),
    "series": lambda: pandas.Series(numbers(), name="n"),
    "table": lambda: pyarrow.table({"a": numbers()}),
    "batch": lambda: pyarrow.record_batch({"a": numbers()}),
    "list": lambda: [numbers(), "x"],
    "tuple": lambda: (numbers(), numbers(1)),
    "dict": lambda: {"a": numbers(), 5: [numbers()]},
}


def arrays(value: Any) -> list[helpers.Array]:
    """The arrays in a value."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [array for each in value for array in arrays(each)]
    if isinstance(value, dict):
        return arrays(list(value.values()))
    if hasattr(value, "column_names") or hasattr(value, "schema"):
        return [np.asarray(column) for column in value.columns]
    if hasattr(value, "to_numpy"):
        named = hasattr(value, "columns")
        return [value[name].to_numpy() for name in value] if named else [value.to_numpy()]
    return []


@pytest.mark.parametrize("name", VALUES)
def test_arrays_and_tables_lie_in_the_store(store: refstore.Store, data: Any, name: str) -> None:
    value = VALUES[name]()
    data["k"] = value
    kept = data["k"]
    assert type(kept) is type(value)
    pairs = list(zip(arrays(kept), arrays(value), strict=True))
    assert pairs
    for array, as_was in pairs:
        assert is_in(store, array)
        assert not array.flags.writeable
        assert array.dtype == as_was.dtype
        assert np.array_equal(array, as_was)
    data["again"] = kept  # it is there
    assert data["again"] is kept
    del kept, pairs, array, as_was
    data.clear()
    data._keeper.sweep()
    assert len(store) == 0


class Own(np.ndarray[Any, Any]):
    """A subclass that distributed would make an array of."""


def of_a_file(folder: Path) -> Any:
    numbers().tofile(folder / "numbers")
    return np.memmap(folder / "numbers", dtype="i8", mode="r")


LEFT: dict[str, Callable[[Path], Any]] = {
    "small": lambda _: np.arange(100),
    "bytes": lambda _: bytes(SIZE),
    "text": lambda _: "x" * SIZE,
    "subclass": lambda _: numbers().view(Own),
    "of objects": lambda _: np.array([*range(SIZE)], dtype=object),
    "of a file": of_a_file,
    "a view of a file": lambda folder: np.asarray(of_a_file(folder))[5:],
    "frame of objects": lambda _: pandas.DataFrame(
        {"a": numbers(), "o": np.array([*range(SIZE)], object)}
    ),
    "frame of old texts": lambda _: pandas.DataFrame(
        {"a": numbers(), "s": pandas.array(["x"] * SIZE, dtype="string[python]")}
    ),
    "slice of a table": lambda _: pyarrow.table({"a": numbers()}).slice(0, 10),
    "long list": lambda _: [numbers()] * 101,
    "list of small": lambda _: [np.arange(3), {"a": np.arange(3)}],
    "broadcast": lambda _: np.broadcast_to(np.float64(1), (1000, 1000)),
}


@pytest.mark.parametrize("name", LEFT)
def test_all_else_stays_as_it_is(
    store: refstore.Store, data: Any, tmp_path: Path, name: str
) -> None:
    value = LEFT[name](tmp_path)
    data["k"] = value
    assert data["k"] is value
    assert len(store) == 0


def test_what_there_is_no_space_for_stays_too(store: refstore.Store, data: Any) -> None:
    value = np.zeros(store.capacity + 1, "u1")
    data["k"] = value
    assert data["k"] is value


def test_space_is_made_of_what_nobody_needs(store: refstore.Store, data: Any) -> None:
    for seed in range(3):  # each as large as the store, put before anybody has looked
        data["k"] = np.full(store.capacity, seed, "u1")
        assert is_in(store, data["k"])
        del data["k"]


def test_the_threshold_is_its_own_or_the_configurations(store: refstore.Store) -> None:
    from dask import config

    with config.set({"refstore.threshold": "1 MB"}):
        data = ours.Data(store)
    data["k"] = numbers()
    assert len(store) == 0
    data.close()
    low = ours.Data(store, threshold="1 kB")
    low["k"] = np.arange(500)
    assert is_in(store, low["k"])
    low.close()


def test_a_view_outlives_its_key(store: refstore.Store, data: Any) -> None:
    data["k"] = numbers()
    view = data.pop("k")[5:10]
    data._keeper.sweep()
    assert len(store) == 1
    assert np.array_equal(view, numbers()[5:10])


def test_it_is_the_slow_half_of_a_buffer(store: refstore.Store, data: Any) -> None:
    buffer = zict.Buffer({}, data, n=2)
    buffer.update({("k", k): numbers(k) for k in range(5)})
    assert len(data) == len(store) == 3
    assert all(np.array_equal(buffer["k", k], numbers(k)) for k in range(5))
    buffer.clear()
    data._keeper.sweep()
    assert len(store) == 0


def test_it_spills_to_disk_if_what_it_lies_in_does(store: refstore.Store, tmp_path: Path) -> None:
    nbytes = numbers().nbytes
    inner = spill.SpillBuffer(str(tmp_path / "spill"), target=int(2.5 * nbytes))
    data = ours.Data(store, inner=inner)
    for k in range(5):
        data[k] = numbers(k)
    assert len(data.memory) == 2
    assert len(data.disk) == 3
    assert data.evict() == nbytes
    data._keeper.sweep()
    assert len(store) == 1
    assert all(np.array_equal(data[k], numbers(k)) for k in range(5))
    data.clear()
    data.close()


def test_a_dict_offers_no_spilling(data: Any) -> None:
    # by this a worker knows
    assert not hasattr(data, "fast")
    assert not hasattr(data, "evict")
    with pytest.raises(AttributeError, match="Data has no attribute 'other'"):
        data.other  # noqa: B018


@pytest.mark.once("opens no store")
def test_without_a_store_it_says_what_to_do() -> None:
    data = ours.Data()
    with pytest.raises(RuntimeError, match=r"Data\(\) has no store: start the worker with"):
        data["k"] = numbers()


# --- what is found


def put(keeper: Any, *arrays: helpers.Array) -> tuple[list[Any], Any]:
    placed, new = keeper.place([helpers.memory(array).cast("B") for array in arrays])
    offsets = [(each.buf.ref, each.offset) for each in placed]
    for each in placed:
        each.buf.release()
    return offsets, new


def test_what_was_put_is_found_as_long_as_it_is_the_same(keeper: Any) -> None:
    array = numbers()
    first, new = put(keeper, array)
    assert first == [(new, 0)]
    assert put(keeper, array) == (first, None)
    array[-1] += 1
    changed, newer = put(keeper, array)
    assert changed == [(newer, 0)]
    assert newer not in (None, new)
    assert put(keeper, array) == (changed, None)


def test_a_part_of_what_is_in_the_store_is_found(store: refstore.Store, data: Any) -> None:
    data["k"] = numbers()
    keeper = data._keeper
    ref = store.ref_of(data["k"])
    parts = data["k"][10:100], data["k"][50:]
    assert put(keeper, *parts) == ([(ref, 80), (ref, 400)], None)


def test_a_part_of_an_array_of_any_order_of_axes_is_found(
    store: refstore.Store, keeper: Any
) -> None:
    ref = store.put(np.stack([numbers(k) for k in range(6)]).reshape(2, 3, SIZE).swapaxes(0, 1))
    with store.get(ref) as buf:
        part = buf.array[2, 1]
    (at,), new = put(keeper, part)
    assert new is None
    assert at == (ref, 5 * part.nbytes)


def test_only_what_is_missing_is_put(store: refstore.Store, data: Any) -> None:
    data["k"] = numbers()
    keeper = data._keeper
    there, new = put(keeper, data["k"], numbers(1))
    assert [ref for ref, _ in there] == [store.ref_of(data["k"]), new]
    assert store.info(new).nbytes == numbers().nbytes


def test_what_its_maker_took_along_is_put_anew(keeper: Any) -> None:
    store = keeper.store
    with child_process(store.path) as child:
        ref = child.do(put_owned, bytes(SIZE))
        with store.get(ref) as buf:
            array = helpers.flat(buf)
        child.kill()
    store.recover()
    assert ref not in store
    placed, new = put(keeper, array)
    assert placed == [(new, 0)]
    assert new != ref
    assert put(keeper, array) == (placed, None)


def put_owned(session: Session, data: bytes) -> refstore.ObjectRef:
    return session.store.put(data, owned=True)


def test_what_others_put_is_left_alone(store: refstore.Store, keeper: Any) -> None:
    ref = store.put(numbers(), name="mine")
    with store.get(ref) as buf:
        assert put(keeper, buf.array) == ([(ref, 0)], None)
    keeper.sweep()
    assert "mine" in store


def test_what_the_dead_owned_is_cleared_away(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with child_process(keeper.store.path) as child:
        child.do(put_owned, bytes(SIZE))
        child.kill()
    monkeypatch.setattr(_keeper, "RECOVERY", 0.0)
    keeper.sweep()
    assert len(keeper.store) == 0


# --- messages


def test_a_message_pins_until_it_arrives(store: refstore.Store, keeper: Any) -> None:
    placed, new = keeper.place([memoryview(bytes(SIZE))])
    token = keeper.send(placed, lambda: True)
    keeper.sweep()
    assert new is not None
    assert store.refcount(new) == 2
    with store.get(new):  # its receiver
        keeper.has_arrived(token)
        keeper.sweep()
        assert store.refcount(new) == 2
    keeper.sweep()
    assert len(store) == 0


@pytest.mark.parametrize("why", ["closed", "silent"])
def test_a_message_that_is_lost_pins_no_longer(
    store: refstore.Store, keeper: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, _ = keeper.place([memoryview(bytes(SIZE))])
    is_open = why == "silent"
    keeper.send(placed, lambda: is_open)
    keeper.sweep()
    assert len(store) == 2
    monkeypatch.setattr(_keeper, "PATIENCE" if is_open else "GRACE", 0.0)
    keeper.sweep()
    assert len(store) == 0
