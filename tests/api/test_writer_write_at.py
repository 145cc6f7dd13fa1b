"""`Writer.write_at` and `Writer.truncate`: bytes that come in pieces, of unknown length."""

from __future__ import annotations

import array
import gc
from collections.abc import Callable
from typing import Any

import engines
import helpers
import ml_dtypes
import numpy as np
import pytest

import refstore

MakeStore = Callable[..., refstore.Store]
DATA = helpers.pattern(1, 100_000)


def changes(writer: refstore.Writer) -> list[Callable[[], object]]:
    return [lambda: writer.write_at(0, b"x"), lambda: writer.truncate(1)]


# -- write_at ---------------------------------------------------------------------------------


def test_pieces_in_any_order(store: refstore.Store) -> None:
    with store.create(len(DATA)) as writer:
        for start in reversed(range(0, len(DATA), 7777)):
            writer.write_at(start, DATA[start : start + 7777])
    with store.get(writer.ref) as buf:
        assert bytes(buf) == DATA


def test_large_pieces(make_store: Any) -> None:
    store, data = make_store("32MiB"), helpers.pattern(2, 20_000_000)
    with store.create(len(data)) as writer:
        writer.write_at(0, data[:1])
        writer.write_at(1, memoryview(data)[1:18_000_000])
        writer.write_at(18_000_000, memoryview(data)[18_000_000:])
    with store.get(writer.ref) as buf:
        assert bytes(buf) == data


PIECE = {"native": 32 << 20, "filelock": 8 << 20}  # bytes that an engine copies at once


@pytest.mark.parametrize("shift", [-4096, -1, 1, 4096])
@pytest.mark.parametrize("pieces", [0.6, 2.1])
def test_a_piece_may_come_from_beside_it(make_store: Any, pieces: float, shift: int) -> None:
    words = int(pieces * PIECE[engines.current()]) // 8
    data = (np.arange(words, dtype="u8") * 0x9E3779B97F4A7C15).tobytes()
    store, size, start = make_store("80MiB"), len(data), max(0, -shift)
    with store.create(size + abs(shift)) as writer:
        writer.write_at(start, data)
        with memoryview(writer) as view, view[start : start + size] as source:
            writer.write_at(start + shift, source)
    with store.get(writer.ref) as buf:
        assert bytes(buf)[start + shift :][:size] == data


