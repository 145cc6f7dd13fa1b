"""Values on their way between processes: their large buffers in a store, the rest as a pickle.

    Packing    pickles a value, and has a place found for each large buffer that it meets
    Parcel     what is sent in place of the value: a pickle, and refs
    unpack     the value again, over the objects or in memory of its own
    Result     a value that goes back to who asked for it

Whatever pickles its memory as buffers of protocol 5 (arrays of numpy, and with them frames of
pandas, Arrow and polars) is taken to pieces so. A pickle that is large by itself goes into the
store as a whole. What finds no room there stays in the pickle.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, Protocol

import numpy as np

from refstore._errors import StoreFullError
from refstore._handles import opened
from refstore._pickled import Reducer, Reducers, as_usual
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.payload import arrow, ndarrays

__all__ = [
    "Again",
    "Packing",
    "Parcel",
    "Pickler",
    "Result",
    "by_multiprocessing",
    "take",
    "unpack",
    "written",
]

COPIED = 16 << 20  # bytes of a result up to which a copy costs less than a private mapping
REMEMBERED = 16  # arrays with gaps of which the copy without them is kept
PATIENCE = 10.0  # seconds for which a process that ends waits until its results were taken
PAUSE = 0.001  # seconds between looks meanwhile


class Parcel(NamedTuple):
    """A value in a store: its pickle, or the object that has it, and its buffers in their order."""

    handle: bytes
    stream: bytes | ObjectRef
    buffers: list[ObjectRef]


def written(store: Store, pieces: Sequence[memoryview]) -> ObjectRef | None:
    """An object that has these bytes and is this process's; None if there is no room."""
    try:
        if len(pieces) == 1:
            return store.put(pieces[0], owned=True)
        with store.create(sum(piece.nbytes for piece in pieces), owned=True) as writer:
            at = 0
            for piece in pieces:
                writer.write_at(at, piece)
                at += piece.nbytes
    except StoreFullError:
        return None
    return writer.ref


# --- from a value to a parcel


class Again:
    """Arrays that may be packed again: those with gaps have to be copied before they are stored."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}

    def reduced(self, array: Any, reduce: Reducer) -> Any:
        """The same for the same array, as long as it is remembered."""
        known = self._made.get(id(array))
        if known is None:
            while len(self._made) >= REMEMBERED:
                del self._made[next(iter(self._made))]
            known = self._made[id(array)] = array, reduce(array)
        return known[1]


class Packing:
    """A value that is being packed; the file that its pickler writes to.

    Parameters:
        threshold: bytes from which on a buffer gets a place.
        place: puts pieces of memory into a store; the ref, or None if there is no room.
        again: those that were packed before, if any will be.
    """

    def __init__(
        self,
        threshold: int,
        place: Callable[[list[memoryview]], ObjectRef | None],
        again: Again | None = None,
    ) -> None:
        self._threshold, self._place, self._again = threshold, place, again
        self._pieces: list[memoryview] = []
        self._refs: list[ObjectRef] = []
        self._tables = arrow.Tables()

    def write(self, piece: bytes) -> None:
        self._pieces.append(memoryview(piece))

    def keep_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Tell a pickler whether a buffer belongs into the pickle."""
        raw = buffer.raw()
        ref = self._place([raw]) if raw.nbytes >= self._threshold else None
        if ref is None:
            return True
        self._refs.append(ref)
        return False

    def types(self, known: Mapping[type, Reducer]) -> dict[type, Reducer]:
        """The pickler's table of reducers, on top of what it knows."""
        return Reducers(known, lambda cls: known.get(cls) or self.reducer(cls))

    def reducer(self, cls: type) -> Reducer | None:
        """The reducer for a class of arrays or tables; None for other classes."""
        reduce = ndarrays.reducer(cls)
        if reduce is None:
            return self._tables.reducer(cls)

        def reduce_array(array: Any, reduce: Reducer = reduce) -> Any:
            # numpy's own way keeps a small array writable, whatever its order.
            if array.nbytes < self._threshold:
                return as_usual(array)
            if self._again is None or array.flags.forc:
                return reduce(array)
            return self._again.reduced(array, reduce)

        return reduce_array

    def parcel(self, handle: bytes) -> Parcel:
        """The parcel of all that was packed."""
        stream: bytes | ObjectRef | None = None
        if sum(piece.nbytes for piece in self._pieces) >= self._threshold:
            stream = self._place(self._pieces)
        return Parcel(handle, b"".join(self._pieces) if stream is None else stream, self._refs)


