"""Plain ndarrays: every dtype, layout and shape comes back equal, in its own order, uncopied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import engines
import helpers
import numpy as np
import pytest
from helpers import Array

import refstore

# A class that forwards requests forwards numpy's errors; see buffer_protocol.py.
REFUSED = BufferError if engines.exports_by_itself() else ValueError


def sample(dtype: np.dtype[np.generic] | str, count: int = 60) -> Array:
    """An array of that dtype whose bytes are no mere repetition, with valid values only."""
    dt = np.dtype(dtype)
    if dt.kind == "b":
        flags: Array = np.arange(count) % 3 == 0
        return flags
    if dt.kind in "Mm":
        array = np.arange(count, dtype="i8").view(dt.newbyteorder("=")).astype(dt)
        array[1] = np.array("NaT", dt)
        return array
    if dt.kind in "SU":
        width = dt.itemsize // (4 if dt.kind == "U" else 1)
        return np.array([chr(97 + i % 26) * (i % (width + 1)) for i in range(count)], dt)
    if dt.kind == "V":
        raw = np.frombuffer(helpers.pattern(count, count * dt.itemsize), "u1")
        return np.ndarray((count,), dt, raw.tobytes()).copy()
    return (np.arange(count) * 1.5 + 1).astype(dt)


CODES = [code for code in np.typecodes["All"] if code not in "OSUVMm"]
DTYPES = [
    *CODES,
    *(">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"),
    *("S1", "S5", "U1", "U3", ">U3", "V1", "V7", "V16"),
    *("M8[ns]", "M8[s]", "M8[D]", "M8[25s]", ">M8[us]", "m8[ms]", "m8[Y]", ">m8[h]", "m8"),
]

# of "m8", which numpy 2.5 gives up
pytestmark = pytest.mark.filterwarnings("ignore:The 'generic' unit:DeprecationWarning")


def assert_comes_back(store: refstore.Store, array: Array) -> None:
    """Put, get, compare: dtype, shape, values, read-only; and no room lost afterwards."""
    before = helpers.usage(store)
    ref = store.put(array)
    stored = array[tuple(slice(None if step else 1) for step in array.strides)]
    with store.get(ref) as buf:
        back = buf.array
        assert buf.kind == "array"
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype
        assert back.dtype.byteorder == array.dtype.byteorder
        assert back.shape == array.shape
        assert buf.nbytes == len(buf) == len(bytes(buf)) == stored.nbytes
        assert not back.flags.writeable
        assert back.tobytes() == array.tobytes()
        assert buf.value.tobytes() == array.tobytes()
        assert np.asarray(buf).tobytes() == array.tobytes()
        assert np.asarray(buf).dtype == array.dtype
        del back
    store.delete(ref)
    assert helpers.usage(store) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(store: refstore.Store, dtype: str) -> None:
    assert_comes_back(store, sample(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_from_a_strided_view(store: refstore.Store, dtype: str) -> None:
    assert_comes_back(store, sample(dtype).reshape(5, 4, 3)[::2, ::-1].T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_exports_what_numpy_exports(store: refstore.Store, dtype: str) -> None:
    array = sample(dtype).reshape(3, 20)
    with store.get(store.put(array)) as buf:
        try:
            expected = helpers.memory(array)
        except ValueError:
            with pytest.raises(REFUSED, match="dtype"):
                memoryview(buf)
            return
        if array.dtype.kind == "V":  # numpy writes "7x" for it, and reads that as records
            with pytest.raises(REFUSED, match="dtype"):
                memoryview(buf)
            return
        with memoryview(buf) as view:
            assert view.format == expected.format
            assert view.itemsize == expected.itemsize
            assert view.shape == expected.shape
            assert view.strides == expected.strides
            assert view.tobytes() == expected.tobytes()


CUBE = np.arange(4 * 5 * 6, dtype="f4").reshape(4, 5, 6)

LAYOUTS: dict[str, Array] = {
    "C": CUBE,
    "Fortran": np.asfortranarray(CUBE),
    "permuted": CUBE.transpose(2, 0, 1),
    "another permutation": CUBE.transpose(1, 0, 2),
    "one axis backwards": CUBE[:, ::-1],
    "all axes backwards": CUBE[::-1, ::-1, ::-1],
    "every second": CUBE[::2, 1::2, ::3],
    "backwards by two": CUBE[::-2, :, ::-3],
    "broadcast": np.broadcast_to(CUBE[0], (7, 5, 6)),
    "broadcast along the last": np.broadcast_to(CUBE[:, :, :1], (4, 5, 6)),
    "one broadcast value": np.broadcast_to(np.float64(3.5), (6, 7)),
    "overlapping windows": np.lib.stride_tricks.sliding_window_view(np.arange(50), 8),
    "unaligned": np.frombuffer(b"x" + bytes(range(80)), "u1")[1:].view("f8"),
    "a field of records": np.zeros(20, [("a", "i1"), ("b", "f8")])["b"],
    "0-d": np.array(7.25),
    "0-d of a view": CUBE[1, 2, 3, ...],
    "empty": np.zeros(0),
    "empty in the middle": np.zeros((3, 0, 2), "i2"),
    "empty Fortran": np.zeros((0, 5), order="F"),
    "ones": np.ones((1, 1, 1)),
    "8-d": np.arange(2**8).reshape((2,) * 8),
    "8-d permuted": np.arange(2**8).reshape((2,) * 8).transpose(3, 1, 7, 0, 2, 6, 5, 4),
    "8-d with mixed steps": np.arange(3**8, dtype="i2").reshape((3,) * 8)[::2, ::-1, :, 1:, ::-2],
    "32-d": np.arange(2**10).reshape((1, 2, 1) * 10 + (1, 1)),
    "64-d": np.arange(2**6).reshape((2,) * 6 + (1,) * 58),
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_comes_back(store: refstore.Store, array: Array) -> None:
    assert_comes_back(store, array)


@pytest.mark.parametrize(
    "name", ["C", "Fortran", "permuted", "another permutation", "8-d permuted"]
)
def test_a_dense_array_keeps_its_strides(store: refstore.Store, name: str) -> None:
    array = LAYOUTS[name]
    with store.get(store.put(array)) as buf:
        assert buf.array.strides == array.strides
        assert memoryview(buf).strides == array.strides
        assert buf.array.flags.c_contiguous == array.flags.c_contiguous
        assert buf.array.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("name", ["C", "Fortran", "permuted", "8-d permuted"])
def test_plain_bytes_are_in_storage_order(store: refstore.Store, name: str) -> None:
    array = LAYOUTS[name]
    stored = array.ravel(order="K").tobytes()
    with store.get(store.put(array)) as buf:
        assert bytes(buf) == stored
        assert hashlib.sha256(buf).digest() == hashlib.sha256(stored).digest()
        assert helpers.flat(buf).tobytes() == stored
        view = helpers.flat(buf)
    assert view.tobytes() == stored
    assert store.refcount(buf.ref) == 2
    del view, buf
    assert store.stats().pinned == 0


@pytest.mark.parametrize("name", ["one axis backwards", "every second"])
def test_a_sparse_array_is_stored_densely(store: refstore.Store, name: str) -> None:
    array = LAYOUTS[name]
    with store.get(store.put(array)) as buf:
        lowest, beyond = np.lib.array_utils.byte_bounds(buf.array)
        assert beyond - lowest == array.nbytes


def test_a_large_array_comes_back_in_each_order(store: refstore.Store) -> None:
    array = np.random.default_rng(5).random((600, 700))
    for one in (array, array.T, array[::-1], array[:, ::2], np.asfortranarray(array)[3:]):
        assert_comes_back(store, one)


def test_an_array_is_not_copied_on_the_way_out(store: refstore.Store, path: str) -> None:
    ref = store.put(np.arange(1000))
    with store.get(ref) as first, store.get(ref) as second:
        assert np.shares_memory(first.array, np.asarray(first))
        assert helpers.lies_in(path, helpers.address(first.array))
        assert helpers.address(first.array) == helpers.address(second.array)


@pytest.mark.parametrize("size", [64, 65, 100, 1000, 5000, 100_000])
def test_arrays_are_aligned_to_64_bytes(store: refstore.Store, size: int) -> None:
    refs = [store.put(np.full(size, fill, "u1")) for fill in range(20)]
    for ref in refs:
        with store.get(ref) as buf:
            assert helpers.address(buf.array) % 64 == 0


def test_the_store_keeps_a_copy_of_an_array(store: refstore.Store) -> None:
    array = np.arange(100)
    ref = store.put(array)
    array[:] = -1
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, np.arange(100))


def test_a_read_only_array_is_stored_like_any_other(store: refstore.Store) -> None:
    array = np.arange(100)
    array.flags.writeable = False
    assert_comes_back(store, array)


# -- structured dtypes ------------------------------------------------------------------------

STRUCTURED: dict[str, np.dtype[np.void]] = {
    "packed": np.dtype([("a", "i1"), ("b", "f8")]),
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "nested": np.dtype([("a", [("x", "<f4"), ("y", [("z", "S3"), ("w", ">u2")])]), ("b", "?")]),
    "nested and aligned": np.dtype(
        [("a", np.dtype([("x", "i1"), ("y", "f8")], align=True)), ("b", "i1")], align=True
    ),
    "sub-arrays": np.dtype([("m", "f4", (3, 4)), ("v", "i2", (5,)), ("s", "U4", (2,))]),
    "big-endian": np.dtype([("a", ">i4"), ("b", ">f8"), ("c", "<i4")]),
    "times": np.dtype([("t", "M8[ns]"), ("d", "m8[s]"), ("n", "U7")]),
    "gaps": np.dtype(
        {"names": ["a", "b"], "formats": ["i2", "i4"], "offsets": [3, 9], "itemsize": 20}
    ),
    "overlapping": np.dtype(
        {"names": ["word", "half"], "formats": ["u4", "u2"], "offsets": [0, 2]}
    ),
    "titles": np.dtype([(("A title", "a"), "i4"), (("Another", "b"), "f8")]),
    "names beyond ASCII": np.dtype([("größe", "f8"), ("長さ", "i4"), ("🙂", "u1")]),
    "names with odd signs": np.dtype([("a:b", "i4"), ("{c}", "i4"), ("d e", "i4"), ("'", "i4")]),
    "no fields": np.dtype([]),
    "voids": np.dtype([("a", "V3"), ("b", "V1")]),
    "long double": np.dtype([("a", "g"), ("b", "G")]),
    "a hundred fields": np.dtype([(f"a_rather_long_field_name_{i:03}", "<f4") for i in range(100)]),
    "a thousand fields": np.dtype([(f"field_{i}", "<i8" if i % 2 else ">i2") for i in range(1000)]),
    "a long field name": np.dtype([("n" * 5000, "i4")]),
    "deeply nested": np.dtype([("a", [("b", [("c", [("d", [("e", [("f", "i4", (2, 2))])])])])])]),
}


def leaves(array: Array) -> list[bytes]:
    """The bytes of the innermost fields; those between fields mean nothing."""
    if array.dtype.names is None:
        return [array.tobytes()]
    return [leaf for name in array.dtype.names for leaf in leaves(array[name])]


@pytest.mark.parametrize("dtype", STRUCTURED.values(), ids=STRUCTURED.keys())
@pytest.mark.parametrize("arrange", [np.array, lambda a: a[::-2], lambda a: a.reshape(3, 4).T])
def test_every_structured_dtype_comes_back(
    store: refstore.Store, dtype: np.dtype[np.void], arrange: Callable[[Array], Array]
) -> None:
    raw = np.zeros(12 * dtype.itemsize, "u1")
    raw[:] = np.arange(raw.size) % 120
    array = arrange(np.ndarray((12,), dtype, raw.tobytes()).copy())
    ref = store.put(array)
    with store.get(ref) as buf:
        back = buf.array
        assert buf.kind == "array"
        assert back.dtype == dtype
        assert back.dtype.fields == dtype.fields
        assert back.dtype.itemsize == dtype.itemsize
        assert back.dtype.isalignedstruct == dtype.isalignedstruct
        assert back.shape == array.shape
        for name in dtype.names or ():
            assert leaves(back[name]) == leaves(array[name])
        del back


def test_a_zero_item_size_comes_back(store: refstore.Store) -> None:
    with store.get(store.put(np.zeros((3, 4), "V0"))) as buf:
        assert (buf.array.dtype, buf.array.shape, buf.nbytes) == (np.dtype("V0"), (3, 4), 0)


def test_a_structured_array_is_not_copied_on_the_way_out(store: refstore.Store, path: str) -> None:
    array = np.zeros(1000, STRUCTURED["a hundred fields"])
    with store.get(store.put(array)) as buf:
        assert helpers.lies_in(path, helpers.address(buf.array))
        assert helpers.lies_in(path, helpers.address(np.asarray(buf)))
