"""Both engines answer every call alike: all that buffers, Writers, refs and their arrays offer is
called with good and bad arguments, and what comes back, or the type of what is raised, compared."""

from __future__ import annotations

import gc
import operator
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import engines
import helpers
import libraries
import ml_dtypes
import numpy as np
import pytest
from pep3118 import REQUESTS, asked_for

import refstore

pytestmark = [
    pytest.mark.once("names the engine of each store"),
    libraries.needed("refstore._core"),
]

BACKENDS: tuple[Any, ...] = engines.ENGINES
GRID = np.arange(24, dtype="f4").reshape(2, 3, 4)

OBJECTS: dict[str, Any] = {
    "bytes": b"some bytes of its own",
    "no bytes": b"",
    "array": GRID,
    "Fortran": np.asfortranarray(GRID),
    "another order": GRID.transpose(1, 0, 2),
    "repeated": np.broadcast_to(np.arange(3, dtype="f4"), (5, 3)),
    "0-d": np.array(7.5),
    "empty": np.zeros((0, 3)),
    "dates": np.arange(5).astype("M8[s]"),
    "records": np.zeros(3, [("a", "i1"), ("b", ">f8")]),
    "voids": np.zeros(3, "V7"),
    "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "object": {"a": 1},
}

# What an attribute is called with, if it can be called; each is one try.
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((None,), {}),
    ((0,), {}),
    ((1, 2), {}),
    (("f8",), {}),
    ((b"x",), {}),
    ((), {"copy": True}),
    ((), {"copy": False}),
    ((), {"dtype": "f8", "copy": False}),
    ((), {"dtype": "no dtype"}),
    ((), {"max_version": (1, 0)}),
    ((None, None, None), {}),
    ((), {"no": "such"}),
]

USES: dict[str, Callable[[Any], Any]] = {
    "memoryview": memoryview,
    "bytes": bytes,
    "len": len,
    "bool": bool,
    "iter": iter,
    "hash": lambda it: hash(it) == hash(it),
    "equal": lambda it: it == it,
    "less": lambda it: operator.lt(it, it),
    "item": lambda it: it[0],
    "set item": lambda it: operator.setitem(it, 0, 1),
    "contains": lambda it: 1 in it,
    "weak reference": lambda it: weakref.ref(it)() is it,
    "new attribute": lambda it: setattr(it, "new", 1),
    "set nbytes": lambda it: setattr(it, "nbytes", 1),
    "delete array": lambda it: delattr(it, "array"),
    "pickle": pickle.dumps,
    "asarray": np.asarray,
    "asarray as f8": lambda it: np.asarray(it, "f8"),
    "frombuffer": lambda it: np.frombuffer(it, "u1"),
    "from_dlpack": np.from_dlpack,
    "again": lambda it: type(it)(),
    "with": lambda it: it.__enter__() is it,
    "flags on": lambda it: setattr(it.array.flags, "writeable", True),
    "flags off and on": lambda it: _off_and_on(it.array),
    "flags of a view": lambda it: _off_and_on(it.array[...]),
    "write": lambda it: operator.setitem(it.array, ..., 0),
    "base": lambda it: memoryview(it.array.base).readonly,
    "private": lambda it: it._private_view().tobytes(),
}


def _off_and_on(array: Any) -> bool:
    array.flags.writeable = False
    array.flags.writeable = True
    writeable: bool = array.flags.writeable
    return writeable


def told(value: Any) -> Any:
    """What can be compared of what a call returns."""
    if isinstance(value, memoryview):
        return value.format, value.shape, value.strides, value.readonly, value.tobytes()
    if isinstance(value, np.ndarray):
        flags = value.flags.writeable, value.flags.c_contiguous, value.flags.f_contiguous
        content = b"" if value.dtype.hasobject else value.tobytes()
        return str(value.dtype), value.shape, value.strides, flags, content
    if isinstance(value, (refstore.PinnedBuffer, refstore.Writer)):
        return type(value).__name__
    if isinstance(value, refstore.ObjectRef):
        return "a ref"
    if callable(value) or type(value).__name__ in ("PyCapsule", "method-wrapper"):
        return type(value).__name__ if type(value).__name__ == "PyCapsule" else "a function"
    return value if isinstance(value, (int, str, bytes, tuple, dict, float)) else type(value)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return told(call())
    except Exception as error:
        return type(error).__name__


def attributes(it: Any) -> list[str]:
    """The public ones and the ones that protocols ask for, of either engine."""
    protocols = ["__array__", "__dlpack__", "__dlpack_device__", "__reduce__", "__exit__"]
    public = {name for name in dir(it) if not name.startswith("_")}
    return [*sorted(public), *protocols]