SOURCES: dict[str, Any] = {
    "bytes": b"12345678",
    "bytearray": bytearray(b"12345678"),
    "memoryview": memoryview(b"12345678"),
    "typed memoryview": memoryview(array.array("i", [1, 2])),
    "array.array": array.array("q", [12345678]),
    "ndarray": np.arange(2, dtype="f4"),
    "matrix": np.arange(8, dtype="u1").reshape(2, 4),
    "records": np.zeros(1, "i4,f4"),
    "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
    "scalar": np.float64(1.5),
    "0-d": np.array(1.5),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_whatever_has_a_contiguous_buffer(store: refstore.Store, source: Any) -> None:
    with store.create(10) as writer:
        writer.write_at(0, bytes(10))
        writer.write_at(1, source)
    plain = source.tobytes() if hasattr(source, "tobytes") else bytes(source)
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b"\0" + plain + b"\0"


@pytest.mark.parametrize(
    "obj",
    [DATA, np.asfortranarray(np.ones((30, 40))), np.arange(6).astype(ml_dtypes.bfloat16)],
    ids=["bytes", "Fortran", "bfloat16"],
)
def test_a_pinned_buffer_gives_its_plain_bytes(store: refstore.Store, obj: Any) -> None:
    ref = store.put(obj)
    with store.get(ref) as buf:
        with store.create(buf.nbytes, header=buf.header) as writer:
            writer.write_at(0, buf)
        plain = bytes(buf)
    with store.get(writer.ref) as copy:
        assert bytes(copy) == plain
    gc.collect()
    assert store.refcount(ref) == 1


def test_an_array_is_written_by_its_bytes(store: refstore.Store) -> None:
    with store.create(shape=(3, 4), dtype="f8") as writer:
        for row in range(3):
            writer.write_at(row * 32, np.full(4, float(row)))
    with store.get(writer.ref) as buf:
        assert buf.array[:, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("nothing", [b"", bytearray(), np.zeros(0), memoryview(b"")])
def test_nothing_is_written(store: refstore.Store, nothing: Any) -> None:
    with store.create(4) as writer:
        writer.write_at(0, b"abcd")
        for offset in (0, 2, 4):
            writer.write_at(offset, nothing)
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b"abcd"
    with store.create(0) as empty:
        empty.write_at(0, nothing)


@pytest.mark.parametrize(("offset", "data"), [(8, b"abc"), (-1, b"a"), (11, b""), (0, bytes(11))])
def test_what_does_not_fit_is_refused(store: refstore.Store, offset: int, data: bytes) -> None:
    with store.create(10) as writer:
        writer.write_at(0, b"0123456789")
        with pytest.raises(ValueError, match=f"{len(data)} bytes do not fit at offset {offset}"):
            writer.write_at(offset, data)
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b"0123456789"


@pytest.mark.parametrize("data", [5, "text", None, [1, 2]])
def test_what_has_no_buffer_is_refused(store: refstore.Store, data: object) -> None:
    with store.create(10) as writer, pytest.raises(TypeError):
        writer.write_at(0, data)


def test_what_is_closed_says_so(store: refstore.Store) -> None:
    buffer, view, other = store.get(store.put(b"x")), memoryview(b"x"), store.create(1)
    buffer.release()
    view.release()
    other.abort()
    for closed, text in ((buffer, "is closed"), (view, "released"), (other, "is closed")):
        with store.create(100) as writer, pytest.raises(ValueError, match=text):
            writer.write_at(0, closed)


@pytest.mark.parametrize(
    "data",
    [np.arange(10)[::2], np.ones((2, 3), order="F"), memoryview(b"0123456789")[::2]],
    ids=["strided", "Fortran", "memoryview"],
)
def test_what_is_not_contiguous_is_refused(store: refstore.Store, data: Any) -> None:
    with store.create(100) as writer, pytest.raises(BufferError):
        writer.write_at(0, data)


@pytest.mark.parametrize("offset", ["0", None, 1.5])
def test_an_offset_is_a_number(store: refstore.Store, offset: Any) -> None:
    with store.create(10) as writer:
        writer.write_at(np.int64(3), b"x")
        with pytest.raises(TypeError):
            writer.write_at(offset, b"x")


def test_it_leaves_no_view_behind(store: refstore.Store) -> None:
    with store.create(1000) as writer:
        writer.write_at(0, bytes(1000))
    assert store.refcount(writer.ref) == 1
    writer = store.create(1000)
    writer.write_at(0, bytes(1000))
    writer.abort()
    assert store.stats().used == store.info(next(iter(store))).block_nbytes


@pytest.mark.parametrize("end", ["seal", "abort"])
def test_after_the_end_it_is_refused(store: refstore.Store, end: str) -> None:
    writer = store.create(10)
    writer.write_at(0, bytes(10))
    getattr(writer, end)()
    for call in changes(writer):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_forked_child_writes_nothing(store: refstore.Store) -> None:
    writer = store.create(10)
    writer.write_at(0, b"0123456789")

    def write() -> None:
        for call in changes(writer):
            with pytest.raises(ValueError, match="parent"):
                call()

    assert helpers.forked(write) == 0
    with store.get(writer.seal()) as buf:
        assert bytes(buf) == b"0123456789"


# -- truncate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 63, 64, 65, 4096, 99_999, 100_000])
def test_it_gets_shorter(store: refstore.Store, size: int) -> None:
    with store.create(len(DATA), name="n") as writer:
        writer.write_at(0, DATA)
        writer.truncate(size)
        assert (writer.nbytes, len(writer)) == (size, size)
        assert writer.array.nbytes == size
    with store["n"] as buf:
        assert (bytes(buf), buf.nbytes) == (DATA[:size], size)
        assert helpers.flat(buf).tobytes() == DATA[:size]
    assert store.info("n").nbytes == size


def test_it_gets_shorter_again_and_again(store: refstore.Store) -> None:
    with store.create(len(DATA)) as writer:
        writer.write_at(0, DATA)
        for size in (99_000, 50_000, 50_000, 777, 0):
            writer.truncate(size)
            assert len(writer) == size
            with pytest.raises(ValueError, match="can only shorten"):
                writer.truncate(size + 1)
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b""


def test_the_rest_comes_back_at_once(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    with store.create(store.capacity) as writer:
        writer.write_at(0, b"abc")
        with pytest.raises(refstore.StoreFullError):
            store.put(bytes(900_000))
        writer.truncate(3)
        other = store.put(bytes(900_000))
        assert store.stats().used < 1_000_000
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b"abc"
    store.delete_many([writer.ref, other])
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


def test_a_longer_view_stays_valid_until_the_seal(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    writer = store.create(500_000)
    view = memoryview(writer)
    view[:] = b"v" * 500_000
    writer.truncate(1000)
    helpers.fill_with_junk(store)
    assert bytes(view) == b"v" * 500_000
    view[400_000:] = b"w" * 100_000
    helpers.fill_with_junk(store)
    assert bytes(view[400_000:]) == b"w" * 100_000
    assert len(memoryview(writer)) == 1000
    del view
    ref = writer.seal()
    assert store.info(ref).block_nbytes < 10_000
    with store.get(ref) as buf:
        assert bytes(buf) == b"v" * 1000


def test_a_longer_view_that_outlives_the_seal_reads_no_other_object(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    writer = store.create(500_000)
    view = memoryview(writer)
    view[:] = b"v" * 500_000
    writer.truncate(1000)
    ref = writer.seal()
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert bytes(view) == b"v" * 500_000
    del view
    gc.collect()
    assert store.stats().used == 0


def test_an_array_taken_before_becomes_read_only(store: refstore.Store) -> None:
    with store.create(1000) as writer:
        array = writer.array
        array[:] = 7
        writer.truncate(10)
        assert writer.array.tolist() == [7] * 10
        array[5] = 8
        assert writer.array[5] == 8
    for view in (writer.array, array):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_a_truncated_writer_is_aborted(store: refstore.Store) -> None:
    writer = store.create(len(DATA))
    view = memoryview(writer)
    writer.truncate(10)
    writer.abort()
    helpers.fill_with_junk(store)
    del view, writer
    gc.collect()
    assert store.stats().used == 0


@pytest.mark.parametrize("length", [0, 256, 257, 65_536])
def test_meta_stays_what_it_is(store: refstore.Store, length: int) -> None:
    meta = helpers.pattern(length, length)
    for keeps_view in (False, True):
        writer = store.create(len(DATA), meta=meta)
        writer.write_at(0, DATA)
        view = memoryview(writer) if keeps_view else None
        writer.truncate(1000)
        del view
        with store.get(writer.seal()) as buf:
            assert (bytes(buf), buf.meta) == (DATA[:1000], meta)


@pytest.mark.parametrize("size", [-1, 11, 1 << 70])
def test_a_size_that_cannot_be_is_refused(store: refstore.Store, size: int) -> None:
    with store.create(10) as writer:
        writer.write_at(0, b"0123456789")
        with pytest.raises(ValueError, match="can only shorten"):
            writer.truncate(size)
    with store.get(writer.ref) as buf:
        assert bytes(buf) == b"0123456789"


@pytest.mark.parametrize("size", ["1", None, 1.5])
def test_a_size_is_a_number(store: refstore.Store, size: Any) -> None:
    with store.create(10) as writer, pytest.raises(TypeError):
        writer.truncate(size)


def test_only_bytes_get_shorter(store: refstore.Store) -> None:
    with store.get(store.put(b"0123456789")) as buf:
        header = buf.header
    for writer in (store.create(shape=10, dtype="u1"), store.create(10, header=header)):
        with pytest.raises(TypeError, match=r"truncate\(\) is for objects of bytes"):
            writer.truncate(5)
        writer.abort()


def test_a_stream_of_unknown_length(make_store: MakeStore) -> None:
    store, written = make_store("1MiB"), 0
    with store.create(store.capacity, name="stream") as writer:
        for number in range(50):
            piece = helpers.pattern(number, 1000 + number)
            writer.write_at(written, piece)
            written += len(piece)
        writer.truncate(written)
    with store["stream"] as buf:
        assert bytes(buf) == b"".join(helpers.pattern(n, 1000 + n) for n in range(50))


@pytest.mark.parametrize("offset", [-1, 2**63, 2**80])
def test_an_offset_that_no_memory_has_is_a_value_error(store: refstore.Store, offset: int) -> None:
    writer = store.create(1000)
    with pytest.raises(ValueError, match=f"do not fit at offset {offset} of an object of 1000"):
        writer.write_at(offset, b"x")
    writer.abort()
