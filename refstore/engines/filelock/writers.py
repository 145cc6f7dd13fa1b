"""`Writer` of the filelock engine: room in shared memory, which is sealed or given back.

Its root has no pin, since the block is nobody else's; one that outlives the Writer's end gets a pin
then. All else is as in `buffers`.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, SupportsIndex, final

import numpy as np
import numpy.typing as npt

from refstore import _buffers, _messages
from refstore._docs import adopt_docs
from refstore._errors import ObjectExistsError
from refstore._refs import ObjectRef
from refstore.engines.filelock import buffer_protocol
from refstore.engines.filelock.buffers import Exported, pinned
from refstore.engines.filelock.life import finalize, here
from refstore.engines.filelock.pins import (
    Home,
    Pin,
    Root,
    end_writing,
    shaped,
    writers_root,
)

__all__ = ["Writer", "give_up_writers", "open_writers", "writer"]

_FORWARDS = buffer_protocol.WAY == "FORWARD"
_NOTHING: Final = np.empty(0, np.uint8)

_open: dict[int, weakref.ref[Writer]] = {}  # by id: those that are neither sealed nor given up


def open_writers(home: Home) -> list[int]:
    """The slots that a child forked now could write to by a Writer that it inherits.

    Each needs a pin of the child's; its copy of the Writer gives that back.
    """
    return [writer._slot for writer in _open_of(home)]


def _open_of(home: Home) -> list[Writer]:
    found = (ref() for ref in list(_open.values()))
    return [w for w in found if w is not None and w._home is home and w._is_made_here()]


def give_up_writers(home: Home) -> None:
    """Aborts all Writers that are open at the interpreter's exit."""
    for one in _open_of(home):
        one.abort()


class _ClosedError(ValueError):
    """Another thread ends it, or has."""

    def __init__(self) -> None:
        super().__init__(*_messages.closed_buffer("Writer").args)


