"""Frames and series of polars in a store: put with one copy, got without any, by every process.

    import refstore.polars

    refstore.polars.put(store, frame, name="trips")
    frame = refstore.polars.get(store, "trips")       # its columns lie in shared memory

They are stored as `refstore.arrow` stores tables, which reads them, too.
"""

from __future__ import annotations

import json
from typing import Any

from refstore._extras import missing_extra
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.payload.arrow import rebuild_polars, taken_apart

try:
    import polars
    import pyarrow

    from refstore import arrow
except ImportError as error:
    raise missing_extra("refstore.polars", "polars", error) from error

__all__ = ["get", "put", "scan"]

MARK = b"refstore.polars"  # in a schema's metadata: what Arrow does not keep of a frame


def put(
    store: Store,
    frame: polars.DataFrame | polars.Series,
    *,
    name: str | None = None,
    replace: bool = False,
    timeout: float | None = 0,
    owned: bool = False,
    evictable: bool | None = None,
    meta: bytes = b"",
) -> ObjectRef:
    """Stores a frame or a series, as an Arrow IPC stream.

    It is copied once, straight into shared memory. What is stored of a slice is the slice.

    Parameters:
        store: the store.
        frame: the DataFrame or Series.
        name: as of `Store.put()`, like all those behind it.
        replace: whether an object of that name goes.
        timeout: seconds to wait for room; None: for ever.
        owned: whether the object goes with this process.
        evictable: whether it may go when others need its room.
        meta: bytes of one's own.

    Returns:
        The object's ref.

    Errors:
        TypeError: it is something else, such as a LazyFrame, or has a column of a type that Arrow
            does not have: objects, integers of 128 bits.
        ObjectExistsError, StoreFullError, ValueError: as of `Store.put()`.

    Example:
        >>> import polars as pl, refstore.polars
        >>> _ = refstore.polars.put(store, pl.DataFrame({"x": [1, 2, 3]}), name="frame")
        >>> refstore.polars.get(store, "frame")["x"].sum()
        6
    """
    return arrow.put(
        store,
        _table_of(frame),
        name=name,
        replace=replace,
        timeout=timeout,
        owned=owned,
        evictable=evictable,
        meta=meta,
    )


def get(
    store: Store, key: ObjectRef | str, *, timeout: float | None = 0
) -> polars.DataFrame | polars.Series:
    """Returns a frame or a series, without a copy of its columns, save for those of an Enum.

    polars copies what it changes. The object is pinned as long as any column of it lives, also
    after it is deleted or the store is closed.

    Parameters:
        store: the store.
        key: a ref or a name.
        timeout: seconds to wait for the name; None: for ever.

    Returns:
        What was put; of what `refstore.arrow` has put, and of an IPC stream or file, a frame or
        series as `polars.from_arrow()` makes it.

    Errors:
        ObjectNotFoundError, GetTimeoutError: as of `Store.get()`.
        TypeError: the object is nothing of Arrow's, or was pickled.

    Example:
        >>> import polars as pl, refstore.polars
        >>> ref = refstore.polars.put(store, pl.Series("x", [1, 2, 3]))
        >>> refstore.polars.get(store, ref).to_list()
        [1, 2, 3]
    """
    got = arrow.get(store, key, timeout=timeout)
    if isinstance(got, pyarrow.Table):
        metadata = dict(got.schema.metadata or {})
        if MARK in metadata:
            kept = json.loads(metadata.pop(MARK))
            table = got.replace_schema_metadata(metadata)
            frame: polars.DataFrame | polars.Series = rebuild_polars(table, *kept)
            return frame
    return polars.from_arrow(got, rechunk=False)


def scan(store: Store, key: ObjectRef | str, *, timeout: float | None = 0) -> polars.LazyFrame:
    """Returns a frame as a LazyFrame: a query reads the columns that it needs where they lie.

    Parameters:
        store: the store.
        key: a ref or a name.
        timeout: seconds to wait for the name; None: for ever.

    Returns:
        The LazyFrame, which keeps the object pinned; a series is its only column.

    Errors:
        ObjectNotFoundError, GetTimeoutError, TypeError: as of `get()`.

    Example:
        >>> import polars as pl, refstore.polars
        >>> ref = refstore.polars.put(store, pl.DataFrame({"x": [1, 2, 3]}))
        >>> refstore.polars.scan(store, ref).filter(pl.col("x") > 1).collect()["x"].to_list()
        [2, 3]
    """
    got = get(store, key, timeout=timeout)
    return got.to_frame().lazy() if isinstance(got, polars.Series) else got.lazy()


def _table_of(frame: Any) -> Any:
    """The Arrow table over a frame's memory, with what polars needs beside it."""
    if isinstance(frame, polars.LazyFrame):
        raise TypeError("a LazyFrame has no rows yet: put frame.collect()")
    if not isinstance(frame, polars.DataFrame | polars.Series):
        raise TypeError(
            f"{type(frame).__name__} is no DataFrame or Series of polars: refstore.arrow.put() "
            "takes tables of others"
        )
    args = taken_apart(frame)
    if args is None:
        columns = frame.get_columns() if isinstance(frame, polars.DataFrame) else [frame]
        which = [f"{one.name!r} of {one.dtype}" for one in columns if taken_apart(one) is None]
        what = f"such column as {' and '.join(which)}" if which else "frame of rows without columns"
        raise TypeError(
            f"Arrow has no {what}: cast it, or put the frame by store.put(), which pickles it"
        )
    table, *kept = args
    metadata = {**(table.schema.metadata or {}), MARK: json.dumps(kept)}
    return table.replace_schema_metadata(metadata)
