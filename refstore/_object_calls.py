"""The calls of a `Store` on single objects: signatures and documentation.

Their work is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, SupportsIndex

from refstore._addresses import address_of
from refstore._engine_calls import EngineCalls
from refstore._names import require_text
from refstore._refs import ObjectRef

if TYPE_CHECKING:
    import numpy.typing as npt

    from refstore._buffers import PinnedBuffer, Writer

__all__ = ["ObjectCalls"]


class ObjectCalls(EngineCalls):
    """The calls on single objects, for `Store`."""

    __slots__ = ()

    def put(
        self,
        obj: object,
        *,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
        meta: bytes = b"",
    ) -> ObjectRef:
        """Stores a copy of an object in shared memory.

        A put that fails leaves nothing behind.

        Parameters:
            obj: bytes, bytearray and memoryview are stored as bytes; exactly numpy.ndarray, of any
                shape and dtype without Python objects, as an array; anything else is pickled, with
                its buffers out of band.
            name: publishes the object under this name, 1 to 255 bytes of UTF-8; any process can
                get it by that.
            replace: an object that has the name is deleted, in one step with the publication.
            timeout: seconds to wait for space; None: for ever.
            owned: the object is deleted when this process closes the store, exits or dies.
            evictable: whether the object may be deleted when other objects need its space; None is
                what the store's `evict` says.
            meta: up to 65,536 bytes of the caller's own, which `buf.meta` shows.

        Returns:
            The object's ref, 16 bytes that any process can get it by.

        Errors:
            StoreFullError: no free extent is large enough, or max_objects are stored.
            ObjectExistsError: the name is taken, and `replace` is False.
            StoreBusyError: a process that is stopped has locked what this needs.
            TypeError, pickle.PicklingError: the object cannot be pickled.
            TypeError, ValueError: an argument is invalid, or the store is closed.

        Example:
            >>> ref = store.put(np.arange(4), name="numbers")
            >>> store.put(b"raw bytes", name="numbers", replace=True) == ref
            False
        """
        return self._base().put(
            obj,
            name=name,
            replace=replace,
            timeout=timeout,
            owned=owned,
            evictable=evictable,
            meta=meta,
        )

    def create(
        self,
        nbytes: SupportsIndex | None = None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None,
        dtype: npt.DTypeLike | None = None,
        order: Literal["C", "F"] = "C",
        header: bytes | None = None,
        name: str | None = None,
        replace: bool = False,
        claim: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
        meta: bytes = b"",
    ) -> Writer:
        """Allocates an object to be written in place; other processes see it once it is sealed.

        Parameters:
            nbytes: size in bytes of an object of kind "bytes". Give this or `shape`.
            shape: length, or lengths of the axes, of an object of kind "array".
            dtype: of the array's elements; float64 if it is not given.
            order: of the array's axes in memory: "C", the last is the fastest, or "F", the first.
            header: the `buf.header` of an object of any store, with its `nbytes`: what is sealed is
                that object again, of its kind, dtype, shape and order.
            name: the name under which the seal publishes it; checked here and at the seal.
            replace: the seal deletes an object that has the name.
            claim: the name is the caller's from now on: until the seal, the abort or the death of
                this process, others can neither put nor create an object of that name.
            timeout: seconds to wait for space; None: for ever.
            owned: the object is deleted when this process closes the store, exits or dies.
            evictable: whether the object may be deleted when other objects need its space; None is
                what the store's `evict` says.
            meta: up to 65,536 bytes of the caller's own, which `buf.meta` shows.

        Returns:
            A Writer over uninitialized memory. Leaving its `with` seals it.

        Errors:
            StoreFullError: no free extent is large enough, or max_objects are stored.
            ObjectExistsError: the name is taken, and `replace` is False; or it is claimed by the
                process `pid`.
            StoreBusyError: a process that is stopped has locked what this needs.
            TypeError: both or none of nbytes and shape are given, or the dtype holds objects.
            ValueError: a negative size, a bad name, a header that is none, or the store is closed.

        Example:
            >>> with store.create(shape=(2, 3), dtype="f4") as writer:
            ...     writer.array[:] = 1
            >>> writer.ref in store
            True
        """
        return self._base().create(
            nbytes,
            shape=shape,
            dtype=dtype,
            order=order,
            header=header,
            name=name,
            replace=replace,
            claim=claim,
            timeout=timeout,
            owned=owned,
            evictable=evictable,
            meta=meta,
        )

    def get(
        self, key: ObjectRef | str, *, timeout: float | None = 0, writable: bool = False
    ) -> PinnedBuffer:
        """Pins an object where it lies and returns a buffer over it; nothing is copied.

        Parameters:
            key: a ref, or the name of a published object.
            timeout: seconds to wait for the name to be published; None: for ever. A ref to what
                is deleted never waits.
            writable: makes a private copy-on-write view: what is written there stays in this
                process.

        Returns:
            A PinnedBuffer. The object's memory is not reused while it, or a view of it, lives.

        Errors:
            ObjectNotFoundError: it was deleted or never put, or the ref is of another store.
            GetTimeoutError: the name was not published in the time given.
            StoreFullError: the file system has no memory left for the table of pins.
            MemoryError: no address space is left for a private view.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(np.arange(4))
            >>> with store.get(ref) as buf:
            ...     int(buf.array.sum())
            6
        """
        return self._base().get(key, timeout=timeout, writable=writable)

    def delete(self, key: ObjectRef | str) -> None:
        """Deletes an object: no get finds it any more. Its space is free when the last pin goes.

        Parameters:
            key: a ref, or the name of a published object.

        Errors:
            ObjectNotFoundError: it was deleted or never put, or the ref is of another store.
            StoreBusyError: a process that is stopped has locked what this needs.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(b"x")
            >>> store.delete(ref)
            >>> ref in store
            False
        """
        self._base().delete(key)

    def refcount(self, key: ObjectRef | str) -> int:
        """Counts the references to a live object.

        Parameters:
            key: a ref, or the name of a published object.

        Returns:
            1 for the store's own reference, plus all pins in all processes.

        Errors:
            ObjectNotFoundError: it was deleted, even if it is still pinned, or never put.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(b"x")
            >>> with store.get(ref):
            ...     store.refcount(ref)
            2
        """
        return self._base().refcount(key)

    def ref(self, name: str) -> ObjectRef:
        """Looks up the ref of a published object, without pinning it.

        Parameters:
            name: the name that it was published under.

        Returns:
            The ref of the object that has the name at this moment.

        Errors:
            ObjectNotFoundError: nothing is published under the name.
            TypeError, ValueError: the name is invalid, or the store is closed.

        Example:
            >>> store.put(b"x", name="weights") == store.ref("weights")
            True
        """
        return self._base().ref(name)

    def names(self, prefix: str = "") -> list[str]:
        """Lists the names of all live objects that have one, in no order.

        Parameters:
            prefix: lists those that begin so.

        Returns:
            The names. Each was there while it was looked at.

        Errors:
            TypeError, ValueError: the prefix is not a str, or the store is closed.

        Example:
            >>> _ = store.put(b"x", name="weights")
            >>> store.names()
            ['weights']
        """
        return self._base().names(prefix)

    def clear(self, prefix: str = "") -> int:
        """Deletes all live objects whose names begin so; without a prefix, all live objects.

        Parameters:
            prefix: how the names begin; "" means all objects, those without names, too.

        Returns:
            How many it deleted.

        Errors:
            StoreBusyError: a process that is stopped has locked what this needs.
            TypeError, ValueError: the prefix is not a str, or the store is closed.

        Example:
            >>> _ = store.put_many([b"1", b"2"], names=["batch/1", "batch/2"])
            >>> store.clear("batch/")
            2
        """
        if require_text(prefix, "a prefix"):
            return self._base().delete_many(self._base().names(prefix))
        return self._base().delete_many(self._base().__iter__())

    def adopt(self, key: ObjectRef | str) -> None:
        """Makes this process the owner of an object, which is deleted when it leaves or dies.

        Parameters:
            key: a ref, or the name of a published object; whoever owns it.

        Errors:
            ObjectNotFoundError: it was deleted or never put, or the ref is of another store.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(b"x")
            >>> store.adopt(ref)
            >>> store.info(ref).owned
            True
        """
        self._base().adopt(key)

    def disown(self, key: ObjectRef | str) -> None:
        """Makes the store the owner of an object: it lives until it is deleted.

        Parameters:
            key: a ref, or the name of a published object; whoever owns it.

        Errors:
            ObjectNotFoundError: it was deleted or never put, or the ref is of another store.
            TypeError, ValueError: the key is neither a ref nor a valid name, or the store is
                closed.

        Example:
            >>> ref = store.put(b"x", owned=True)
            >>> store.disown(ref)
            >>> store.info(ref).owned
            False
        """
        self._base().disown(key)

    def ref_of(self, view: object) -> ObjectRef | None:
        """Finds the object in whose block an array, a tensor or a buffer lies.

        Parameters:
            view: anything with a buffer, an `__array_interface__` or a `data_ptr()`.

        Returns:
            Its ref, if this process pins it; else None: also for private copies, views of no bytes,
            and Writers that are open.

        Errors:
            TypeError: the view has no buffer.
            ValueError: the store is closed.

        Example:
            >>> ref = store.put(np.arange(4))
            >>> with store.get(ref) as buf:
            ...     store.ref_of(buf.array[1:]) == ref
            True
        """
        at = address_of(view)
        return None if at is None else self._base()._ref_at(*at)

    def trim(self) -> int:
        """Returns the memory of free space to the operating system.

        Returns:
            How many bytes it was; 0 where the file system cannot do that.

        Errors:
            StoreBusyError: a process that is stopped has locked what this needs.
            ValueError: the store is closed.

        Example:
            >>> store.trim() >= 0
            True
        """
        return self._base().trim()

    @property
    def closed(self) -> bool:
        """Whether close() was called.

        Example:
            >>> store.closed
            False
        """
        return self._base().closed

    def __contains__(self, key: ObjectRef | str, /) -> bool:
        """Whether a live object has this ref or name."""
        return self._base().__contains__(key)

    def __len__(self) -> int:
        """Number of live objects."""
        return self._base().__len__()

    def __bool__(self) -> bool:
        """True, however empty it is: `store or Store(...)` makes no other."""
        return True

    def __iter__(self) -> Iterator[ObjectRef]:
        """Refs of the live objects, those without a name included."""
        return self._base().__iter__()

    def __getitem__(self, name: str) -> PinnedBuffer:
        """`get(name)`."""
        return self.get(_require_no_ref(name))

    def __setitem__(self, name: str, obj: object) -> None:
        """`put(obj, name=name, replace=True)`."""
        self.put(obj, name=require_text(_require_no_ref(name)), replace=True)

    def __delitem__(self, name: str) -> None:
        """`delete(name)`."""
        self.delete(_require_no_ref(name))


def _require_no_ref(name: str) -> str:
    """`name`, unless it is a ref, which `store[...]` does not take: TypeError."""
    if isinstance(name, ObjectRef):
        raise TypeError("store[...] takes a name: for a ref, use get(ref) and delete(ref)")
    return name