def tries(make: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """Each call by name, with its outcome; each on an object of its own, which is closed after."""
    for name in attributes(make()):
        yield f".{name}", outcome(lambda name=name: getattr(make(), name))  # type: ignore[misc]
        for args, options in ARGUMENTS:
            it = make()
            call = getattr(it, name, None) if not _raises(it, name) else None
            if callable(call):
                got = outcome(lambda c=call, a=args, o=options: c(*a, **o))  # type: ignore[misc]
                yield f".{name}({args}, {options})", (got, it.closed)
    for what, use in USES.items():
        it = make()
        yield what, (outcome(lambda u=use, i=it: u(i)), it.closed)  # type: ignore[misc]
    for flags in REQUESTS:
        yield f"request {flags:#x}", outcome(lambda f=flags: asked_for(make(), f))  # type: ignore[misc]


def _raises(it: Any, name: str) -> bool:
    try:
        getattr(it, name)
    except Exception:
        return True
    return False


def assert_alike(make: Callable[[refstore.Store], Callable[[], Any]], tmp: Any) -> None:
    said = []
    for backend in BACKENDS:
        with refstore.Store(str(tmp / backend), capacity="4MiB", backend=backend) as store:
            said.append(dict(tries(make(store))))
            gc.collect()
            assert store.check() == []
            store.unlink()
    native, other = said
    assert len(native) > 100
    assert {what: (native.get(what), other.get(what)) for what in native | other
            if native.get(what) != other.get(what)} == {}  # fmt: skip


def closed(it: Any) -> Any:
    it.release() if hasattr(it, "release") else it.abort()
    return it


@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS.keys())
@pytest.mark.parametrize("writable", [False, True], ids=["read-only", "writable"])
def test_a_buffer(folder: Any, obj: Any, writable: bool) -> None:
    def make(store: refstore.Store) -> Callable[[], Any]:
        ref = store.put(obj)
        return lambda: store.get(ref, writable=writable)

    assert_alike(make, folder)


@pytest.mark.parametrize("name", ["array", "Fortran", "object"])
def test_a_closed_buffer(folder: Any, name: str) -> None:
    def make(store: refstore.Store) -> Callable[[], Any]:
        ref = store.put(OBJECTS[name])
        return lambda: closed(store.get(ref))

    assert_alike(make, folder)


ROOMS: dict[str, dict[str, Any]] = {
    "bytes": {"nbytes": 40},
    "no bytes": {"nbytes": 0},
    "array": {"shape": (2, 3), "dtype": "f4"},
    "records": {"shape": 3, "dtype": [("a", "i1"), ("b", "f8")]},
    "bfloat16": {"shape": (4,), "dtype": ml_dtypes.bfloat16},
    "dates": {"shape": (4,), "dtype": "M8[s]"},
}


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS.keys())
@pytest.mark.parametrize("end", ["open", "sealed", "aborted"])
def test_a_writer(folder: Any, room: dict[str, Any], end: str) -> None:
    def make(store: refstore.Store) -> Callable[[], Any]:
        def one() -> Any:
            writer = store.create(**room)
            writer.array[...] = np.zeros((), writer.array.dtype)
            if end == "sealed":
                writer.seal()
            elif end == "aborted":
                writer.abort()
            return writer

        return one

    assert_alike(make, folder)


CREATE: list[dict[str, Any]] = [
    {},
    {"nbytes": -1},
    {"nbytes": 1.5},
    {"nbytes": 1, "shape": 2},
    {"nbytes": 1, "dtype": "f4"},
    {"nbytes": 1 << 70},
    {"shape": -1},
    {"shape": (2, -1)},
    {"shape": 1.5},
    {"shape": (1.5,)},
    {"shape": "12"},
    {"shape": (1,) * 65},
    {"shape": (0, 1 << 62, 1 << 62)},
    {"shape": (1 << 40, 1 << 40)},
    {"shape": (1 << 80, 0)},
    {"shape": np.array([2, 3])},
    {"shape": 2, "dtype": "O"},
    {"shape": 2, "dtype": [("a", "O")]},
    {"shape": 2, "dtype": np.dtypes.StringDType()},
    {"shape": 2, "dtype": "no dtype"},
    {"nbytes": 1, "name": ""},
    {"nbytes": 1, "name": b"x"},
    {"nbytes": 1, "name": "x" * 256},
]


def test_what_is_asked_of_create(folder: Any) -> None:
    said = []
    for backend in BACKENDS:
        with refstore.Store(str(folder / backend), capacity="1MiB", backend=backend) as store:
            said.append([outcome(lambda a=asked: store.create(**a)) for asked in CREATE])  # type: ignore[misc]
            gc.collect()
            helpers.assert_full_capacity_fits(store)
            store.unlink()
    assert said[0] == said[1]


def test_what_names_a_ref(folder: Any) -> None:
    bad = [None, 1, b"x", "x" * 16, bytes(16), bytes(15), bytearray(16)]
    said = []
    for backend in BACKENDS:
        with refstore.Store(str(folder / backend), capacity="1MiB", backend=backend) as store:
            ref = store.put(b"x")
            found: list[Any] = []
            for arg in bad:
                calls = (
                    refstore.ObjectRef,
                    refstore.ObjectRef.from_hex,
                    store.get,
                    store.delete,
                    store.refcount,
                    lambda a: a in store,
                )
                found += [outcome(lambda c=c, a=arg: c(a)) for c in calls]  # type: ignore[misc]
            found += [outcome(lambda u=use, r=ref: u(r)) for use in USES.values()]  # type: ignore[misc]
            said.append([type(x) if isinstance(x, bytes) else x for x in found])
            store.unlink()
    assert said[0] == said[1]
