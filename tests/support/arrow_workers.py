"""What children do in tests of the modules beside Arrow: commands for `children.ChildProcess`."""

from __future__ import annotations

from typing import Any

import numpy as np
from children import Session

import refstore
from stress.growth import memory_growth

QUERY = "select count(text) as texts, sum(x) as numbers, max(price) as dearest from trips"


# --- memory


def use_table(session: Session, how: str, copies: bool = False) -> tuple[int, Any]:
    """Bytes of private memory that one of `USES` of the object "large" took, and its result."""
    use = USES[how]
    use(session.store, "small")  # what the first use of a library takes is not the object's
    with memory_growth(session.store) as growth:
        result = use(session.store, "large")
        if copies:
            with session.store.get("large") as buf:
                bytes(buf)
    return growth.nbytes, result


def sum_by_arrow(store: refstore.Store, name: str) -> Any:
    import pyarrow.compute

    import refstore.arrow

    return pyarrow.compute.sum(refstore.arrow.get(store, name)["x"]).as_py()


def query_by_duckdb(store: refstore.Store, name: str) -> Any:
    import duckdb

    import refstore.arrow

    with duckdb.connect() as connection:
        connection.register("trips", refstore.arrow.get(store, name))
        return connection.execute(QUERY).fetchone()


def query_by_datafusion(store: refstore.Store, name: str) -> Any:
    import datafusion

    import refstore.arrow

    context = datafusion.SessionContext()
    context.register_record_batches("trips", [refstore.arrow.get(store, name).to_batches()])
    return tuple(context.sql(QUERY).to_pylist()[0].values())


def query_by_polars(store: refstore.Store, name: str) -> Any:
    import polars

    import refstore.polars

    columns = polars.col("text").count(), polars.col("x").sum(), polars.col("price").max()
    return refstore.polars.scan(store, name).select(*columns).collect().row(0)


def sum_by_pandas(store: refstore.Store, name: str) -> Any:
    with store.get(name) as buf:
        frame = buf.value
    return frame["x"].sum()


def sum_by_pandas_over_arrow(store: refstore.Store, name: str) -> Any:
    import pandas

    import refstore.arrow

    table = refstore.arrow.get(store, name)
    return table.to_pandas(types_mapper=pandas.ArrowDtype)["x"].sum()


USES = {
    one.__name__: one
    for one in (
        sum_by_arrow,
        query_by_duckdb,
        query_by_datafusion,
        query_by_polars,
        sum_by_pandas,
        sum_by_pandas_over_arrow,
    )
}


# --- files


def write_some(session: Session, name: str, nbytes: int) -> None:
    """Write into an output stream and leave it open."""
    from refstore.arrow import output_stream

    sink = output_stream(session.store, nbytes, name=name)
    sink.write(b"x" * (nbytes // 2))
    session.held["sink"] = sink


# --- Plasma


def connect(session: Session) -> None:
    from refstore import plasma

    session.held["client"] = plasma.connect(session.store.path)


def object_id(raw: bytes) -> Any:
    from refstore import plasma

    return plasma.ObjectID(raw)


def begin(session: Session, raw: bytes, nbytes: int) -> None:
    """Create an object and do not seal it."""
    buffer = session.held["client"].create(object_id(raw), nbytes)
    np.frombuffer(buffer, "u1")[:] = 7


def seal(session: Session, raw: bytes) -> None:
    session.held["client"].seal(object_id(raw))


def hold(session: Session, raw: bytes) -> bytes:
    """Get a buffer and keep it; what it has."""
    (buffer,) = session.held["client"].get_buffers([object_id(raw)])
    session.held["buffer"] = buffer
    return bytes(buffer)


def fetch(session: Session, raws: list[bytes], timeout_ms: int) -> list[Any]:
    """Say so, and wait for objects."""
    session.say("waiting")
    found: list[Any] = session.held["client"].get([object_id(raw) for raw in raws], timeout_ms)
    return found


def put(session: Session, raw: bytes, value: Any) -> None:
    session.held["client"].put(value, object_id(raw))


def subscribe(session: Session) -> None:
    session.held["client"].subscribe()


def next_notifications(session: Session, count: int) -> list[tuple[bytes, int, int]]:
    told = [session.held["client"].get_next_notification() for _ in range(count)]
    return [(one.binary(), *sizes) for one, *sizes in told]


def claim(session: Session, name: str) -> None:
    """Be amid a change of it."""
    session.held["claim"] = session.store.create(10, name=name, claim=True, replace=True)
