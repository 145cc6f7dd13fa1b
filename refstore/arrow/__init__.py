"""Arrow tables in a store: put with one copy, got without any, by every process.

    import refstore.arrow

    refstore.arrow.put(store, table, name="trips")
    table = refstore.arrow.get(store, "trips")        # its columns lie in shared memory

They are stored as Arrow IPC streams: plain bytes, which any implementation of Arrow reads, and
which nobody unpickles. What is stored of a slice is the slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

from refstore._extras import missing_extra
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.arrow.files import OutputStream
from refstore.arrow.messages import Stream
from refstore.payload.arrow import Tables

try:
    import pyarrow
except ImportError as error:
    raise missing_extra("refstore.arrow", "arrow", error) from error

__all__ = [
    "OutputStream",
    "get",
    "input_stream",
    "open_file",
    "open_stream",
    "output_stream",
    "put",
]

FILE = b"ARROW1"  # how files of the IPC format begin
MARK = b"refstore.arrow"  # in a schema's metadata: what was put, if that was not a table
UNREADABLE = (pyarrow.ArrowInvalid, OSError)
RECORD_BATCH, CHUNKED_ARRAY, ARRAY = b"record batch", b"chunked array", b"array"


def put(
    store: Store,
    data: Any,
    *,
    name: str | None = None,
    replace: bool = False,
    timeout: float | None = 0,
    owned: bool = False,
    evictable: bool | None = None,
    meta: bytes = b"",
) -> ObjectRef:
    """Stores a table, or another thing of Arrow's, as an Arrow IPC stream.

    It is copied once, straight into shared memory. What is stored of a slice is the slice, of a
    dictionary array its whole dictionary; what is in a table twice is stored twice. Each buffer
    lies at a multiple of 64 bytes.

    Parameters:
        store: the store.
        data: a Table, RecordBatch, ChunkedArray, Array or Tensor of pyarrow; a RecordBatchReader,
            which is read to its end; or what `pyarrow.table()` makes a table of, such as frames
            of pandas and polars.
        name: as of `Store.put()`, like all that follow.
        replace: whether an object of that name is deleted.
        timeout: seconds to wait for room; None: for ever.
        owned: whether the object goes with this process.
        evictable: whether it may be deleted when others need its room.
        meta: bytes of your own.

    Returns:
        The object's ref.

    Errors:
        TypeError: pyarrow makes no table of it.
        ObjectExistsError, StoreFullError, ValueError: as of `Store.put()`.

    Example:
        >>> import pyarrow as pa, refstore.arrow
        >>> ref = refstore.arrow.put(store, pa.table({"x": [1, 2, 3]}), name="table")
        >>> refstore.arrow.get(store, "table")["x"].to_pylist()
        [1, 2, 3]
    """
    options: dict[str, Any] = {
        "name": name,
        "replace": replace,
        "timeout": timeout,
        "owned": owned,
        "evictable": evictable,
        "meta": meta,
    }
    if isinstance(data, pyarrow.Tensor):
        with (
            store.create(pyarrow.ipc.get_tensor_size(data), **options) as writer,
            pyarrow.FixedSizeBufferWriter(pyarrow.py_buffer(writer)) as sink,
        ):
            pyarrow.ipc.write_tensor(data, sink)
        return writer.ref
    stream = _streamed(data)
    with store.create(stream.nbytes, **options) as writer:
        stream.write_to(writer)
    return writer.ref


def get(store: Store, key: ObjectRef | str, *, timeout: float | None = 0) -> Any:
    """Returns what was put, without a copy. It is read-only.

    The object is pinned as long as any buffer of it lives: slices, columns and tables made of it
    keep it, also after it is deleted or the store is closed.

    Parameters:
        store: the store.
        key: a ref, or a name.
        timeout: seconds to wait for the name; None: for ever.

    Returns:
        A Table, RecordBatch, ChunkedArray, Array or Tensor, as it was put. A RecordBatchReader, a
        frame, and bytes that are an IPC stream or file make a Table.

    Errors:
        ObjectNotFoundError, GetTimeoutError: as of `Store.get()`.
        TypeError: the object is nothing of Arrow's, or was pickled: `store.put(table)` does that.

    Example:
        >>> import pyarrow as pa, refstore.arrow
        >>> refstore.arrow.get(store, refstore.arrow.put(store, pa.array([1, None]))).null_count
        1
    """
    data = _buffer(store, key, timeout)
    try:
        return _read(data)
    except UNREADABLE as error:
        raise TypeError(
            f"object {key!r} in store {store.path!r} is nothing of Arrow's, or not all of it "
            f"({error}): input_stream() has its bytes"
        ) from error


def open_stream(store: Store, key: ObjectRef | str, *, timeout: float | None = 0) -> Any:
    """Opens what was put as a reader of record batches, one by one, without a copy.

    Parameters:
        store: the store.
        key: a ref or a name.
        timeout: seconds to wait for the name; None waits for ever.

    Returns:
        A pyarrow RecordBatchStreamReader, which keeps the object pinned.

    Errors:
        ObjectNotFoundError, GetTimeoutError: as `Store.get()` raises them.
        TypeError: the object is not of kind "bytes".
        pyarrow.ArrowInvalid: it is no IPC stream.

    Example:
        >>> import pyarrow as pa, refstore.arrow
        >>> ref = refstore.arrow.put(store, pa.table({"x": [1, 2, 3]}))
        >>> [batch.num_rows for batch in refstore.arrow.open_stream(store, ref)]
        [3]
    """
    return pyarrow.ipc.open_stream(_buffer(store, key, timeout))


def open_file(store: Store, key: ObjectRef | str, *, timeout: float | None = 0) -> Any:
    """Opens an Arrow IPC file, any batch of which can be read without the others.

    `put()` makes streams, and no files; `pyarrow.ipc.new_file()` and `output_stream()` do.

    Parameters:
        store: the store.
        key: the ref or the name.
        timeout: seconds to wait for the name to come; None: for ever.

    Returns:
        A pyarrow RecordBatchFileReader, which pins the object.

    Errors:
        ObjectNotFoundError, GetTimeoutError: those of `Store.get()`.
        TypeError: the object is no bytes.
        pyarrow.ArrowInvalid: it is no IPC file.

    Example:
        >>> import pyarrow as pa, refstore.arrow
        >>> table = pa.table({"x": [1, 2, 3]})
        >>> with refstore.arrow.output_stream(store, 10_000) as sink:
        ...     with pa.ipc.new_file(sink, table.schema) as writer:
        ...         writer.write_table(table)
        >>> refstore.arrow.open_file(store, sink.ref).get_batch(0).num_rows
        3
    """
    return pyarrow.ipc.open_file(_buffer(store, key, timeout))


def input_stream(store: Store, key: ObjectRef | str, *, timeout: float | None = 0) -> Any:
    """Opens an object's bytes as a file, which readers of pyarrow read without a copy.

    Parameters:
        store: the store.
        key: a name or a ref.
        timeout: seconds to wait for a name; None: for ever.

    Returns:
        A pyarrow BufferReader; the object is pinned as long as it, or what was read of it, lives.

    Errors:
        ObjectNotFoundError, GetTimeoutError: those that `Store.get()` raises.
        TypeError: the object is an array or was pickled.

    Example:
        >>> import refstore.arrow
        >>> refstore.arrow.input_stream(store, store.put(b"abc")).read()
        b'abc'
    """
    return pyarrow.BufferReader(_buffer(store, key, timeout))


def output_stream(
    store: Store,
    nbytes: SupportsIndex,
    *,
    name: str | None = None,
    replace: bool = False,
    timeout: float | None = 0,
    owned: bool = False,
    evictable: bool | None = None,
    meta: bytes = b"",
) -> OutputStream:
    """Makes an object that is written like a file: by `pyarrow.ipc`, Parquet, CSV and others.

    Parameters:
        store: the store.
        nbytes: the most that is written; what is not is given back when it is closed.
        name: as of `Store.create()`, as all that follow.
        replace: whether an object that has the name is deleted.
        timeout: seconds to wait for so much room; None: for ever.
        owned: whether the object goes with this process.
        evictable: whether it may be deleted for others.
        meta: your own bytes.

    Returns:
        The OutputStream, which publishes the object when it is closed.

    Errors:
        ObjectExistsError, StoreFullError, ValueError: as of `Store.create()`.

    Example:
        >>> import pyarrow as pa, refstore.arrow
        >>> batch = pa.record_batch({"x": [1, 2, 3]})
        >>> with refstore.arrow.output_stream(store, 10_000, name="batches") as sink:
        ...     with pa.ipc.new_stream(sink, batch.schema) as writer:
        ...         for _ in range(3):
        ...             writer.write_batch(batch)
        >>> refstore.arrow.get(store, "batches").num_rows
        9
    """
    return OutputStream(
        store.create(
            nbytes,
            name=name,
            replace=replace,
            timeout=timeout,
            owned=owned,
            evictable=evictable,
            meta=meta,
        )
    )


# --- what is put


def _streamed(data: Any) -> Stream:
    """The IPC stream of what is put, where its buffers lie."""
    schema, batches = _batches(data)
    stream, tables = Stream(), Tables()
    options = pyarrow.ipc.IpcWriteOptions(allow_64bit=True)
    with pyarrow.ipc.new_stream(stream, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(_shown(batch, tables))
    return stream


def _batches(data: Any) -> tuple[Any, Iterable[Any]]:
    """The schema and the batches of what is put."""
    if isinstance(data, pyarrow.RecordBatch):
        return _marked(data.schema, RECORD_BATCH), [data]
    if isinstance(data, pyarrow.Array):
        batch = pyarrow.RecordBatch.from_arrays([data], [""])
        return _marked(batch.schema, ARRAY), [batch]
    if isinstance(data, pyarrow.RecordBatchReader):
        return data.schema, data
    if not isinstance(data, pyarrow.Table | pyarrow.ChunkedArray):
        data = _imported(data)
    if isinstance(data, pyarrow.Table):
        return data.schema, data.to_batches()
    table = pyarrow.Table.from_arrays([data], [""])
    return _marked(table.schema, CHUNKED_ARRAY), table.to_batches()


def _imported(data: Any) -> Any:
    """A table, or a chunked array, of what another library has."""
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        try:
            return pyarrow.table(data)
        except pyarrow.ArrowInvalid:  # one column by itself
            return pyarrow.chunked_array(data)
    if isinstance(data, dict):
        return pyarrow.table(data)
    raise TypeError(
        f"{type(data).__name__} is nothing of Arrow's: put what pyarrow.table() makes a table of, "
        "or put it by store.put()"
    )


def _shown(batch: Any, tables: Tables) -> Any:
    """The batch with no more text than it shows; pyarrow stores all the text behind views."""
    if not any(_has_views(field.type) for field in batch.schema):
        return batch
    columns = [
        tables.shown(column) if _has_views(column.type) else column for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, schema=batch.schema)


def _has_views(kind: Any) -> bool:
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _has_views(kind.storage_type)
    if pyarrow.types.is_dictionary(kind):
        return _has_views(kind.value_type)
    if pyarrow.types.is_string_view(kind) or pyarrow.types.is_binary_view(kind):
        return True
    return any(_has_views(kind.field(i).type) for i in range(kind.num_fields))


def _marked(schema: Any, mark: bytes) -> Any:
    return schema.with_metadata({**(schema.metadata or {}), MARK: mark})


# --- what is got


def _buffer(store: Store, key: ObjectRef | str, timeout: float | None) -> Any:
    """The bytes of an object, which pins it as long as it lives."""
    with store.get(key, timeout=timeout) as buf:
        if buf.kind != "bytes":
            raise TypeError(
                f"object {key!r} in store {store.path!r} is of kind {buf.kind!r}, and not bytes: "
                "store.get() has its value"
            )
        return pyarrow.py_buffer(buf)


def _read(data: Any) -> Any:
    """The thing of Arrow's that these bytes are."""
    if memoryview(data)[: len(FILE)] == FILE:
        return pyarrow.ipc.open_file(data).read_all()
    try:
        reader = pyarrow.ipc.open_stream(data)
    except UNREADABLE as error:
        try:
            return pyarrow.ipc.read_tensor(pyarrow.BufferReader(data))
        except UNREADABLE:
            raise error from None
    return _unmarked(reader)


def _unmarked(reader: Any) -> Any:
    """The thing that was put, of the stream that was made of it."""
    metadata = dict(reader.schema.metadata or {})
    mark = metadata.pop(MARK, None)
    if mark == RECORD_BATCH:
        return reader.read_next_batch().replace_schema_metadata(metadata)
    if mark == ARRAY:
        return reader.read_next_batch().column(0)
    table = reader.read_all()
    return table.column(0) if mark == CHUNKED_ARRAY else table
