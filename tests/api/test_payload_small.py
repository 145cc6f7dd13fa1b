"""Small arrays inside objects travel in the pickle: as fast as pickle has them, in its room."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any, Final

import helpers
import numpy as np
import pytest

import refstore
from refstore.payload.ndarrays import IN_STREAM


def calls_in(function: Callable[[], object]) -> int:
    """Functions called from Python code meanwhile; what C calls by itself is not among them."""
    events = list[str]()
    sys.setprofile(lambda frame, event, arg: events.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return events.count("call") + events.count("c_call")


COUNT: Final = 5000
MANY: dict[str, tuple[Callable[[], Any], int]] = {  # with the calls for each array
    "list": (lambda: [np.arange(8.0) for _ in range(COUNT)], 2),
    "dict": (lambda: {i: np.arange(4.0) for i in range(COUNT)}, 2),
    "mix": (lambda: [{"a": np.arange(8), "b": [i, "text"]} for i in range(COUNT)], 2),
    "other byte order": (
        lambda: [np.arange(8, dtype=np.dtype("f8").newbyteorder()) for _ in range(COUNT)],
        4,
    ),
    "records": (lambda: [np.zeros(8, "f4,f4") for _ in range(COUNT)], 2),
}


@pytest.mark.parametrize("kind", MANY)
def test_many_small_arrays_take_few_calls_each(store: refstore.Store, kind: str) -> None:
    """Which is what their time against pickle's depends on; `benchmarks` measures that."""
    make, calls = MANY[kind]
    obj = make()
    plain = pickle.dumps(obj, 5)
    assert calls_in(lambda: store.put(obj, name="many")) <= (calls + 0.5) * COUNT
    with store.get("many") as buf:
        assert buf.nbytes <= 1.3 * len(plain)
        assert calls_in(lambda: buf.value) < COUNT / 10  # pickle.loads: three for each


@pytest.mark.parametrize(
    "array",
    [
        np.arange(8.0),
        np.arange(16)[::2],
        np.ones((2, 4), order="F"),
        np.array(["2024-01-01", "NaT"], "M8[D]"),
        np.array([(1, 2.5)], "i4,f8"),
        np.zeros((0, 3)),
        np.array(1.5),
        np.frombuffer(b"read-only", "u1"),
    ],
    ids=str,
)
def test_a_small_array_is_a_copy_of_the_readers_own(store: refstore.Store, array: Any) -> None:
    ref = store.put([array])
    with store.get(ref) as buf:
        (back,) = buf.value
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert store.refcount(ref) == 1


def test_a_small_array_of_the_other_byte_order_keeps_it(store: refstore.Store) -> None:
    other = np.dtype("i2").newbyteorder()
    for array in (
        np.arange(4, dtype=other),
        np.arange(4, dtype=other).view(np.recarray),
        np.arange(12, dtype=other).reshape(3, 4).T,
        np.arange(12, dtype=other).reshape(3, 4)[::2, ::-3],
        np.broadcast_to(np.array(3, other), (2, 2)),
        np.array(7, other),
        np.zeros((0, 3), other),
        np.zeros(3, "U0"),
        np.ones(3, np.dtype("f8,i2").newbyteorder()),
    ):
        with store.get(store.put([array])) as buf:
            (back,) = buf.value
            assert back.dtype == array.dtype
            assert back.shape == array.shape
            assert back.tolist() == array.tolist()
            assert back.flags.writeable == (type(array) is np.ndarray)
            del back


def test_what_is_larger_lies_in_the_store(store: refstore.Store, path: str) -> None:
    for size in (IN_STREAM, IN_STREAM + 1):
        with store.get(store.put({"a": np.zeros(size, "u1")})) as buf:
            assert helpers.lies_in(path, helpers.address(buf.value["a"])) == (size > IN_STREAM)


def test_the_classes_of_small_things_come_back(store: refstore.Store) -> None:
    class_, function = helpers.Mapping, helpers.pattern
    put = [class_, function, np.float64, np.dtype("f4"), type, type(None), sys.version_info[:2]]
    with store.get(store.put(put)) as buf:
        assert buf.value == put
