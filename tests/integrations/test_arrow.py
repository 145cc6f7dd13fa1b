"""`refstore.arrow`: what is put comes back as it was, without a copy; slices take their part."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import documented
import helpers
import libraries
import numpy as np
import pytest
import signals

import refstore

pyarrow, arrays = libraries.Late("pyarrow"), libraries.Late("arrow_arrays")
arrow = libraries.Late("refstore.arrow")

pytestmark = libraries.needed("pyarrow")

ALIGNMENT = 64
MESSAGES = 4096  # bytes: more than those of a stream of one column take


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    with arrays.pairs_registered():
        yield


def table_of(array: Any) -> Any:
    return pyarrow.table({"a": array, "b": pyarrow.chunked_array([array])}, metadata={"k": "v"})


FORMS: dict[str, Callable[[Any], Any]] = {
    "array": lambda array: array,
    "slice": lambda array: array.slice(101, 17),
    "nothing": lambda array: array.slice(5, 0),
    "chunked array": lambda array: pyarrow.chunked_array([array.slice(3, 10), array]),
    "no chunks": lambda array: pyarrow.chunked_array([], array.type),
    "batch": lambda array: pyarrow.record_batch({"a": array}, metadata={"k": "v"}),
    "empty batch": lambda array: pyarrow.record_batch({"a": array.slice(0, 0)}),
    "table": table_of,
    "slice of a table": lambda array: table_of(array).slice(101, 17),
    "chunks that differ": lambda array: pyarrow.table(
        {"a": pyarrow.chunked_array([array, array]), "b": pyarrow.concat_arrays([array, array])}
    ),
    "no rows": lambda array: table_of(array).slice(0, 0),
}


def buffers(array: Any) -> list[Any]:
    """Those of an array or of all chunks of a table that have any bytes."""
    if isinstance(array, pyarrow.Table | pyarrow.RecordBatch):
        return [one for column in array.columns for one in buffers(column)]
    if isinstance(array, pyarrow.ChunkedArray):
        return [one for chunk in array.chunks for one in buffers(chunk)]
    found = [one for one in array.buffers() if one is not None and one.size]
    return found + (buffers(array.dictionary) if hasattr(array, "dictionary") else [])


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.arrow as module

    documented.require_all(module, store)
    assert store.holders() == []


@pytest.mark.parametrize("form", FORMS)
def test_what_was_put_comes_back_as_it_was(store: refstore.Store, form: str) -> None:
    for kind, array in arrays.ARRAYS.items():
        if (form, kind) == ("chunks that differ", "extension"):
            continue  # pyarrow joins none
        given = FORMS[form](array)
        back = arrow.get(store, arrow.put(store, given))
        assert type(back) is type(given)
        back.validate(full=True)
        assert back.equals(given), kind
        if hasattr(given, "schema"):
            assert back.schema.equals(given.schema, check_metadata=True), kind
        else:
            assert back.type == given.type
        assert store.stats().pinned == (1 if buffers(back) else store.stats().pinned), kind
        del back
        store.clear()
    assert store.stats().used == 0


def test_every_buffer_lies_in_the_store_and_aligned(store: refstore.Store) -> None:
    for kind, array in arrays.ARRAYS.items():
        for given in (table_of(array), table_of(array).slice(3, 500)):
            back = arrow.get(store, arrow.put(store, given))
            where = [m for m in helpers.mappings(store.path) if m.permissions[0] == "r"]
            for buffer in buffers(back):
                assert buffer.address % ALIGNMENT == 0, kind
                assert any(m.start <= buffer.address < m.end for m in where), kind
                assert not buffer.is_mutable
            del back
            store.clear()


def test_a_slice_takes_the_room_of_the_slice(store: refstore.Store) -> None:
    for kind, array in arrays.ARRAYS.items():
        given = array, array.slice(13, 12), array.slice(13, 0)
        whole, part, nothing = (store.info(arrow.put(store, one)).nbytes for one in given)
        paddings = ALIGNMENT * 2 * len(array.buffers())
        assert part - nothing <= (whole - nothing) / 50 + paddings, kind


def test_text_behind_views_is_stored_as_far_as_it_is_shown(store: refstore.Store) -> None:
    text = pyarrow.array(
        [f"text that is too long to be in a view {i}" for i in range(20_000)], pyarrow.string_view()
    )
    struct = pyarrow.StructArray.from_arrays([text], ["s"])
    coded = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1]), text.slice(5, 2))
    for whole in (text, struct):
        part = whole.slice(7000, 100)
        ref = arrow.put(store, part)
        assert store.info(ref).nbytes < 100 * (16 + 48) + MESSAGES
        assert arrow.get(store, ref).equals(part)
    ref = arrow.put(store, coded)
    assert store.info(ref).nbytes < MESSAGES
    assert arrow.get(store, ref).equals(coded)
    spread = (
        text.filter(pyarrow.array(np.arange(20_000) % 1000 == 3)) if False else text.slice(3, 1)
    )
    assert store.info(arrow.put(store, spread)).nbytes < MESSAGES


def test_chunks_have_dictionaries_of_their_own(store: refstore.Store) -> None:
    chunks = [pyarrow.array(text).dictionary_encode() for text in (["a", "b"], ["c"], ["c", "d"])]
    given = pyarrow.chunked_array(chunks)
    back = arrow.get(store, arrow.put(store, given))
    assert back.to_pylist() == ["a", "b", "c", "c", "d"]
    assert back.equals(given)


@pytest.mark.parametrize("order", ["C", "F", "gaps"])
def test_tensors_come_back(store: refstore.Store, order: str) -> None:
    array = np.arange(24.0).reshape(4, 6)
    array = array[:, ::2] if order == "gaps" else np.asarray(array, order=order)  # type: ignore[call-overload]
    given = pyarrow.Tensor.from_numpy(array, dim_names=["x", "y"])
    back = arrow.get(store, arrow.put(store, given))
    assert back.equals(given)
    assert order == "gaps" or back.dim_names == ["x", "y"]  # which pyarrow does not write of these
    assert helpers.lies_in(store.path, helpers.address(back.to_numpy()))


class Exports:
    """A table of another library, which Arrow's interface for C hands over."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        return self._of.__arrow_c_stream__(requested_schema)


