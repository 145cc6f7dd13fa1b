"""`ref_of`: the object in whose block a view lies, if this process pins it."""

from __future__ import annotations

import array
import sys
import warnings
from collections.abc import Callable
from typing import Any

import helpers
import ml_dtypes
import numpy as np
import pytest

import refstore

GRID = np.arange(2400, dtype="f8").reshape(2, 30, 40)

VIEWS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda array: array,
    "a part": lambda array: array[1, 2:5],
    "one element": lambda array: array[1, 2, 3, ...],
    "strided": lambda array: array[:, ::3, ::-2],
    "transposed": lambda array: array.T,
    "reversed": lambda array: array[::-1, ::-1, ::-1],
    "repeated": lambda array: np.broadcast_to(array[0, 0], (5, 40)),
    "of bytes": lambda array: array.view("u1"),
    "memoryview": memoryview,
    "a part of a memoryview": lambda array: memoryview(array.reshape(-1))[5:100:2],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_every_view_of_an_array(store: refstore.Store, view: Callable[[Any], Any]) -> None:
    other = store.put(GRID)
    ref = store.put(GRID)
    with store.get(ref) as buf, store.get(other) as another:
        assert store.ref_of(view(buf.array)) == ref
        assert store.ref_of(view(another.array)) == other
        assert store.ref_of(view(GRID)) is None


@pytest.mark.parametrize(
    "obj",
    [b"some bytes", GRID, np.asfortranarray(GRID), np.arange(6).astype(ml_dtypes.bfloat16)],
    ids=["bytes", "array", "Fortran", "bfloat16"],
)
def test_a_buffer_itself(store: refstore.Store, obj: Any) -> None:
    ref = store.put(obj)
    with store.get(ref) as buf:
        assert store.ref_of(buf) == ref
        assert store.ref_of(buf.array) == ref


def test_what_an_object_shows_of_its_block(store: refstore.Store) -> None:
    ref = store.put({"a": np.arange(1000), "b": bytearray(5000)})
    with store.get(ref) as buf:
        value = buf.value
        assert store.ref_of(value["a"]) == ref
        assert store.ref_of(memoryview(buf)) == ref
    assert store.ref_of(value["a"]) == ref  # the view pins it


def test_records_and_a_format_that_numpy_does_not_know(store: refstore.Store) -> None:
    ref = store.put(np.zeros(10, [("a", "i1"), ("b", ">f8")]))
    with store.get(ref) as buf:
        assert store.ref_of(buf.array["b"]) == ref
        assert store.ref_of(memoryview(buf)) == ref


def test_a_tensor(store: refstore.Store) -> None:
    torch = pytest.importorskip("torch")
    ref = store.put({"weights": torch.arange(1000.0).reshape(10, 100)})
    with store.get(ref) as buf:
        tensor = buf.value["weights"]
        # torch knows no read-only memory, so what it gets is a private copy
        assert store.ref_of(tensor) is None
    plain = store.put(GRID)
    with store.get(plain) as buf:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is read-only
            shown = torch.frombuffer(memoryview(buf).cast("B"), dtype=torch.float64)
        assert store.ref_of(shown) == plain
        assert store.ref_of(shown[5:]) == plain
        assert store.ref_of(shown.reshape(60, 40).T) == plain
        assert store.ref_of(shown.view(torch.bfloat16)) == plain
        assert store.ref_of(shown[:0]) is None
        del shown
    with pytest.raises(TypeError, match="Tensor has no buffer"):
        store.ref_of(torch.eye(3).to_sparse())


@pytest.mark.parametrize("view", [b"", bytearray(), np.zeros((0, 3)), b"elsewhere", np.float64(1)])
def test_what_is_empty_or_elsewhere_is_none(store: refstore.Store, view: Any) -> None:
    assert store.ref_of(view) is None
    assert store.ref_of(array.array("i", [1, 2])) is None


def test_an_empty_part_is_none(store: refstore.Store) -> None:
    with store.get(store.put(GRID)) as buf:
        assert store.ref_of(buf.array[:0]) is None
    with store.get(store.put(b"")) as empty:
        assert store.ref_of(empty) is None


@pytest.mark.parametrize("nbytes", [100, 1_000_000])
def test_a_private_copy_is_none(store: refstore.Store, nbytes: int) -> None:
    ref = store.put(bytes(nbytes))
    with store.get(ref, writable=True) as buf:
        assert store.ref_of(buf) is None
        assert store.ref_of(buf.array) is None


def test_an_open_writer_is_none_and_a_sealed_one_is_an_object(store: refstore.Store) -> None:
    with store.create(shape=1000, dtype="f8") as writer:
        writer.array[:] = 1
        array = writer.array
        assert store.ref_of(writer) is None
        assert store.ref_of(array) is None
    assert store.ref_of(array) == writer.ref
    assert store.ref_of(writer.array) == writer.ref


def test_what_an_aborted_writer_leaves_is_none(store: refstore.Store) -> None:
    writer = store.create(1000)
    view = memoryview(writer)
    writer.abort()
    assert store.ref_of(view) is None
    del view


def test_a_deleted_object_is_still_the_one_that_is_pinned(store: refstore.Store) -> None:
    ref = store.put(GRID)
    with store.get(ref) as buf:
        store.delete(ref)
        assert store.ref_of(buf) == ref


def test_what_lies_in_another_store_is_none(store: refstore.Store, make_store: Any) -> None:
    other = make_store(name="other")
    with other.get(other.put(GRID)) as buf:
        assert store.ref_of(buf) is None
        assert other.ref_of(buf) == buf.ref


def test_the_same_file_by_another_store_object(store: refstore.Store, path: str) -> None:
    with refstore.Store(path, create=False) as again, store.get(store.put(GRID)) as buf:
        assert again.ref_of(buf) == buf.ref


def test_a_view_that_a_child_inherited_is_found_there(store: refstore.Store) -> None:
    ref = store.put(GRID)
    buf = store.get(ref)

    def find() -> None:
        assert store.ref_of(buf) == ref

    assert helpers.forked(find) == 0
    buf.release()


@pytest.mark.parametrize("view", [5, "text", None, [1, 2], object()])
def test_what_has_no_buffer_is_refused(store: refstore.Store, view: object) -> None:
    with pytest.raises(TypeError, match="has no buffer: give an array"):
        store.ref_of(view)


def test_a_closed_buffer_is_refused(store: refstore.Store) -> None:
    buf = store.get(store.put(b"abc"))
    buf.release()
    with pytest.raises(ValueError, match="closed"):
        store.ref_of(buf)


def test_asking_keeps_nothing(store: refstore.Store) -> None:
    ref = store.put(GRID)
    with store.get(ref) as buf:
        array = buf.array
        before = sys.getrefcount(array)
        store.ref_of(array)
        store.ref_of(buf)
        assert sys.getrefcount(array) == before
        del array
    assert store.refcount(ref) == 1
