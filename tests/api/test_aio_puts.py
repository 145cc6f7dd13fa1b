"""`aio.put`: what arrives, what the event loop does meanwhile, waits for room, and cancelling."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import helpers
import loops
import numpy as np
import pytest

import refstore
from refstore import _copying, aio

LARGE = aio.LARGE
OBJECTS: list[Any] = [
    *(b"bytes", b"", bytearray(b"array"), memoryview(b"a view")[::2], b"x" * LARGE),
    *(np.arange(10), np.zeros((3, 0)), np.array(5), np.ones((300, 1000)).T, np.arange(30)[::-3]),
    *(np.broadcast_to(np.arange(3), (4, 3)), np.array([(1, 2.0)], "i4,f8"), np.zeros(3, "V0")),
    np.array(["2020-01"], "M8[M]"),
    *({"a": np.arange(5000)}, "text", None, np.float32(2), np.ma.array([1, 2], mask=[False, True])),
    {"large": np.zeros(LARGE, "u1"), "bytes": b"x" * LARGE},
]


@pytest.fixture(params=loops.LOOPS)
def in_loop(request: pytest.FixtureRequest) -> Iterator[loops.InLoop]:
    with loops.at_rest(request.param) as run:
        yield run


def content(buf: refstore.PinnedBuffer) -> Any:
    return buf.value if buf.kind == "object" else bytes(buf)


class Gate:
    """Holds up the copies of puts until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[threading.Thread] = []
        self._reached, self._opened = threading.Event(), threading.Event()
        octets = _copying._octets

        def wait(piece: Any) -> Any:
            self.threads.append(threading.current_thread())
            self._reached.set()
            assert self._opened.wait(helpers.BUSY_TIMEOUT)
            return octets(piece)

        monkeypatch.setattr(_copying, "_octets", wait)

    async def reached(self) -> None:
        while not self._reached.is_set():
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._opened.set()


@pytest.mark.parametrize("large", [0, LARGE], ids=["all by a thread", "by size"])
def test_what_arrives_is_what_a_put_stores(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    async def main() -> None:
        for obj in OBJECTS:
            refs = store.put(obj, meta=b"m"), await aio.put(store, obj, meta=b"m")
            one, other = (store.get(ref) for ref in refs)
            with one, other:
                assert other.ref == refs[1]
                assert (one.kind, one.header, one.meta) == (other.kind, other.header, other.meta)
                assert pickle.dumps(content(one)) == pickle.dumps(content(other))
                if one.kind == "array":
                    assert one.array.strides == other.array.strides
            store.delete_many(refs)

    monkeypatch.setattr(aio, "LARGE", large)
    in_loop(main())
    loops.assert_at_rest(store)


def test_options_are_a_puts(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        first = await aio.put(store, b"1", name="a", owned=True, evictable=True)
        info = store.info("a")
        assert (info.ref, info.owned, info.evictable) == (first, True, True)
        with pytest.raises(refstore.ObjectExistsError):
            await aio.put(store, b"2", name="a")
        second = await aio.put(store, b"2", name="a", replace=True)
        assert (store.ref("a"), first in store, len(store)) == (second, False, 1)

    in_loop(main())


def test_the_event_loop_goes_on_during_a_large_copy(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def main() -> None:
        task = asyncio.ensure_future(aio.put(store, bytes(LARGE), name="a"))
        await gate.reached()
        assert "a" not in store
        gate.open()
        assert await task == store.ref("a")
        assert gate.threads != [threading.current_thread()]

    in_loop(main())


@pytest.mark.parametrize("replace", [False, True])
def test_a_put_that_is_cancelled_during_the_copy_leaves_nothing(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    if replace:
        store.put(b"old", name="a")
    before = helpers.usage(store)
    gate = Gate(monkeypatch)

    async def main() -> None:
        task = asyncio.ensure_future(aio.put(store, bytes(LARGE), name="a", replace=replace))
        await gate.reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await asyncio.get_running_loop().shutdown_default_executor()

    in_loop(main())
    gc.collect()
    assert helpers.usage(store) == before
    assert ("a" in store) is replace


def test_a_put_that_is_cancelled_as_the_copy_ends_leaves_nothing(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = helpers.usage(store)
    gate = Gate(monkeypatch)
    done = threading.Event()
    run = _copying._Copy.run

    def run_and_say(*arguments: Any) -> Any:
        try:
            return run(*arguments)
        finally:
            done.set()

    monkeypatch.setattr(_copying._Copy, "run", run_and_say)

    async def main() -> None:
        task = asyncio.ensure_future(aio.put(store, bytes(LARGE), name="a"))
        await gate.reached()
        gate.open()
        assert done.wait(helpers.BUSY_TIMEOUT)  # the copy is there, and the task does not know
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(main())
    gc.collect()
    assert helpers.usage(store) == before


def test_a_full_store_is_an_error_at_once(store: refstore.Store, in_loop: loops.InLoop) -> None:
    before = helpers.usage(store)

    async def main() -> None:
        for timeout in (0, 0.01, None):
            with pytest.raises(refstore.StoreFullError):
                await aio.put(store, bytes(store.capacity + 1), timeout=timeout)
        store.put(bytes(store.capacity - 1000), name="full")
        for timeout in (0, 0.01):
            with pytest.raises(refstore.StoreFullError):
                await aio.put(store, bytes(LARGE), timeout=timeout)
            with pytest.raises(refstore.StoreFullError):
                await aio.put(store, bytes(10_000), timeout=timeout)
        store.delete("full")

    in_loop(main())
    gc.collect()
    assert helpers.usage(store) == before


@pytest.mark.parametrize("size", [10_000, LARGE])
def test_room_that_comes_free_ends_a_wait_for_it(
    store: refstore.Store, in_loop: loops.InLoop, size: int
) -> None:
    async def main() -> None:
        ref = store.put(bytes(store.capacity - 1000))
        with store.get(ref) as buf:
            store.delete(ref)
            tasks = [
                asyncio.ensure_future(aio.put(store, bytes(size), name=name, timeout=None))
                for name in ("a", "b", "c")
            ]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in tasks)
            buf.release()
        for task, name in zip(tasks, ("a", "b", "c"), strict=True):
            assert await task == store.ref(name)

    in_loop(main())
    loops.assert_at_rest(store)


def test_those_that_wait_for_room_take_one_thread(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        store.put(bytes(store.capacity - 1000), name="full")
        before = threading.active_count()
        tasks = [
            asyncio.ensure_future(aio.put(store, bytes(10_000), timeout=60)) for _ in range(50)
        ]
        await asyncio.sleep(0.1)
        assert threading.active_count() <= before + 1
        tasks[0].cancel()
        tasks[20].cancel()
        store.delete("full")
        refs = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(ref, refstore.ObjectRef) for ref in refs) == 48
        await asyncio.get_running_loop().shutdown_default_executor()

    in_loop(main())
    assert len(store) == 48
    loops.assert_at_rest(store)


def test_a_put_cancelled_while_it_waits_for_room_leaves_nothing(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    store.put(bytes(store.capacity - 1000), name="full")

    async def main() -> None:
        tasks = [
            asyncio.ensure_future(aio.put(store, bytes(LARGE), name="a", timeout=None)),
            asyncio.ensure_future(aio.put(store, bytes(10_000), name="b", timeout=None)),
        ]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.get_running_loop().shutdown_default_executor()

    in_loop(main())
    store.delete("full")
    assert _copying._lines == {}
    assert len(store) == 0
    loops.assert_at_rest(store)
