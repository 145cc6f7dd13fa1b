"""Hints of free slots that went missing hide no room, though others are at a dead process yet."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

import pytest
import workers
from children import child_process

import refstore
from tests.fuzz import layout
from tests.native import rows

CAPACITY, OBJECTS = 1 << 20, 64
RECOVERER = layout.structs()["Row"].recoverer.offset
HINTS = ("empty_bits", "spare_bits", "class_bits")

pytestmark = pytest.mark.native("writes to its file")


def lose_hints(path: str) -> None:
    tables = {table.name: table for table in layout.native(CAPACITY, OBJECTS).tables}
    with open(path, "r+b", buffering=0) as file:
        for name in HINTS:
            file.seek(tables[name].at)
            file.write(bytes(tables[name].stride * tables[name].entries))


def row_of(path: str, pid: int) -> int:
    with open(path, "rb") as file:
        file.seek(rows.ROWS_AT)
        table = file.read(rows.ROWS * rows.ROW_NBYTES)
    return next(
        row
        for row in range(rows.ROWS)
        if struct.unpack_from("<QI", table, row * rows.ROW_NBYTES)[1] == pid
    )


def test_a_batch_finds_what_no_hint_leads_to_while_another_recovers(
    make_store: Callable[..., refstore.Store],
) -> None:
    store = make_store(CAPACITY, max_objects=OBJECTS)
    path = store.path
    with child_process(path) as child:
        child.do(workers.begin, 100)
        pid = child.pid
        child.kill()
    for ref in [store.put(b"") for _ in range(OBJECTS - 1)]:
        store.delete(ref)
    with open(path, "r+b", buffering=0) as recoverer:
        row = row_of(path, pid)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0)
        fcntl.fcntl(recoverer, fcntl.F_OFD_SETLK, lock)
        recoverer.seek(rows.ROWS_AT + row * rows.ROW_NBYTES + RECOVERER)
        recoverer.write(os.getppid().to_bytes(4, "little"))
        lose_hints(path)
        assert len(store.put_many([b""] * 20)) == 20
    assert store.recover().unfinished == 1
    assert store.check() == []