@final
class Writer(Exported, buffer_protocol.ReleasingExporter, _buffers.Writer):
    __doc__ = _buffers.Writer.__doc__
    __slots__ = (
        "_array",
        "_arrays",
        "_call",
        "_end_once",
        "_forks",
        "_held",
        "_is_over",
        "_is_sealed",
        "_let_go",
        "_may_shrink",
    )
    _noun = "Writer"

    _array: weakref.ref[npt.NDArray[Any]] | None  # weak: the array keeps the root
    _arrays: list[weakref.ref[npt.NDArray[Any]]]  # the same, from before it was truncated
    _call: Any  # that took the room; the life that it is of alone may end it
    _end_once: list[None]  # one entry, for the thread that ends it
    _forks: int  # that there were when it was made
    _held: list[Root]  # from before it was truncated, as long as somebody may keep the Writer
    _is_over: bool  # the room is an object's, or is on its way back
    _is_sealed: bool
    _let_go: list[weakref.ref[Root]]  # all roots that it had
    _may_shrink: bool

    def __init__(self) -> None:
        raise _messages.no_constructor("Writer")

    def __del__(
        self,
        finalize: Callable[..., None] = finalize,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        if getattr(self, "_is_over", True):
            return
        self._is_kept = False  # nobody did
        finalize(self._give_up, is_finalizing)

    def __enter__(self) -> Writer:
        self._require_ours()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._is_closed:
            return
        if kind is None:
            self.seal()
        else:
            self.abort()

    def seal(self) -> ObjectRef:
        home = self._require_ours()
        try:
            self._end()
            home.seal(self._call, self._pin_of_views(home))
            self._finish_seal()
            return self._ref
        except _ClosedError:
            raise
        except BaseException as error:
            if home.stays(self._call, error):
                self._finish_seal()
                return self._ref
            self._give_up()
            if isinstance(error, ObjectExistsError) and error.pid is None:
                raise _messages.taken_meanwhile(home.path, error.key) from None
            raise

    def _finish_seal(self) -> None:
        """Ends the writing after the seal: what is left of it is read."""
        self._is_sealed = True
        _open.pop(id(self), None)
        self._is_over = True
        for seen in (*self._arrays, self._array):
            array = seen() if seen is not None else None
            if array is not None:
                array.flags.writeable = False
        for root in self._roots():
            end_writing(root)
        if not self._is_kept:
            self._drop_roots()

    def abort(self) -> None:
        if self._is_closed:
            return
        try:
            self._end()
            self._give_up()
        except _ClosedError:
            return
        except BaseException:
            self._give_up()  # interrupted: each step can be done twice
            raise

    @property
    def array(self) -> npt.NDArray[Any]:
        array = self._array() if self._array is not None else None
        if array is None:
            array = self._sealed_array() if self._is_sealed else self._as_array()
            self._array = weakref.ref(array)
        return array

    def write_at(self, offset: SupportsIndex, data: object) -> None:
        self._require_ours()
        start, octets = operator.index(offset), _octets_of(data)
        home = self._require_ours()
        root, _ = self._require_unclosed()  # if another thread ends the Writer, it sees this view
        if not 0 <= start <= root.nbytes - octets.nbytes:
            raise _messages.no_place_to_write(start, octets.nbytes, root.nbytes)
        home.write(self._call, self._block, start, octets)

    def truncate(self, nbytes: SupportsIndex) -> None:
        home = self._require_ours()
        size = operator.index(nbytes)
        if not self._may_shrink:
            raise _messages.no_truncation()
        if not 0 <= size <= self.nbytes:
            raise _messages.not_shorter(size, self.nbytes)
        can_tell = self._can_tell_views()
        self._replace_root(home, size)
        is_seen = not can_tell or len(self._roots()) > 1
        if not home.shrink(self._call, size, frees=not is_seen):
            raise _messages.closed_buffer("Writer")

    def _replace_root(self, home: Home, nbytes: int) -> None:
        """Shows so many bytes from here on. Views of the last root keep it."""
        block: Any = self._block
        block = block._replace(nbytes=nbytes)
        root, last = writers_root(home, block), self._root
        if last is None:
            raise _messages.closed_buffer("Writer")
        self._let_go.append(weakref.ref(last))
        if self._array is not None:
            self._arrays.append(self._array)
        if self._is_kept:
            self._held.append(last)
        self._root, self._block, self._array = root, block, None
        if _FORWARDS:
            buffer_protocol.stop(self)  # what it forwards to is longer

    @property
    def ref(self) -> ObjectRef:
        if not self._is_sealed:
            raise _messages.not_sealed()
        return self._ref

    def __repr__(self) -> str:
        state = "sealed" if self._is_sealed else "closed" if self._is_closed else "open"
        return f"<Writer of {self.nbytes} bytes, {state}>"

    def _is_made_here(self) -> bool:
        is_ours: bool = self._call.life.is_ours()
        return is_ours

    def _is_ours(self, home: Home) -> bool:
        return self._is_made_here() and home.is_alive()

    def _require_ours(self) -> Home:
        _, home = self._require_unclosed()
        if not self._is_ours(home):
            raise _messages.parents_writer()
        return home

    def _end(self) -> None:
        """Refuses new views from here on."""
        self._is_closed = True
        try:
            self._end_once.pop()
        except IndexError:
            raise _ClosedError from None
        buffer_protocol.stop(self)

    def _pin_of_views(self, home: Home) -> Pin | None:
        """A pin for the root, if somebody has a view, or may have one: nothing may be put where
        views of it point."""
        if self._root is not None and self._can_tell_views():
            self._let_go.append(weakref.ref(self._root))
            self._root = None
        roots = self._roots()
        if not roots:
            return None
        pin = next((root.pin for root in roots if isinstance(root.pin, Pin)), None) or Pin(home)
        for root in roots:
            root.pin = pin
        return pin

    def _can_tell_views(self) -> bool:
        """Whether a root that we let go of is gone if nobody has a view."""
        return not self._is_kept and self._forks == here().forks

    def _roots(self) -> list[Root]:
        """All that may be written to."""
        seen = [root for ref in self._let_go if (root := ref()) is not None]
        return seen if self._root is None else [self._root, *seen]

    def _drop_roots(self) -> None:
        self._root = None
        self._held.clear()

    def _give_up(self) -> None:
        self._is_closed, self._is_sealed = True, False
        buffer_protocol.stop(self)
        home = self._home
        if home is not None:
            pin = self._pin_of_views(home)
            if self._is_ours(home):
                home.give_up(self._call, pin)
            elif not self._is_made_here() and _open.pop(id(self), None) is not None:
                (pin or Pin(home)).inherit(self._slot)  # the fork pinned the block for us
        _open.pop(id(self), None)
        self._is_over = True
        self._home = self._call = None  # which keep the store mapped
        if not self._is_kept:
            self._drop_roots()

    def _sealed_array(self) -> npt.NDArray[Any]:
        home = self._home
        if home is None:
            raise _messages.closed_buffer("Writer")
        pin = Pin(home)
        try:
            home.pin(self._slot, self._generation, pin)
            return pinned(home, pin, self._generation).array
        except BaseException:
            pin.give_back()
            raise


adopt_docs(Writer, _buffers.Writer)


def _octets_of(data: Any) -> npt.NDArray[np.uint8]:
    """The plain bytes of what has a contiguous buffer. TypeError, BufferError."""
    if isinstance(data, Exported):
        return data._require_open()[0]
    if isinstance(data, np.ndarray):  # also of a dtype that no format says
        if not data.flags.c_contiguous or data.dtype.hasobject:
            raise _messages.not_contiguous()
        return data.reshape(-1).view(np.uint8) if data.nbytes else _NOTHING
    if not isinstance(data, _buffers.PinnedBuffer):
        data = memoryview(data)
        if not data.c_contiguous:
            raise _messages.not_contiguous()
    return np.frombuffer(data, np.uint8) if data.nbytes else _NOTHING


def writer(home: Home, call: Any, may_shrink: bool) -> Writer:
    """A Writer over the block that the call took for it; from here on it is the Writer's to end."""
    slot, generation = call.slot, call.generation
    block = home.block(slot)
    root = writers_root(home, block)
    made = buffer_protocol.export(Writer, root, lambda: shaped(root, block, home.path))
    made._array = None
    made._end_once = [None]
    made._arrays, made._held, made._let_go = [], [], []
    made._is_sealed = False
    made._may_shrink = may_shrink
    made._call = call
    made._forks = here().forks
    made._take(home, slot, generation, block, root)
    made._is_kept = _FORWARDS  # nobody tells us whether somebody keeps it
    _open[id(made)] = weakref.ref(made)
    made._is_over = False
    return made
