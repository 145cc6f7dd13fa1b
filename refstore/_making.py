"""Objects that coroutines get or make, for `aio`: one task of a loop makes one, by one thread.

The thread calls `store.get_or_put()`, which claims the name on the whole machine, or says at once
that another process has it. Under the claim it runs the factory, or waits for the factory's task in
the event loop; then it puts the object, pins it, and leaves by an exception, which lets the claim
go. All other tasks of the loop that want the name wait for that task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from refstore import _waiting_messages
from refstore._buffers import PinnedBuffer
from refstore._errors import (
    GetTimeoutError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFullError,
)
from refstore._refs import ObjectRef
from refstore._store import Store

__all__ = ["Attempt", "Maker"]

SLICE = 0.25  # seconds that the thread waits for space, or for its task, before it looks around

_making: contextvars.ContextVar[tuple[Maker, ...]] = contextvars.ContextVar(
    "refstore_making", default=()
)


_makers: dict[tuple[asyncio.AbstractEventLoop, bytes, str], Maker] = {}


class Maker:
    """The one task of a loop that sees to it that the object of a name is made."""

    def __init__(self, store: Store, name: str) -> None:
        self._path, self._name = store.path, name
        self._key = asyncio.get_running_loop(), store._attachment.uuid, name
        self._ended = self._key[0].create_future()
        self._awaits: list[Maker] = []  # those that its factory waits for
        self.pid = os.getpid()  # of who makes the object, as far as is known

    @staticmethod
    def of(store: Store, name: str) -> Maker | None:
        """The maker of a name in this loop."""
        return _makers.get((asyncio.get_running_loop(), store._attachment.uuid, name))

    def __enter__(self) -> Maker:
        _makers[self._key] = self
        return self

    def __exit__(self, *exception: object) -> None:
        del _makers[self._key]
        if not self._key[0].is_closed():
            self._ended.set_result(None)

    async def has_ended(self, seconds: float) -> bool:
        """Waits for its end, so many seconds at most.

        RefstoreError if it would wait for the task that asks.
        """
        mine = [maker for maker in _making.get() if not maker._ended.done()]
        if self._leads_to(mine, set()):
            raise _waiting_messages.own_factory(self._path, self._name)
        for maker in mine:
            maker._awaits.append(self)
        try:
            timeout = None if seconds == math.inf else max(seconds, 0)
            await asyncio.wait({self._ended}, timeout=timeout)
        finally:
            for maker in mine:
                maker._awaits.remove(self)
        return self._ended.done()

    def _leads_to(self, mine: list[Maker], seen: set[Maker]) -> bool:
        if self in mine:
            return True
        seen.add(self)
        return any(one not in seen and one._leads_to(mine, seen) for one in self._awaits)


class _MadeError(Exception):
    """Ends the claim: the object is there, and pinned."""


class _DroppedError(Exception):
    """Ends the claim: nobody waits for the object any more."""


class Attempt:
    """Claims a name and makes its object: one thread at a time, as often as it is asked for."""

    def __init__(
        self,
        store: Store,
        name: str,
        factory: Callable[[], Any],
        end: float,
        **options: Any,
    ) -> None:
        self._store, self._name, self._factory = store, name, factory
        self._end, self._options = end, options
        self._loop = asyncio.get_running_loop()
        self._has_claim = self._is_dropped = False
        self._buf: PinnedBuffer | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Future[Any] | None = None
        self._is_over = threading.Event()  # the task

    async def outcome(self, maker: Maker) -> PinnedBuffer | Exception:
        """The object; or why it can be neither had nor made at present.

        That is a GetTimeoutError or a StoreFullError; all else is raised.
        """
        self._has_claim, self._error = False, None
        ended = self._loop.create_future()
        context = contextvars.copy_context()
        context.run(_making.set, (*_making.get(), maker))
        threading.Thread(
            target=context.run,
            args=(self._run, ended),
            name=f"factory of {self._name!r}",
            daemon=True,
        ).start()
        try:
            await asyncio.wait({ended})
        except asyncio.CancelledError:
            await self._drop(ended)
            raise
        buf, error = self._buf, self._error
        self._buf = self._error = None
        if buf is not None:
            return buf
        assert error is not None
        try:
            if not self._has_claim and isinstance(error, GetTimeoutError | StoreFullError):
                maker.pid = getattr(error, "pid", None) or maker.pid
                return error
            raise error
        finally:
            del error  # whose traceback leads to this frame

    async def _drop(self, ended: asyncio.Future[None]) -> None:
        """Nobody wants the outcome. A task that makes it is over when this returns."""
        self._is_dropped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({ended})
        if self._buf is not None:
            self._buf.release()

    # --- in the thread

    def _run(self, ended: asyncio.Future[None]) -> None:
        try:
            self._buf = self._store.get_or_put(self._name, self._make, timeout=0)
        except _MadeError:
            pass
        except BaseException as error:
            self._error = error
        try:
            self._loop.call_soon_threadsafe(self._finish, ended)
        except RuntimeError:  # the loop is closed
            self._finish(ended)

    def _finish(self, ended: asyncio.Future[None]) -> None:
        if self._is_dropped or self._loop.is_closed():
            if self._buf is not None:
                self._buf.release()
            self._buf = self._error = None
        if not ended.done() and not self._loop.is_closed():
            ended.set_result(None)

    def _make(self) -> object:
        self._has_claim = True
        value = self._factory()
        if inspect.isawaitable(value):
            value = self._awaited(value)
        if self._is_dropped:
            raise _DroppedError
        while self._buf is None:
            with contextlib.suppress(ObjectNotFoundError):  # it was deleted at once
                self._buf = self._store.get(self._put(value))
        raise _MadeError

    def _awaited(self, value: Any) -> object:
        """Result of the factory's task in the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._start, value)
        except RuntimeError:  # the loop is closed
            _close(value)
        while not self._is_over.wait(SLICE):
            if self._loop.is_closed():
                raise _DroppedError
        if self._task is None:
            raise _DroppedError
        return self._task.result()

    def _start(self, value: Any) -> None:
        # in the event loop, and in the context of the thread
        if self._is_dropped:
            _close(value)
            self._is_over.set()
            return
        self._task = asyncio.ensure_future(value)
        self._task.add_done_callback(lambda _: self._is_over.set())

    def _put(self, value: object) -> ObjectRef:
        while True:
            seconds = min(SLICE, max(self._end - time.monotonic(), 0))
            try:
                return self._store.put(value, name=self._name, timeout=seconds, **self._options)
            except ObjectExistsError as error:  # somebody put it who asked nobody
                if error.pid is not None:
                    raise
                return self._store.ref(self._name)
            except StoreFullError as error:
                if seconds == 0 or error.needed > self._store.capacity:
                    raise
            if self._is_dropped:
                raise _DroppedError


def _close(value: Any) -> None:
    """Ends a coroutine that nobody will run."""
    if inspect.iscoroutine(value):
        value.close()
