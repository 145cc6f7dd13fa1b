"""Who keeps a view, or only what lies behind it, or only the buffer: the block stays for each."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore.engines.filelock import buffer_protocol

EXPECTED = np.arange(500, dtype="u4")


def torch_frombuffer(buffer: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.frombuffer(buffer, dtype=torch.int32)


def py_buffer(buffer: Any) -> Any:
    return pytest.importorskip("pyarrow").py_buffer(buffer)


def over(buffer: Any) -> helpers.Array:
    return np.ndarray((500,), "u4", buffer=buffer)


# What reads the block through no more than it kept, and the ways to export where that is known
# to be too little (see `exports`).
KEEPERS: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "memoryview.obj": (lambda buf: memoryview(memoryview(buf).obj), {"METHOD"}),
    "obj of a slice": (lambda buf: memoryview(memoryview(buf)[10:].obj), {"METHOD"}),
    "base": (lambda buf: [buf.array.base], set()),
    "obj of value": (lambda buf: memoryview(buf.value).obj, set()),
    "ndarray over the value": (lambda buf: over(memoryview(buf.value)), set()),
    "ndarray over a view": (lambda buf: over(memoryview(buf)), {"METHOD"}),
    "torch over a view": (lambda buf: torch_frombuffer(memoryview(buf)), set()),
    "torch": (torch_frombuffer, {"METHOD"}),
    "pyarrow": (py_buffer, set()),
    "pickle buffer": (pickle.PickleBuffer, {"METHOD"}),
}


def content(view: Any) -> bytes:
    """What a consumer shows, from where that begins; nothing if it is not for reading."""
    if isinstance(view, list):
        return b""
    if hasattr(view, "numpy"):
        view = view.numpy()
    return bytes(memoryview(view))


def works(too_little: set[str], engine: str) -> bool:
    return engine == "native" or buffer_protocol.WAY not in too_little


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize(("keep", "too_little"), KEEPERS.values(), ids=KEEPERS.keys())
@pytest.mark.parametrize("writable", [False, True])
def test_what_somebody_kept_can_be_read(
    store: refstore.Store,
    keep: Callable[[Any], Any],
    too_little: set[str],
    writable: bool,
    engine: str,
) -> None:
    if not works(too_little, engine):
        pytest.skip("documented: not without the compiled core")
    ref = store.put(EXPECTED)
    with store.get(ref, writable=writable) as buf:
        kept = keep(buf)
    del buf
    gc.collect()
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert EXPECTED.tobytes().endswith(content(kept))
    assert store.stats().condemned == 1
    del kept
    gc.collect()
    assert store.stats().condemned == 0


@pytest.mark.parametrize("writable", [False, True])
def test_an_array_over_the_buffer_itself_keeps_that(
    store: refstore.Store, writable: bool, engine: str
) -> None:
    if not works({"FORWARD"}, engine):
        pytest.skip("documented: not without the compiled core, before Python 3.12")
    ref = store.put(EXPECTED)
    with store.get(ref, writable=writable) as buf:
        array = over(buf)
    del buf
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert np.array_equal(array, EXPECTED)
    del array
    assert store.stats().condemned == 0


@pytest.mark.parametrize("end", ["seal", "abort", "drop"])
def test_an_array_over_the_writer_itself_keeps_that(store: refstore.Store, end: str) -> None:
    writer = store.create(2000)
    array = over(writer)
    array[:] = EXPECTED
    if end == "seal":
        store.delete(writer.seal())
    elif end == "abort":
        writer.abort()
    del writer
    helpers.fill_with_junk(store)
    assert np.array_equal(array, EXPECTED)
    del array
    assert store.stats().used == 0


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="asks as C code does")
def test_who_asks_so_and_keeps_nothing_is_refused(store: refstore.Store, engine: str) -> None:
    if works({"METHOD"}, engine):
        pytest.skip("here it keeps what it should")
    ask = ctypes.pythonapi.PyObject_GetBuffer
    ask.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
    with store.get(store.put(EXPECTED), writable=True) as buf:
        for flags in (buffer_protocol.SIMPLE_WRITABLE, buffer_protocol.SIMPLE):
            with pytest.raises(BufferError, match="memoryview"):
                ask(buf, ctypes.create_string_buffer(256), flags)
        assert hashlib.sha256(buf).digest() == hashlib.sha256(EXPECTED.tobytes()).digest()


def test_a_value_has_a_hash_as_bytes_have(store: refstore.Store) -> None:
    assert hash(store.get(store.put(b"some bytes")).value) == hash(b"some bytes")


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_a_closed_buffer_leaves_nothing_to_the_collector(store: refstore.Store) -> None:
    gc.disable()
    try:
        for obj in (b"x" * 100, EXPECTED, {"a": EXPECTED}):
            ref = store.put(obj)
            with store.get(ref) as buf:
                _ = buf.value, memoryview(buf), np.asarray(buf)
                del _
            assert store.refcount(ref) == 1
    finally:
        gc.enable()
