"""What children do in tests of the modules beside Arrow: commands for `helpers.ChildProcess`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import Session


def anonymous_memory() -> int:
    """Bytes of memory that this process shares with nobody's file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon in /proc/self/status")


class Growth(NamedTuple):
    """How much memory a block of code took, once it is left."""

    nbytes: list[int]

    @property
    def total(self) -> int:
        (nbytes,) = self.nbytes
        return nbytes


@contextlib.contextmanager
def memory_growth() -> Iterator[Growth]:
    growth = Growth([])
    before = anonymous_memory()
    yield growth
    growth.nbytes.append(anonymous_memory() - before)


def read_table(session: Session, name: str) -> tuple[int, float]:
    """Bytes of private memory that a table and a sum of its first column took, and that sum."""
    import pyarrow.compute

    import refstore.arrow

    pyarrow.compute.sum(pyarrow.array([1.0]))  # what the first call allocates is not the table's
    with memory_growth() as growth:
        table = refstore.arrow.get(session.store, name)
        total = pyarrow.compute.sum(table.column(0)).as_py()
    return growth.total, total


def write_some(session: Session, name: str, nbytes: int) -> None:
    """Write into an output stream and leave it open."""
    import refstore.arrow

    sink = refstore.arrow.output_stream(session.store, nbytes, name=name)
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
