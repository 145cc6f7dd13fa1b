"""The calls of a `Store` that wait for other processes: signatures and documentation.

Their work is the engine's, as that of `_object_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, SupportsIndex

from refstore._engine_calls import EngineCalls

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer
    from refstore._refs import ObjectRef

__all__ = ["WaitingCalls"]


class WaitingCalls(EngineCalls):
    """The calls that wait, for `Store`."""

    __slots__ = ()

    def get_or_put(
        self,
        name: str,
        factory: Callable[[], object],
        *,
        timeout: float | None = None,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> PinnedBuffer:
        """Returns the object that has a name, which one caller on the machine makes if need be.

        Of all threads and processes that ask at the same time, one runs its factory and puts what
        it returns; the others wait for that. If a factory raises, its own caller gets the
        exception, and another caller's factory runs; the same if its process dies.

        Parameters:
            name: the name, 1 to 255 bytes of UTF-8.
            factory: makes the object; called without arguments, and without any lock held.
            timeout: seconds to wait for another caller's factory, and for space; None: for ever.
            owned: as of put(), if this caller makes the object.
            evictable: the same.

        Returns:
            A PinnedBuffer over the object that has the name.

        Errors:
            GetTimeoutError: another caller's factory has not finished; `pid` is its process.
            RefstoreError: a factory asks for its own name, or for one whose factory waits for this
                one.
            StoreFullError: there is no space for what the factory returned.
            Exception: whatever the factory raises, or what put() raises of what it returned.
            TypeError, ValueError: the name or the timeout is invalid, or the store is closed.

        Example:
            >>> with store.get_or_put("table", lambda: np.ones(3)) as buf:
            ...     buf.array
            array([1., 1., 1.])
        """
        return self._base().get_or_put(
            name, factory, timeout=timeout, owned=owned, evictable=evictable
        )

    def wait(
        self, name: str, *, newer_than: ObjectRef | None = None, timeout: float | None = None
    ) -> PinnedBuffer:
        """Waits until a name has an object other than the one that the caller knows.

        Versions that were replaced before this looked are passed over: the result is the latest.

        Parameters:
            name: the name.
            newer_than: the ref of the object that is known; None waits for any object.
            timeout: seconds to wait; None: for ever.

        Returns:
            A PinnedBuffer over the object that has the name.

        Errors:
            GetTimeoutError: the name has no object, or still that one.
            RefstoreError: the store's file was removed, and no other process is attached.
            TypeError, ValueError: an argument is invalid, or the store is closed.

        Example:
            >>> first = store.put(b"1", name="weights")
            >>> _ = store.put(b"2", name="weights", replace=True)
            >>> with store.wait("weights", newer_than=first) as buf:
            ...     bytes(buf)
            b'2'
        """
        return self._base().wait(name, newer_than=newer_than, timeout=timeout)

    def wait_any(
        self, names: Iterable[str], *, count: SupportsIndex = 1, timeout: float | None = None
    ) -> list[str]:
        """Waits until some of several names have objects.

        Parameters:
            names: the names, any number of them.
            count: how many of them must have objects; 1 to len(names).
            timeout: seconds to wait; None: for ever.

        Returns:
            Those that have objects, at least `count`, in the order given.

        Errors:
            GetTimeoutError: fewer have; `ready` lists those that do.
            RefstoreError: the store's file was removed, and no other process is attached.
            TypeError, ValueError: an argument is invalid, or the store is closed.

        Example:
            >>> _ = store.put(b"x", name="b")
            >>> store.wait_any(["a", "b"])
            ['b']
        """
        return self._base().wait_any(names, count=count, timeout=timeout)
