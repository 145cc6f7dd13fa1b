"""Frames by themselves, without a store."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from typing import Any

import helpers
import numpy as np
import pytest

from refstore import payload
from refstore.payload import frames
from refstore.payload.ndarrays import IN_STREAM


class Written:
    """A frame in memory aligned as a block is, beside the copy that torch would write to."""

    def __init__(self, obj: object) -> None:
        frame = payload.encode(obj)
        memory = np.zeros(frame.nbytes + frames.ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % frames.ALIGNMENT
        self.memory = memory[start : start + frame.nbytes]
        helpers.fill(self.memory.data, frame)
        self.private = self.memory.copy()
        self.calls = 0

    def _private(self) -> memoryview:
        self.calls += 1
        return self.private.data

    def decode(self) -> Any:
        return payload.decode(self.memory.data.toreadonly(), self._private)


def round_trip(obj: object) -> Any:
    return Written(obj).decode()


def never() -> memoryview:
    raise AssertionError("a frame without torch storages needs no private view")


# --- frames


@pytest.mark.parametrize(
    "obj",
    [
        None,
        {"a": [1, 2.5, "text", {3}]},
        [b"short", b"x" * 200_000, bytearray(b"y" * 200_000), "z" * 200_000],
        [bytearray()],
        pickle.PickleBuffer,
        list(range(100_000)),
    ],
    ids=["none", "nested", "large", "empty", "class", "many"],
)
def test_an_object_comes_back(obj: object) -> None:
    back = round_trip(obj)
    assert back == obj
    assert type(back) is type(obj)


def test_buffers_are_aligned_read_only_slices_of_the_frame() -> None:
    sizes = [IN_STREAM + n for n in (1, 63, 64, 65, 70_000, 1)]
    arrays = [np.arange(n).astype("u1") for n in sizes]
    written = Written(arrays)
    for got, put in zip(written.decode(), arrays, strict=True):
        assert np.array_equal(got, put)
        assert np.shares_memory(got, written.memory)
        assert got.ctypes.data % frames.ALIGNMENT == 0
        assert not got.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.arange(900),
        np.arange(900)[::2],
        np.full(900, "2024", "M8[D]"),
        np.arange(900).view(np.memmap),
        np.zeros(0),
    ],
    ids=["plain", "strided", "dates", "subclass", "empty"],
)
def test_an_array_holds_the_view_that_it_was_made_from(array: np.ndarray[Any, Any]) -> None:
    """Not just the object behind the view, which may let go of its memory once no view is left."""
    memory = bytearray(Written([array, np.ones(900)]).memory)
    got = payload.decode(memoryview(memory).toreadonly(), never)
    del got[1]
    if array.nbytes:
        with pytest.raises(BufferError):
            memory.append(0)
    del got
    memory.append(0)


def test_a_writable_view_gives_writable_arrays() -> None:
    written = Written([np.arange(900)])
    (array,) = payload.decode(written.memory.data, never)
    array[0] = 7
    assert payload.decode(written.memory.data, never)[0][:3].tolist() == [7, 1, 2]


ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "0-d": np.array(5.0),
    "one long element": np.array("x" * 900),
    "empty": np.zeros((0, 3)),
    "no bytes": np.zeros(3, "V0"),
    "F": np.arange(600).reshape((20, 30), order="F"),
    "strided": np.arange(10_000).reshape(100, 100)[::2, 1::3],
    "backwards": np.arange(1000)[::-1],
    "axes swapped": np.zeros((13, 14, 15)).transpose(1, 0, 2),
    "backwards, axes swapped": np.arange(1000).reshape(5, 10, 20)[:, ::-1].transpose(2, 0, 1),
    "broadcast": np.broadcast_to(np.arange(300), (4, 300)),
    "windows": np.lib.stride_tricks.sliding_window_view(np.arange(1000), 7),
    "overlapping odd steps": np.ndarray((300, 4), "<u2", bytes(range(256)) * 8, 0, (3, 2)),
    "big-endian": np.arange(500, dtype=">i4"),
    "dates": np.array(["2024-01-01", "NaT"] * 100, "M8[D]"),
    "strided dates": np.arange(1000).astype("m8[s]")[::3],
    "records": np.array([(1, 2), (3, 4)] * 100, [("a", "i1"), ("took", "m8[s]")]),
    "one field": np.zeros(1000, [("a", "i1"), ("b", "<f8")])["b"],
    "read-only": np.frombuffer(b"abcd" * 1000, "u1"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_inside_an_object_is_rebuilt_in_place(array: np.ndarray[Any, Any]) -> None:
    written = Written({"array": array})
    got = written.decode()["array"]
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert np.array_equal(got.view("i8") if got.dtype.kind == "M" else got, _comparable(array))
    assert array.nbytes <= IN_STREAM or np.shares_memory(got, written.memory)


def _comparable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.view("i8") if array.dtype.kind == "M" else array  # NaT differs from itself


def test_arrays_of_objects_and_of_variable_strings_are_pickled_whole() -> None:
    got = round_trip([np.array([1, "two"], object), np.array(["a" * 99], np.dtypes.StringDType())])
    assert got[0].tolist() == [1, "two"]
    assert got[1].tolist() == ["a" * 99]


@pytest.mark.parametrize("cls", [np.recarray, np.matrix, np.memmap])
def test_numpys_own_subclasses_are_rebuilt_in_place(cls: type[np.ndarray[Any, Any]]) -> None:
    plain: np.ndarray[Any, Any] = np.arange(1200.0).reshape(30, 40)
    written = Written([plain.view(cls)])
    (got,) = written.decode()
    assert type(got) is cls
    assert np.array_equal(got.view(np.ndarray), plain)
    assert np.shares_memory(got, written.memory)


def test_an_array_met_twice_is_stored_once() -> None:
    array = np.zeros(100_000)
    written = Written([array, array])
    assert written.memory.nbytes < 1.1 * array.nbytes
    first, second = written.decode()
    assert first is second


def test_large_bytes_are_not_copied_before_they_are_written() -> None:
    """Their memory is the frame's only piece of that size, and it is the object's own."""
    data = b"x" * 1_000_000
    frame = payload.encode([data, 1])
    assert any(piece.obj is data for _, piece in frame.pieces)


def test_a_bytearray_cannot_be_resized_between_measuring_and_writing() -> None:
    data = bytearray(100_000)
    frame = payload.encode([data])
    with pytest.raises(BufferError):
        data.append(1)
    helpers.fill(memoryview(bytearray(frame.nbytes)), frame)
    del frame
    data.append(1)


@pytest.mark.parametrize(
    "obj", [threading.Lock(), lambda: None, memoryview(b"x")], ids=["lock", "lambda", "memoryview"]
)
def test_what_pickle_refuses_is_refused(obj: object) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        payload.encode({"before": np.ones(1000), "bad": [obj]})


# --- torch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def test_torch_is_not_imported_for_objects_without_tensors() -> None:
    script = """
        import sys
        import numpy
        from refstore import payload
        frame = payload.encode([numpy.arange(3)])
        memory = bytearray(frame.nbytes)
        for at, piece in frame.pieces:
            memory[at : at + piece.nbytes] = piece
        payload.decode(memoryview(memory), None)
        sys.exit("torch" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn", "int8", "complex64"])
def test_a_tensor_of_any_dtype_is_rebuilt_over_the_private_view(torch: Any, name: str) -> None:
    tensor = torch.arange(12).to(getattr(torch, name)).reshape(3, 4)
    written = Written({"t": tensor})
    got = written.decode()["t"]
    assert written.calls == 1
    assert got.dtype == tensor.dtype
    assert torch.equal(got.view(torch.int8), tensor.view(torch.int8))
    start = written.private.ctypes.data
    assert start <= got.data_ptr() < start + written.private.nbytes


def test_the_private_view_is_asked_for_once(torch: Any) -> None:
    written = Written([torch.ones(3), torch.zeros(4)])
    written.decode()
    assert written.calls == 1
    written = Written([np.ones(3)])
    written.decode()
    assert written.calls == 0


def test_views_of_one_storage_share_it_again(torch: Any) -> None:
    base = torch.arange(1000.0)
    whole, part, turned = round_trip([base, base[10:20], base.view(10, 100).t()])
    part[0] = -1
    assert whole[10] == -1
    assert turned[10, 0] == -1
    assert whole.untyped_storage()._cdata == part.untyped_storage()._cdata


def test_only_the_part_of_a_storage_that_is_reached_is_stored(torch: Any) -> None:
    big = torch.arange(1_000_000).reshape(1000, 1000)
    rows = {"a": big[500], "b": big[502, ::2], "none": big[7:7]}
    written = Written(rows)
    assert written.memory.nbytes < 30_000
    got = written.decode()
    for name, row in rows.items():
        assert torch.equal(got[name], row)
        assert got[name].stride() == row.stride()
    got["a"][0] = -1
    assert got["b"][0] == big[502, 0]


def test_a_storage_in_the_object_is_stored_whole(torch: Any) -> None:
    base = torch.arange(1000, dtype=torch.int32)
    tensor, untyped = round_trip([base[900:], base.untyped_storage()])
    assert untyped.nbytes() == 4000
    assert torch.equal(tensor, base[900:])
    assert tensor.untyped_storage()._cdata == untyped._cdata


def test_parameters_and_gradient_flags_come_back(torch: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    first, second, leaf = round_trip([weight, weight, torch.ones(2).requires_grad_()])
    assert type(first) is torch.nn.Parameter
    assert first is second
    assert first.requires_grad
    assert leaf.requires_grad


@pytest.mark.parametrize("kind", ["sparse", "csr", "conj", "meta", "attribute"])
def test_other_tensors_come_back_by_torchs_own_means(torch: Any, kind: str) -> None:
    tensor = torch.eye(4)
    if kind == "sparse":
        tensor = tensor.to_sparse()
    elif kind == "csr":
        with warnings.catch_warnings():  # torch says so once in a process: "in beta state"
            warnings.simplefilter("ignore", UserWarning)
            tensor = tensor.to_sparse_csr()
    elif kind == "conj":
        tensor = torch.complex(tensor, tensor).conj()
    elif kind == "meta":
        tensor = tensor.to("meta")
    else:
        tensor.note = "kept"
    got = round_trip([tensor])[0]
    assert got.layout == tensor.layout
    assert got.device == tensor.device
    assert getattr(got, "note", None) == getattr(tensor, "note", None)
    if kind != "meta":
        assert torch.equal(got.to_dense(), tensor.to_dense())


def test_torch_keeps_no_sparse_tensor_alive(torch: Any) -> None:
    tensor = round_trip(torch.eye(3).to_sparse())
    gone = weakref.ref(tensor)
    del tensor
    assert gone() is None


def test_a_tensor_holds_the_view_that_it_was_made_from(torch: Any) -> None:
    written = Written([torch.ones(100)])
    private = bytearray(written.memory)
    got = payload.decode(written.memory.data, lambda: memoryview(private))
    with pytest.raises(BufferError):
        private.append(0)
    del got
    private.append(0)


class Encodes:
    """Encodes another object while it is pickled."""

    def __init__(self, inner: object, frames_made: list[bytes]) -> None:
        self.inner, self.made = inner, frames_made

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        self.made.append(octets(self.inner))
        return list, ((1, 2),)


def octets(obj: object) -> bytes:
    return b"".join(bytes(piece) for _, piece in payload.encode(obj).pieces)


def test_no_call_sees_what_another_has_pickled() -> None:
    text = "some text that is met twice"
    obj, made = {"a": text, "b": [text]}, list[bytes]()
    expected = octets(obj)
    with pytest.raises(TypeError):
        payload.encode([text, memoryview(b"")])
    assert octets([Encodes(obj, made), text]) != expected
    payload.encode([text, np.arange(1000)])
    payload.encode([text] * 10_000)
    before = sys.getrefcount(text)
    assert octets(obj) == expected == made[0]
    assert sys.getrefcount(text) == before