class _Dumps(Protocol):
    def dump(self, obj: Any, /) -> None: ...


Pickler = Callable[[Packing], _Dumps]  # makes one that writes into a packing


def by_multiprocessing(packing: Packing) -> ForkingPickler:
    """The pickler of multiprocessing's own queues."""
    file: Any = packing
    pickler = ForkingPickler(file, 5, True, packing.keep_in_band)
    known: Any = pickler.dispatch_table
    pickler.dispatch_table = packing.types(known)
    return pickler


# --- and back


def unpack(parcel: Parcel, view: Callable[[Store, ObjectRef], Any]) -> Any:
    """The value of a parcel.

    Parameters:
        parcel: the parcel.
        view: makes a buffer of an object: `shared`, `private` or `own`.
    """
    if not parcel.buffers and isinstance(parcel.stream, bytes):
        return pickle.loads(parcel.stream)
    store = opened(parcel.handle)
    buffers = [view(store, ref) for ref in parcel.buffers]
    if isinstance(parcel.stream, bytes):
        return pickle.loads(parcel.stream, buffers=buffers)
    with store.get(parcel.stream) as buf, memoryview(buf) as stream:
        return pickle.loads(stream, buffers=buffers)


def shared(store: Store, ref: ObjectRef) -> Any:
    """A read-only view of an object, which pins it."""
    return memoryview(store.get(ref))


def private(store: Store, ref: ObjectRef) -> Any:
    """A view of which this process gets those pages for itself that it writes to."""
    return memoryview(store.get(ref, writable=True))


def own(store: Store, ref: ObjectRef) -> Any:
    """Memory that may be written: a copy of what is not large, and of the rest a private view."""
    with store.get(ref) as buf:
        if buf.nbytes > COPIED:
            with contextlib.suppress(MemoryError):  # there can be only so many mappings
                return private(store, ref)
        return np.array(buf.array)


# --- results

_sent: list[tuple[Store, ObjectRef]] = []
_waits = 0  # pid of the process that is to wait at its end


class Result:
    """A value for the process that gave the task: pickled, it is the value when it has arrived.

    Its objects belong to this process until they were taken, and go with it if it is killed.
    """

    def __init__(self, value: Any, handle: bytes, threshold: int) -> None:
        self._value, self._handle, self._threshold = value, handle, threshold

    def send(self, pickler: Pickler) -> Parcel:
        """Put what is large into the store; nothing is left there if the value cannot be pickled.

        Errors: those of pickling.
        """
        store = opened(self._handle)
        refs: list[ObjectRef] = []

        def place(pieces: list[memoryview]) -> ObjectRef | None:
            ref = written(store, pieces)
            if ref is not None:
                refs.append(ref)
            return ref

        packing = Packing(self._threshold, place)
        try:
            pickler(packing).dump(self._value)
            parcel = packing.parcel(self._handle)
        except BaseException:
            store.delete_many(refs)
            raise
        if refs:
            _note([(store, ref) for ref in refs])
        return parcel

    def __reduce__(self) -> tuple[Any, ...]:
        return take, (self.send(by_multiprocessing),)


def take(parcel: Parcel) -> Any:
    """The value of a result, which is this process's own; what it lay in is deleted.

    Errors: ObjectNotFoundError, if its sender was killed.
    """
    refs = [*parcel.buffers, *([] if isinstance(parcel.stream, bytes) else [parcel.stream])]
    try:
        return unpack(parcel, own)
    finally:
        if refs:
            opened(parcel.handle).delete_many(refs)


def _note(sent: list[tuple[Store, ObjectRef]]) -> None:
    """See to it that this process, if it ends by itself, does so after these were taken."""
    global _waits
    if _waits != os.getpid():
        _waits = os.getpid()
        _sent.clear()  # of the process that forked this one
        # Children of multiprocessing run the first, from Python 3.13 on the second, and that before
        # stores let go of what was this process's: handlers of later date run first.
        util.Finalize(None, _wait_until_taken, exitpriority=0)
        atexit.register(_wait_until_taken)
    _sent[:] = [*_not_taken(), *sent]


def _not_taken() -> list[tuple[Store, ObjectRef]]:
    return [(store, ref) for store, ref in _sent if not store.closed and ref in store]


def _wait_until_taken() -> None:
    end = time.monotonic() + PATIENCE
    while _not_taken() and time.monotonic() < end:
        time.sleep(PAUSE)
