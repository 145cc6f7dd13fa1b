"""`buf.header` and `create(header=, order=)`: an object is made again, exactly as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import helpers
import libraries
import ml_dtypes
import numpy as np
import pytest

import refstore
from refstore.payload import headers

MakeStore = Callable[..., refstore.Store]
GRID = np.arange(24, dtype="f4").reshape(2, 3, 4)
ALIGNED = np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)

OBJECTS: dict[str, Any] = {
    "bytes": b"some bytes",
    "no bytes": b"",
    "large bytes": bytes(100_000),
    "array": GRID,
    "large array": np.ones((300, 400)),
    "Fortran": np.asfortranarray(GRID),
    "another order": GRID.transpose(1, 0, 2),
    "strided": GRID[::-1, :, ::2],
    "repeated": np.broadcast_to(np.arange(3, dtype="f4"), (5, 3)),
    "0-d": np.array(7.5),
    "empty": np.zeros((0, 3), order="F"),
    "many axes": np.zeros((1,) * 40),
    "other byte order": np.arange(5, dtype=">i4"),
    "dates": np.arange(5).astype("M8[25s]"),
    "text": np.array(["a", "bc"]),
    "records": np.zeros((3, 2), ALIGNED),
    "many fields": np.zeros(2, [(f"field {i}", "i4") for i in range(300)]),
    "voids": np.zeros(3, "V7"),
    "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T,
    "object": {"a": np.arange(1000), "b": [1, "two", None]},
    "none": None,
}
objects = pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS.keys())


def again(buf: refstore.PinnedBuffer, store: refstore.Store) -> refstore.ObjectRef:
    """The same object in a store, by public calls alone."""
    with store.create(buf.nbytes, header=buf.header) as writer:
        writer.write_at(0, bytes(buf))
    return writer.ref


def assert_same(one: refstore.PinnedBuffer, other: refstore.PinnedBuffer) -> None:
    assert (other.kind, other.nbytes, other.header) == (one.kind, one.nbytes, one.header)
    assert bytes(other) == bytes(one)
    if one.kind == "object":
        assert repr(other.value) == repr(one.value)
        return
    assert other.array.dtype == one.array.dtype
    assert repr(other.array.dtype) == repr(one.array.dtype)
    assert (other.array.shape, other.array.strides) == (one.array.shape, one.array.strides)


@objects
def test_an_object_is_made_again(store: refstore.Store, make_store: MakeStore, obj: Any) -> None:
    other = make_store(name="other")
    with store.get(store.put(obj, name="n", meta=b"meta")) as buf:
        assert isinstance(buf.header, bytes)
        with other.get(again(buf, other)) as copy:
            assert_same(buf, copy)
            assert copy.meta == b""


@objects
@pytest.mark.once("names the engine of each store")
@libraries.needed("refstore._core")
def test_a_header_goes_from_engine_to_engine(obj: Any) -> None:
    with (
        refstore.Store.temporary("4MiB", backend="native") as native,
        refstore.Store.temporary("4MiB", backend="filelock") as filelock,
    ):
        for one, other in ((native, filelock), (filelock, native)):
            with one.get(one.put(obj)) as buf, other.get(again(buf, other)) as copy:
                assert_same(buf, copy)


@objects
def test_a_header_names_no_place(store: refstore.Store, make_store: MakeStore, obj: Any) -> None:
    other = make_store(name="other")
    other.put(bytes(1000))
    with store.get(store.put(obj, name="a name")) as buf, other.get(other.put(obj)) as copy:
        assert buf.header == copy.header
        for text in (store.path, "a name"):
            assert os.fsencode(text) not in buf.header


def test_another_process_makes_the_same_header(store: refstore.Store) -> None:
    code = """
        import numpy, refstore

        with refstore.Store.temporary("1MiB") as store:
            with store.get(store.put(numpy.zeros((2, 3), ">i4", order="F"))) as buf:
                print(buf.header.hex())
    """
    with store.get(store.put(np.zeros((2, 3), ">i4", order="F"))) as buf:
        assert buf.header.hex() == helpers.run_clean(code)


def test_small_things_have_small_headers(store: refstore.Store) -> None:
    for obj in (b"x" * 100_000, {"a": 1}, np.zeros((2, 3)), np.zeros(1_000_000)):
        with store.get(store.put(obj)) as buf:
            assert len(buf.header) < 64


def test_a_writer_from_a_header_has_the_arrays_shape(store: refstore.Store) -> None:
    with (
        store.get(store.put(np.asfortranarray(GRID))) as buf,
        store.create(buf.nbytes, header=buf.header, name="copy") as writer,
    ):
        assert (writer.array.shape, writer.array.dtype) == (GRID.shape, GRID.dtype)
        assert writer.array.flags.f_contiguous
        writer.array[:] = buf.array
    with store["copy"] as copy:
        assert np.array_equal(copy.array, GRID)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), 5, (3, 4), (2, 3, 4), (0, 2), (1, 5, 1)])
def test_the_order_of_axes(store: refstore.Store, order: Any, shape: Any) -> None:
    expected = np.empty(shape, "i4", order=order)
    with store.create(shape=shape, dtype="i4", order=order) as writer:
        assert writer.array.flags.f_contiguous == expected.flags.f_contiguous
        assert writer.array.flags.c_contiguous == expected.flags.c_contiguous
        writer.array[...] = 3
    with store.get(writer.ref) as buf:
        assert buf.array.strides == expected.strides or not expected.size
        assert np.array_equal(buf.array, np.full(shape, 3))


@pytest.mark.parametrize("order", ["K", "A", "c", None, 1])
def test_an_unknown_order_is_refused(store: refstore.Store, order: Any) -> None:
    with pytest.raises(ValueError, match=r"order is .*: it is 'C' or 'F'"):
        store.create(shape=3, order=order)
    assert helpers.usage(store) == (0, 0, 0, 0)


# -- what is no header ------------------------------------------------------------------------


def header_of(store: refstore.Store, obj: Any) -> tuple[bytes, int]:
    with store.get(store.put(obj)) as buf:
        header = buf.header, buf.nbytes
    store.clear()
    return header


@pytest.mark.parametrize("name", ["bytes", "array", "records", "object"])
def test_every_damaged_byte_is_found(store: refstore.Store, name: str) -> None:
    header, nbytes = header_of(store, OBJECTS[name])
    for at in range(len(header)):
        for bad in (
            header[:at],
            header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :],
            header[:at] + b"x" + header[at:],
        ):
            with pytest.raises(ValueError, match="not a valid object header"):
                store.create(nbytes, header=bad)
    assert helpers.usage(store) == (0, 0, 0, 0)


@pytest.mark.parametrize("bad", [b"", b"x", b"RSH", bytes(100), b"no header of anything at all"])
def test_what_is_no_header_is_refused(store: refstore.Store, bad: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid object header"):
        store.create(10, header=bad)


def test_a_header_that_lies_about_its_length_is_refused(store: refstore.Store) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 1 << 30

    with pytest.raises(ValueError, match="too few"):
        store.create(10, header=Long(b"abc"))


def test_another_version_is_refused(store: refstore.Store) -> None:
    header, nbytes = header_of(store, b"abc")
    assert header[3] == headers.VERSION
    with pytest.raises(ValueError, match="version 9"):
        store.create(nbytes, header=header[:3] + b"\x09" + header[4:])


@pytest.mark.parametrize("obj", [b"abc", GRID, {"a": 1}], ids=["bytes", "array", "object"])
@pytest.mark.parametrize("change", [-1, 1, 1 << 40])
def test_another_size_is_refused(store: refstore.Store, obj: Any, change: int) -> None:
    header, nbytes = header_of(store, obj)
    with pytest.raises(ValueError, match=f"nbytes is {nbytes + change}.*that of {nbytes} bytes"):
        store.create(nbytes + change, header=header)


def forged(kind: str, nbytes: int, description: bytes) -> bytes:
    return headers.header_of(kind, nbytes, description)


@pytest.mark.parametrize(
    ("kind", "nbytes", "description"),
    [
        ("bytes", 8, b"t<i8"),
        ("object", 8, b"x"),
        ("array", 8, b""),
        ("array", 8, b"\x00t|O"),
        ("array", 8, b"\x00t<f4"),
        ("array", 8, b"\x00no dtype"),
        ("array", 8, b"\x00p" + b"no pickle"),
        ("array", 8, b"\xff" * 20),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    store: refstore.Store, kind: str, nbytes: int, description: bytes
) -> None:
    with pytest.raises(ValueError, match="not a valid object header"):
        store.create(nbytes, header=forged(kind, nbytes, description))


def test_what_goes_with_a_header(store: refstore.Store) -> None:
    header, nbytes = header_of(store, GRID)
    wrong: list[dict[str, Any]] = [
        {"header": header},
        {"header": header, "shape": (2, 3, 4)},
        {"header": header, "nbytes": nbytes, "dtype": "f4"},
        {"header": header, "nbytes": nbytes, "shape": 3},
    ]
    for options in wrong:
        with pytest.raises(TypeError, match="takes nbytes beside the header"):
            store.create(**options)
    for bad in ("text", 5, bytearray(header)):
        with pytest.raises(TypeError, match="a header is bytes"):
            store.create(nbytes, header=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be negative"):
        store.create(-1, header=header)
    assert helpers.usage(store) == (0, 0, 0, 0)


def test_a_closed_buffer_has_no_header(store: refstore.Store) -> None:
    buf = store.get(store.put(b"abc", meta=b"m"))
    buf.release()
    looks: list[Callable[[], bytes]] = [lambda: buf.header, lambda: buf.meta]
    for look in looks:
        with pytest.raises(ValueError, match="closed"):
            look()


def test_a_carrier_need_not_have_the_package_of_a_dtype(store: refstore.Store) -> None:
    with store.get(store.put(np.arange(6).astype(ml_dtypes.bfloat16))) as buf:
        header, data = buf.header, bytes(buf)
    code = """
        import importlib.abc, sys, refstore

        class Missing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name == "ml_dtypes":
                    raise ModuleNotFoundError("No module named 'ml_dtypes'", name=name)

        sys.meta_path.insert(0, Missing())
        store = refstore.Store(sys.argv[1], create=False)
        header, data = (bytes.fromhex(text) for text in sys.argv[2:])
        with store.create(len(data), header=header, name="carried") as writer:
            writer.write_at(0, data)
    """
    helpers.run_clean(code, store.path, header.hex(), data.hex())
    with store["carried"] as copy:
        assert copy.array.dtype == ml_dtypes.bfloat16
        assert copy.array.astype("f4").tolist() == [0, 1, 2, 3, 4, 5]
