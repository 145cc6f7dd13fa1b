"""The calls of a `Store` on many objects at once: signatures and documentation.

Their work is the engine's, as that of `_object_calls`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from refstore._engine_calls import EngineCalls

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer
    from refstore._refs import ObjectRef

__all__ = ["BatchCalls"]


class BatchCalls(EngineCalls):
    """The calls on many objects at once, for `Store`."""

    __slots__ = ()

    def put_many(
        self,
        objs: Iterable[object],
        *,
        names: Iterable[str] | None = None,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> list[ObjectRef]:
        """Stores copies of many objects, faster than by as many puts.

        All are copied before the first is published. What fails until then leaves nothing behind;
        a failure after it leaves those that are published already.

        Parameters:
            objs: the objects, each as of put().
            names: a name for each; None: they have none.
            replace: objects that have the names are deleted.
            timeout: seconds to wait for space, for all of them together; None: for ever.
            owned: as of put(), for all.
            evictable: the same.

        Returns:
            The refs, in the order of the objects.

        Errors:
            StoreFullError: there is no space for all of them.
            ObjectExistsError: a name is taken, and `replace` is False; `refs` lists those that are
                published already.
            ValueError: the names are not as many as the objects, or one is invalid or is there
                twice, or the store is closed.
            TypeError, pickle.PicklingError: an object cannot be pickled.

        Example:
            >>> refs = store.put_many([b"1", b"2"], names=["one", "two"])
            >>> store.ref("two") == refs[1]
            True
        """
        return self._base().put_many(
            objs,
            names=names,
            replace=replace,
            timeout=timeout,
            owned=owned,
            evictable=evictable,
        )

    def get_many(
        self,
        keys: Iterable[ObjectRef | str],
        *,
        timeout: float | None = 0,
        writable: bool = False,
    ) -> list[PinnedBuffer]:
        """Pins many objects, all or none, faster than by as many gets.

        Parameters:
            keys: refs or names.
            timeout: seconds to wait for names, for all of them together; None: for ever.
            writable: as of get(), for all.

        Returns:
            A PinnedBuffer for each key, in the order of the keys.

        Errors:
            ObjectNotFoundError: one is not there; nothing is pinned.
            GetTimeoutError: a name was not published in that time; nothing is pinned.
            TypeError, ValueError: a key is neither a ref nor a valid name, or the store is closed.

        Example:
            >>> refs = store.put_many([b"1", b"2"])
            >>> [bytes(buf) for buf in store.get_many(refs)]
            [b'1', b'2']
        """
        return self._base().get_many(keys, timeout=timeout, writable=writable)

    def delete_many(self, keys: Iterable[ObjectRef | str]) -> int:
        """Deletes those of many objects that are there.

        Parameters:
            keys: refs or names.

        Returns:
            How many were there.

        Errors:
            StoreBusyError: a process that is stopped has locked what this needs.
            TypeError, ValueError: a key is neither a ref nor a valid name, or the store is closed.

        Example:
            >>> refs = store.put_many([b"1", b"2"])
            >>> store.delete_many([*refs, "no such name"])
            2
        """
        return self._base().delete_many(keys)
