"""Objects that a coroutine puts, for `aio`: copied, by a thread if they are large, then sealed.

The two steps are apart so that a coroutine that is cancelled during the copy leaves nothing: it
seals the object itself, when nothing can come between any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np

from refstore import payload
from refstore._buffers import Writer
from refstore._store import Store
from refstore.payload import arrays
from refstore.payload.headers import ARRAY, BYTES, header_of, kind_of
from refstore.payload.rules import bind

__all__ = ["Draft", "turn"]


class Draft:
    """An object that is pickled and measured, and has yet to be copied."""

    def __init__(self, store: Store, obj: object, **options: Any) -> None:
        """`options`: as of store.create(). Errors: what pickling the object raises."""
        self._store, self._options = store, options
        kind, description = kind_of(obj), b""
        self._pieces: list[tuple[int, Any]]
        if kind == ARRAY:
            description, stored = arrays.described(obj)
            self._pieces, self.nbytes = [(0, stored)], stored.nbytes
        elif kind == BYTES:
            view = memoryview(cast("bytes", obj))
            self._pieces, self.nbytes = [(0, view)], view.nbytes
        else:
            frame = payload.encode(bind(obj, store._rules))
            self._pieces, self.nbytes = list(frame.pieces), frame.nbytes
        self._header = header_of(kind, self.nbytes, description)

    def written(self, seconds: float) -> Writer:
        """A Writer that has all, to be sealed; waits so many seconds for space."""
        writer = self._store.create(
            self.nbytes, header=self._header, timeout=seconds, **self._options
        )
        try:
            for offset, piece in self._pieces:
                if piece.nbytes:
                    writer.write_at(offset, _octets(piece))
        except BaseException:
            writer.abort()
            raise
        return writer

    async def written_in_thread(self, seconds: float) -> Writer:
        """The same, by the loop's executor; if this is cancelled, the Writer is aborted."""
        copy = _Copy(self)
        future = asyncio.get_running_loop().run_in_executor(None, copy.run, seconds)
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            copy.drop()
            raise
        return copy.take()


def _octets(piece: Any) -> Any:
    if isinstance(piece, np.ndarray):
        return arrays.elements_of(piece)
    return arrays.octets_of(piece)


class _Copy:
    """A copy that a thread makes, for a coroutine that may be gone when it is done."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._lock = threading.Lock()
        self._is_dropped = False
        self._writer: Writer | None = None
        self._error: BaseException | None = None

    def run(self, seconds: float) -> None:
        """Makes it; of the thread."""
        if self._is_dropped:
            return
        try:
            writer = self._draft.written(seconds)
        except BaseException as error:
            self._error = error
            return
        with self._lock:
            self._writer = writer
        if self._is_dropped:
            self.drop()

    def take(self) -> Writer:
        """Errors: what the copy raised."""
        writer, error = self._writer, self._error
        self._writer = self._error = None
        if writer is not None:
            return writer
        assert error is not None
        try:
            raise error
        finally:
            del error  # whose traceback leads to this frame

    def drop(self) -> None:
        """Nobody will take it."""
        self._is_dropped = True
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


_lines: dict[tuple[asyncio.AbstractEventLoop, bytes], deque[asyncio.Future[None]]] = {}


@contextlib.asynccontextmanager
async def turn(store: Store, seconds: float) -> AsyncIterator[None]:
    """Turn of one coroutine: those of a loop that wait for space in a store do so one by one.

    So they take one thread, and a small object takes no space that a large one before it waits for.
    Enters at the latest after so many seconds.
    """
    loop = asyncio.get_running_loop()
    key, mine = (loop, store._attachment.uuid), loop.create_future()
    line = _lines.setdefault(key, deque())
    line.append(mine)
    try:
        if line[0] is not mine:
            await asyncio.wait({mine}, timeout=None if seconds == math.inf else seconds)
        yield
    finally:
        line.remove(mine)
        if not line:
            _lines.pop(key, None)
        elif not line[0].done() and not loop.is_closed():
            line[0].set_result(None)