def test_what_others_export_is_put(store: refstore.Store) -> None:
    table = pyarrow.table({"x": [1, 2, 3]})
    reader = pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches())
    for given in (Exports(table), reader, {"x": [1, 2, 3]}):
        assert arrow.get(store, arrow.put(store, given)).equals(table)
    column = pyarrow.chunked_array([[1], [2]])
    assert arrow.get(store, arrow.put(store, Exports(column))).equals(column)


def test_other_readers_of_the_format_read_it(store: refstore.Store) -> None:
    polars = pytest.importorskip("polars")
    names = ["int64", "bool", "timestamp", "large string", "string view", "large list", "struct"]
    table = pyarrow.table({name: arrays.ARRAYS[name] for name in names})
    with store.get(arrow.put(store, table)) as buf:
        frame = polars.read_ipc_stream(bytes(buf))
    assert frame.equals(polars.from_arrow(table))


def test_options_are_those_of_put(store: refstore.Store) -> None:
    table = pyarrow.table({"x": [1]})
    arrow.put(store, table, name="n", owned=True, evictable=True, meta=b"mine")
    info = store.info("n")
    assert (info.owned, info.evictable, store.get("n").meta) == (True, True, b"mine")
    with pytest.raises(refstore.ObjectExistsError):
        arrow.put(store, table, name="n")
    arrow.put(store, pyarrow.Tensor.from_numpy(np.zeros(3)), name="n", replace=True)
    assert isinstance(arrow.get(store, "n"), pyarrow.Tensor)


