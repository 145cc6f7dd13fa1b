"""Event loops for tests: asyncio's own and uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

import helpers
import pytest

import refstore
from refstore import _watching

LOOPS = ("asyncio", "uvloop")

InLoop = Callable[[Coroutine[Any, Any, Any]], Any]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    uvloop: Any = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextlib.contextmanager
def running(kind: str) -> Iterator[InLoop]:
    """Runs coroutines to their end in one loop, which is closed as asyncio.run() does it."""
    loop = new_loop(kind)

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return loop.run_until_complete(asyncio.wait_for(work, helpers.BUSY_TIMEOUT))

    try:
        yield run
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


@contextlib.contextmanager
def at_rest(kind: str) -> Iterator[InLoop]:
    """The same; no thread that waits, or that ran a factory, is left in the end."""
    with mock.patch.object(_watching, "IDLE", 0.02):
        with running(kind) as run:
            yield run
        end_threads()


def end_threads() -> None:
    """Returns when the threads are gone that coroutines needed."""
    for thread in threading.enumerate():
        if thread.name.startswith((_watching.THREAD_NAME, "factory of ")):
            thread.join(helpers.BUSY_TIMEOUT)
            assert not thread.is_alive(), thread


def waiting_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == _watching.THREAD_NAME]


def waiting() -> set[_watching.Request]:
    """The requests of all coroutines that wait."""
    every = [watcher.requests for watcher in list(_watching._watchers.values())]
    return {request for requests in every for request in list(requests)}


async def begin(*works: Any) -> list[asyncio.Task[Any]]:
    """Tasks that wait for names by now."""
    before = waiting()
    tasks = [asyncio.ensure_future(work) for work in works]
    while len(waiting() - before) < len(works):
        await asyncio.sleep(0.001)
    assert not any(task.done() for task in tasks)
    return tasks


async def rest(store: refstore.Store) -> None:
    """Returns when nobody waits; nothing is pinned, written or claimed then."""
    while waiting():
        await asyncio.sleep(0.001)
    assert_at_rest(store)


def assert_at_rest(store: refstore.Store) -> None:
    gc.collect()
    assert store.holders() == []
    assert [row for row in store.objects() if row.state != "live"] == []
