"""How long what `refstore.arrow` got keeps its object, and what is left of what it writes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import arrow_workers
import helpers
import libraries
import numpy as np
import pytest
from children import child_process

import refstore

pyarrow = libraries.Late("pyarrow")
arrow = libraries.Late("refstore.arrow")

pytestmark = libraries.needed("pyarrow")

ROWS = 100_000


def table(first: int = 0) -> Any:
    numbers = np.arange(first, first + ROWS)
    return pyarrow.table({"x": numbers, "text": [f"a row of number {i}" for i in numbers % 50]})


PARTS: dict[str, Callable[[Any], Any]] = {
    "the table": lambda table: table,
    "a column": lambda table: table["x"],
    "a chunk": lambda table: table["x"].chunk(0),
    "a buffer": lambda table: table["text"].chunk(0).buffers()[2],
    "a slice": lambda table: table.slice(10, 1),
    "another table": lambda table: pyarrow.table({"y": table["x"]}),
    "a batch": lambda table: table.to_batches()[0],
    "an array of numpy": lambda table: table["x"].chunk(0).to_numpy(),
    "a memoryview": lambda table: memoryview(table["x"].chunk(0).buffers()[1]),
}


@pytest.mark.parametrize("part", PARTS)
def test_any_part_keeps_the_object(store: refstore.Store, part: str) -> None:
    given = table()
    ref = arrow.put(store, given)
    kept, expected = PARTS[part](arrow.get(store, ref)), PARTS[part](given)
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert store.stats().condemned == 1
    if isinstance(kept, np.ndarray | memoryview):
        assert bytes(kept) == bytes(expected)
    else:
        assert kept.equals(expected)
    del kept
    helpers.assert_full_capacity_fits(store)


def test_readers_keep_the_object(store: refstore.Store) -> None:
    ref = arrow.put(store, table())
    for call in (arrow.open_stream, arrow.input_stream):
        reader = call(store, ref)
        assert store.stats().pinned == 1
        del reader
        assert store.stats().pinned == 0


def test_a_table_outlives_its_store(store: refstore.Store, path: str) -> None:
    arrow.put(store, table(), name="n")
    got = arrow.get(store, "n")
    store.close()
    assert got.equals(table())
    with pytest.raises(ValueError, match="closed"):
        arrow.get(store, "n")
    del got
    gc.collect()
    assert helpers.mappings(path) == []


def test_a_forked_child_reads_on(store: refstore.Store) -> None:
    ref = arrow.put(store, table())
    kept = [arrow.get(store, ref)]

    def work() -> None:
        store.delete(ref)
        helpers.fill_with_junk(store)
        assert kept[0].equals(table())
        assert arrow.get(store, arrow.put(store, kept[0])).equals(kept[0])

    assert helpers.forked(work) == 0
    assert kept.pop().equals(table())
    store.recover()
    store.clear()
    helpers.assert_full_capacity_fits(store)


def test_threads_put_and_get(store: refstore.Store) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                given = pyarrow.table({"x": np.full(1000, 100 * number + i), "t": ["text"] * 1000})
                ref = arrow.put(store, given)
                got = arrow.get(store, ref)
                store.delete(ref)
                assert got.equals(given)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert store.stats().used == 0


# --- files


def test_a_file_is_published_when_it_is_closed(store: refstore.Store) -> None:
    given = table()
    with arrow.output_stream(store, 10_000_000, name="n", meta=b"mine") as sink:
        with pyarrow.ipc.new_file(sink, given.schema) as writer:
            writer.write_table(given, max_chunksize=ROWS // 4)
        assert "n" not in store
    assert (sink.closed, sink.ref, sink.tell()) == (True, store.ref("n"), store.info("n").nbytes)
    assert store.get("n").meta == b"mine"
    sink.close()
    sink.abort()
    reader = arrow.open_file(store, "n")
    assert reader.num_record_batches == 4
    assert reader.get_batch(2)["x"][0].as_py() == ROWS // 2
    assert arrow.get(store, "n").equals(given)


def test_what_a_file_does_not_use_comes_back(store: refstore.Store) -> None:
    with arrow.output_stream(store, 10_000_000) as sink:
        sink.write(b"abc")
    assert store.stats().used < 10_000


def test_other_formats_are_written_and_read(store: refstore.Store) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with arrow.output_stream(store, 10_000_000, name="n") as sink:
        parquet.write_table(table(), sink)
    assert parquet.read_table(arrow.input_stream(store, "n")).equals(table())


def test_leaving_by_an_error_leaves_nothing(store: refstore.Store) -> None:
    def fail() -> None:
        with arrow.output_stream(store, 1000, name="n") as sink:
            sink.write(b"abc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    sink = arrow.output_stream(store, 1000, name="n")
    sink.write(b"abc")
    with pytest.raises(ValueError, match="no ref yet"):
        _ = sink.ref
    del sink
    gc.collect()
    assert store.stats().used == 0
    assert "n" not in store


def test_more_than_was_asked_for_is_refused(store: refstore.Store) -> None:
    with arrow.output_stream(store, 4) as sink:
        assert sink.write(b"abc") == 3
        with pytest.raises(ValueError, match="5 bytes are written to an output stream of 4: give"):
            sink.write(memoryview(b"ab").cast("H"))
        assert sink.write(np.zeros(1, "u1")) == 1
    with pytest.raises(ValueError, match="closed"):
        sink.write(b"")
    assert bytes(store.get(sink.ref)) == b"abc\0"
    given = table()
    with (
        arrow.output_stream(store, 1000, name="n") as sink,
        pytest.raises(ValueError, match=r"give output_stream\(\) as many"),
        pyarrow.ipc.new_stream(sink, given.schema) as writer,
    ):
        writer.write_table(given)


def test_a_writer_that_is_killed_leaves_nothing(store: refstore.Store) -> None:
    with child_process(store.path) as child:
        child.do(arrow_workers.write_some, "n", 1_000_000)
        assert store.stats().used >= 1_000_000
        child.kill()
        store.recover()
    assert store.stats().used == 0
    arrow.put(store, table(), name="n")