def test_get_waits_for_a_name(store: refstore.Store) -> None:
    with signals.done_while_waiting(lambda: arrow.put(store, pyarrow.array([1]), name="n")):
        assert arrow.get(store, "n", timeout=helpers.BUSY_TIMEOUT).to_pylist() == [1]
    with pytest.raises(refstore.GetTimeoutError):
        arrow.open_stream(store, "absent", timeout=0.001)
    with pytest.raises(refstore.ObjectNotFoundError):
        arrow.get(store, "absent")


# --- what is refused


@pytest.mark.parametrize("data", [3, "text", [1, 2], None, object(), np.zeros(3)])
def test_what_is_nothing_of_arrows_is_refused(store: refstore.Store, data: Any) -> None:
    with pytest.raises(TypeError, match="is nothing of Arrow's: put what"):
        arrow.put(store, data)
    assert store.stats().used == 0


@pytest.mark.parametrize("data", [b"", b"abc", b"ARROW1", b"ARROW1\0\0" + bytes(99), bytes(100)])
def test_bytes_that_are_nothing_of_arrows_are_refused(store: refstore.Store, data: bytes) -> None:
    store.put(data, name="n")
    with pytest.raises(TypeError, match=r"^object 'n' in store .* is nothing of Arrow's, or not"):
        arrow.get(store, "n")
    assert store.holders() == []


def test_half_a_stream_is_refused(store: refstore.Store) -> None:
    with store.get(arrow.put(store, pyarrow.table({"x": np.arange(1000)}))) as buf:
        store.put(bytes(buf)[:4000], name="half")
    with pytest.raises(TypeError, match="or not all of it"):
        arrow.get(store, "half")


def test_nothing_is_unpickled(store: refstore.Store) -> None:
    store.put(pyarrow.table({"x": [1]}), name="n")
    for call in (arrow.get, arrow.open_stream, arrow.open_file, arrow.input_stream):
        with pytest.raises(TypeError, match="of kind 'object', and not bytes"):
            call(store, "n")
    assert store.holders() == []


def test_a_put_that_fails_leaves_nothing(store: refstore.Store) -> None:
    before = helpers.usage(store)
    table = pyarrow.table({"x": np.zeros(store.capacity)})
    with pytest.raises(refstore.StoreFullError):
        arrow.put(store, table, name="n")

    def fail() -> Any:
        yield pyarrow.record_batch({"x": [1]})
        raise ZeroDivisionError

    reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema({"x": "int64"}), fail())
    with pytest.raises(ZeroDivisionError):
        arrow.put(store, reader)
    assert helpers.usage(store) == before


# --- the layout


@pytest.mark.once("opens no store")
@pytest.mark.parametrize("size", [1, 7, 8, 100, 1 << 20])
def test_a_stream_comes_in_pieces_of_any_size(size: int) -> None:
    from refstore.arrow.messages import Stream

    table = pyarrow.table({name: array.slice(5, 40) for name, array in arrays.ARRAYS.items()})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = memoryview(sink.getvalue().to_pybytes())
    stream = Stream()
    for first in range(0, len(data), size):
        assert stream.write(data[first : first + size]) == min(size, len(data) - first)
    assert stream.tell() == len(data)
    target = Target(stream.nbytes)
    stream.write_to(target)  # type: ignore[arg-type]
    assert pyarrow.ipc.open_stream(bytes(target.data)).read_all().equals(table)


class Target:
    """What `write_at()` writes, of memory that was in use before."""

    def __init__(self, nbytes: int) -> None:
        self.data = bytearray(os.urandom(nbytes))

    def write_at(self, offset: int, piece: Any) -> None:
        self.data[offset : offset + len(piece)] = piece


def test_nothing_of_earlier_objects_shows_between_buffers(store: refstore.Store) -> None:
    given = pyarrow.table({"x": pyarrow.array([1, 2, 3], "int8"), "y": ["a", "b", None]})
    helpers.fill_with_junk(store)
    first = bytes(store.get(arrow.put(store, given)))
    helpers.fill_with_junk(store, 0x55)
    assert bytes(store.get(arrow.put(store, given))) == first
