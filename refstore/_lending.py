"""Large arguments of tasks, lent by the process that gives these away, and each put once.

An object is there as long as a call that uses it is under way, and belongs to the process that
gave the call; so it goes when the last of these calls has its result, was cancelled or has failed,
or when that process is killed.

The same memory in several calls is put once while it is there: in calls of one `Together`, which
says so of them, whatever became of the memory meanwhile; in others if it still has the same bytes.
What one of those calls used stays till the next of them is sent, however soon it is done.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from typing import Any, TypeVar

from refstore._comparing import are_equal
from refstore._errors import ObjectNotFoundError
from refstore._handles import handle_of
from refstore._parcels import (
    Again,
    Packing,
    Parcel,
    Pickler,
    Result,
    private,
    shared,
    unpack,
    written,
)
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.payload.frames import base_address

__all__ = ["Arrived", "Call", "Lender", "Together"]

R = TypeVar("R", bound=Result)


class Together:
    """Calls that are to see the same memory as it was when the first of them was sent."""

    def __init__(self) -> None:
        self.again = Again()
        self.calls = 0  # under way, or to be sent
        self.last: list[_Copy] = []  # that the one sent last has used


class _Copy:
    """An object that has what lay in this process's memory."""

    __slots__ = ("holds", "key", "ref", "together", "view")

    def __init__(
        self, ref: ObjectRef, key: tuple[int, int] | None, view: memoryview | None, together: Any
    ) -> None:
        self.ref, self.key, self.together = ref, key, together
        self.view = view  # as long as it is here, nothing else comes to lie at that address
        self.holds = 1  # calls that use it


class Lender:
    """A store for the calls of one executor.

    Parameters:
        store: where to; None makes a temporary one, which goes when all is done.
    """

    def __init__(self, store: Store | None) -> None:
        # A Store of its own: its user may close the other one before the last call is done.
        mine = Store.temporary() if store is None else pickle.loads(pickle.dumps(store))
        self.store: Store = mine
        self.handle = handle_of(mine, alone=True)
        self._lock = threading.Lock()
        self._copies: dict[tuple[int, int], _Copy] = {}
        self._calls = 0
        self._closing = False

    def begin(self, call: Call) -> None:
        """Count a call that is under way."""
        with self._lock:
            self._calls += 1
            if call.together is not None:
                call.together.calls += 1

    def pack(self, call: Call) -> Parcel:
        """Put what is large of a call.

        Errors: those of pickling.
        """
        together = call.together

        def place(pieces: list[memoryview]) -> ObjectRef | None:
            return self._place(call, pieces)

        again = None if together is None else together.again
        packing = Packing(call.threshold, place, again)
        call.pickler(packing).dump(call.value)
        parcel = packing.parcel(self.handle)
        if together is not None:
            self._keep_last(together, call)
        return parcel

    def _place(self, call: Call, pieces: list[memoryview]) -> ObjectRef | None:
        key = (base_address(pieces[0]), pieces[0].nbytes) if len(pieces) == 1 else None
        copy = self._found(call, key, pieces[0]) if key else None
        if copy is None:
            ref = written(self.store, pieces)
            if ref is None:
                return None
            view = pieces[0] if key and call.together else None
            copy = _Copy(ref, key, view, call.together)
            with self._lock:
                if key:
                    self._copies[key] = copy
        with self._lock:
            is_over = call.copies is None
            if call.copies is not None:
                call.copies.append(copy)
        if is_over:  # such as when its executor has broken down meanwhile
            self._let_go(copy)
        return copy.ref

    def _found(self, call: Call, key: tuple[int, int], view: memoryview) -> _Copy | None:
        with self._lock:
            copy = self._copies.get(key)
            if copy is None:
                return None
            copy.holds += 1
        if call.together is not None and copy.together is call.together:
            return copy
        with contextlib.suppress(ObjectNotFoundError), self.store.get(copy.ref) as buf:
            if are_equal(view, memoryview(buf)):
                return copy
        self._let_go(copy)
        return None

    def _keep_last(self, together: Together, call: Call) -> None:
        with self._lock:
            if call.copies is None:
                return
            before, together.last = together.last, list(call.copies)
            for copy in together.last:
                copy.holds += 1
        for copy in before:
            self._let_go(copy)

    def _let_go(self, copy: _Copy) -> None:
        with self._lock:
            copy.holds -= 1
            if copy.holds:
                return
            if copy.key and self._copies.get(copy.key) is copy:
                del self._copies[copy.key]
        with contextlib.suppress(ObjectNotFoundError, ValueError):  # somebody cleared the store
            self.store.delete(copy.ref)

    def end(self, call: Call) -> None:
        """Let go of what a call has used; a second time does nothing."""
        with self._lock:
            copies, call.copies = call.copies, None
            if copies is None:
                return
            together = call.together
            call.value = call.together = None  # the future that knows of the call may live on
            if together is not None:
                together.calls -= 1
                if not together.calls:
                    copies += together.last
                    together.last = []
        for copy in copies:
            self._let_go(copy)
        with self._lock:
            self._calls -= 1
            is_last = self._closing and not self._calls
        if is_last:
            self.store.close()

    def close(self) -> None:
        """Close the store when the last call is done."""
        with self._lock:
            self._closing = True
            is_last = not self._calls
        if is_last:
            self.store.close()


class Call:
    """A value for another process; pickled, it arrives there as an `Arrived`.

    Parameters:
        lender: who lends what is large of it.
        value: the value.
        pickler: how it is pickled.
        threshold: bytes from which on a buffer is large.
        writable: whether the other process may write to it, for itself.
        together: those that it is one of.
    """

    def __init__(
        self,
        lender: Lender,
        value: Any,
        *,
        pickler: Pickler,
        threshold: int,
        writable: bool = False,
        together: Together | None = None,
    ) -> None:
        self.value, self.pickler, self.together = value, pickler, together
        self.threshold, self.writable = threshold, writable
        self.copies: list[_Copy] | None = []
        self._lender = lender
        lender.begin(self)

    def end(self, _: object = None) -> None:
        """The call is done, however that came about."""
        self._lender.end(self)

    def open(self) -> Any:
        """The value, in a forked child, to which it was never sent."""
        return self.value

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrived, (self._lender.pack(self), self.threshold, self.writable)


class Arrived:
    """A call in the process that is to run it."""

    def __init__(self, parcel: Parcel, threshold: int, writable: bool) -> None:
        self._parcel, self._threshold, self._writable = parcel, threshold, writable

    def open(self) -> Any:
        """The value.

        Errors: those of unpickling; ObjectNotFoundError if nobody waits for it any more.
        """
        return unpack(self._parcel, private if self._writable else shared)

    def result(self, value: Any, kind: type[R]) -> R:
        """The answer, which goes by the same store."""
        return kind(value, self._parcel.handle, self._threshold)
