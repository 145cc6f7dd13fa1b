"""Another thread closes a buffer, or ends a Writer, while a view of it is being made.

To make one of a structured dtype some Python runs, and so may other threads, between the look at
whether the buffer is open and the view. The view that comes out must have what others have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore.payload import arrays

RECORD = np.dtype([("a", "i4"), ("b", "f8")])
COUNT = 1000

VIEWS: dict[str, Callable[[refstore.PinnedBuffer], Any]] = {
    "array": lambda buf: buf.array,
    "value": lambda buf: buf.value,
    "memoryview": memoryview,
    "asarray": np.asarray,
    "__array__": lambda buf: buf.__array__(),
}


def records(seed: int) -> np.ndarray[Any, Any]:
    return helpers.flat(helpers.pattern(seed, COUNT * RECORD.itemsize)).view(RECORD)


@contextlib.contextmanager
def during_a_view(act: Callable[[], object]) -> Iterator[None]:
    """Another thread acts, once, while the first view is made."""
    read, acted = arrays.read, list[bool]()

    def read_later(text: bytes, nbytes: int) -> Any:
        if not acted:
            acted.append(True)
            thread = threading.Thread(target=act)
            thread.start()
            thread.join(helpers.BUSY_TIMEOUT)
            assert not thread.is_alive()
        return read(text, nbytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "read", read_later)
        yield
    assert acted, "no description was read"


@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_of_a_buffer_that_closes_meanwhile_pins_its_block(
    store: refstore.Store, take: Callable[[refstore.PinnedBuffer], Any]
) -> None:
    data = records(1)
    ref = store.put(data)
    buf = store.get(ref)
    with during_a_view(buf.release):
        view = take(buf)
    assert buf.closed
    assert store.refcount(ref) == 2
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert view.tobytes() == data.tobytes()
    assert store.stats().condemned == 1
    del view
    assert store.stats().used == 0


def test_an_array_of_a_writer_aborted_meanwhile_is_over_no_bytes(
    store: refstore.Store,
) -> None:
    writer = store.create(shape=COUNT, dtype=RECORD)
    with during_a_view(writer.abort):
        array = writer.array
    assert writer.closed
    data = helpers.pattern(1, array.nbytes)
    ref = store.put(data)
    if array.flags.writeable:
        array[:] = records(2)
    assert bytes(store.get(ref)) == data
    store.delete(ref)
    assert store.stats().condemned == 1
    del array
    assert store.stats().used == 0


def test_an_array_of_a_writer_sealed_meanwhile_is_read_only(
    store: refstore.Store,
) -> None:
    writer = store.create(shape=COUNT, dtype=RECORD)
    with during_a_view(writer.seal):
        array = writer.array
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array["a"] = 1
    assert store.refcount(writer.ref) == 2
    store.delete(writer.ref)
    helpers.fill_with_junk(store)
    assert array.tobytes() == bytes(array.nbytes)
    del array
    assert store.stats().used == 0
