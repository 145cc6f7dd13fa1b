"""`RefstoreStore`: a store of shared memory as a store of zarr (zarr-python 3).

    group = zarr.open_group(RefstoreStore(refstore.Store("data")), mode="a")

Each key is the name of an object of kind "bytes", so chunks lie in shared memory as zarr encodes
them, and every process on the machine decodes them from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from refstore import ObjectExistsError, _byte_objects, aio
from refstore import Store as ObjectStore
from refstore._extras import missing_extra

try:
    from zarr.abc.store import (
        ByteRequest,
        OffsetByteRequest,
        RangeByteRequest,
        Store,
        SuffixByteRequest,
    )
    from zarr.core.buffer import Buffer, BufferPrototype, cpu, default_buffer_prototype
except ImportError as error:
    raise missing_extra(__name__, "zarr", error) from error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RefstoreStore"]

LOOKS = 64  # children whose objects are looked up one by one, before a listing is the faster way
BATCH = 1000  # objects that are deleted before other tasks have their turn


class RefstoreStore(Store):
    """The "bytes" objects of a store that have names, as keys and values of zarr.

    A value that is read is the object's memory itself, read-only and pinned as long as zarr keeps
    it: nothing is copied before it is decoded. A value that is set is copied into the store, and
    takes the place of the earlier one in one step: a reader in another process sees one or the
    other. A value of 1 MiB and more is copied by a thread, so that the event loop goes on.

    A key has at most 255 bytes of UTF-8. Objects of other kinds are no keys: they are not listed,
    read or deleted. Setting a key of whose name there is one replaces it.

    It pickles as the store and `read_only`: another process attaches to the same store. Closing it
    does not close `store`.

    Parameters:
        store: the `refstore.Store`, which stays open as long as this is used.
        read_only: whether setting and deleting keys is a ValueError.

    Errors:
        TypeError: `store` is no `refstore.Store`.
        StoreFullError: there is no space for a value.
        ObjectExistsError: another process has claimed the name of a key that is to be set.
        ValueError: a key to be set makes no valid name, or the store is closed.

    Example:
        >>> import zarr
        >>> from refstore.zarr import RefstoreStore
        >>> with refstore.Store.temporary("1MiB") as store:
        ...     array = zarr.create_array(RefstoreStore(store), shape=4, chunks=2, dtype="i4")
        ...     array[:] = [1, 2, 3, 4]
        ...     sorted(store.names()), int(zarr.open_array(RefstoreStore(store))[2])
        (['c/0', 'c/1', 'zarr.json'], 3)
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def __init__(self, store: ObjectStore, *, read_only: bool = False) -> None:
        if not isinstance(store, ObjectStore):
            raise TypeError(
                f"RefstoreStore is made of a refstore.Store, not of {type(store).__name__}: give "
                "it refstore.Store(name)"
            )
        super().__init__(read_only=read_only)
        self._store = store
        self._path = store.path  # which a closed store does not tell any more

    @property
    def store(self) -> ObjectStore:
        """The `refstore.Store` that has the objects.

        Example:
            >>> from refstore.zarr import RefstoreStore
            >>> RefstoreStore(store).store is store
            True
        """
        return self._store

    def with_read_only(self, read_only: bool = False) -> Self:
        """Another one of the same store.

        Parameters:
            read_only: whether that one can be read only.

        Example:
            >>> from refstore.zarr import RefstoreStore
            >>> RefstoreStore(store).with_read_only(True).read_only
            True
        """
        return type(self)(self._store, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, type(self))
            and self._path == other._path
            and self.read_only == other.read_only
        )

    def __str__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, read_only={self.read_only})"

    # --- one key

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The value of a key, or a range of it, as `get()`."""
        buf = _byte_objects.pin(self._store, key)
        if buf is None:
            return None
        with buf:
            octets = buf.array
        start, stop = _bounds(byte_range, octets.size)
        value = cpu.Buffer(octets[start:stop])
        return (prototype or default_buffer_prototype()).buffer.from_buffer(value)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The value of a key, or a range of it, over the pinned memory of its object."""
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """The ranges of the values, None for keys that there are not."""
        return [
            self.get_sync(key, prototype=prototype, byte_range=byte_range)
            for key, byte_range in key_ranges
        ]

    def set_sync(self, key: str, value: Buffer) -> None:
        """Gives a key its value, as `set()`; copies in the calling thread."""
        self._check_writable()
        self._store.put(_octets(value), name=key, replace=True)

    async def set(self, key: str, value: Buffer) -> None:
        """Gives a key its value; an earlier one is replaced in one step."""
        self._check_writable()
        await aio.put(self._store, _octets(value), name=key, replace=True)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Gives a key its value, unless its name has an object; of several processes one does."""
        self._check_writable()
        try:
            await aio.put(self._store, _octets(value), name=key)
        except ObjectExistsError as error:
            if error.pid is not None:  # somebody writes it: there may be no value for long
                raise

    def delete_sync(self, key: str) -> None:
        """Deletes a key, as `delete()`."""
        self._check_writable()
        _byte_objects.delete(self._store, key)

    async def delete(self, key: str) -> None:
        """Deletes a key, if it is there."""
        self.delete_sync(key)

    async def exists(self, key: str) -> bool:
        """Whether a key has a value."""
        return _byte_objects.find(self._store, key) is not None

    async def getsize(self, key: str) -> int:
        """Bytes of a key's value. Errors: FileNotFoundError."""
        info = _byte_objects.find(self._store, key)
        if info is None:
            raise FileNotFoundError(key)
        return info.nbytes

    # --- many keys: listings take time in a store of many objects, so a thread makes them

    async def list(self) -> AsyncIterator[str]:
        """All keys that are there as it begins."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with a text."""
        for key in await asyncio.to_thread(self._keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The first parts, up to a "/", of what follows a prefix and a "/" in all keys."""
        for child in await asyncio.to_thread(self._children, _folder(prefix)):
            yield child

    async def is_empty(self, prefix: str) -> bool:
        """Whether no key is below a prefix."""
        return not await asyncio.to_thread(_byte_objects.any_below, self._store, _folder(prefix))

    async def getsize_prefix(self, prefix: str) -> int:
        """Bytes of all values below a prefix."""
        return await asyncio.to_thread(self._nbytes_below, _folder(prefix))

    async def delete_dir(self, prefix: str) -> None:
        """Deletes all keys below a prefix that are there as it begins."""
        self._check_writable()
        refs = await asyncio.to_thread(_byte_objects.refs_below, self._store, _folder(prefix))
        for start in range(0, len(refs), BATCH):
            self._store.delete_many(refs[start : start + BATCH])
            await asyncio.sleep(0)

    def _nbytes_below(self, folder: str) -> int:
        return sum(info.nbytes for _, info in _byte_objects.below(self._store, folder))

    def _keys(self, prefix: str) -> Iterable[str]:
        return [name for name, _ in _byte_objects.below(self._store, prefix)]

    def _children(self, folder: str) -> Iterable[str]:
        found, looks = set[str](), 0
        for name in self._store.names(folder):
            child = _child(name, folder)
            if child in found:
                continue
            if looks == LOOKS:
                return {_child(key, folder) for key in self._keys(folder)}
            looks += 1
            if _byte_objects.find(self._store, name) is not None:
                found.add(child)
        return found


def _folder(prefix: str) -> str:
    """Beginning of the keys below a prefix."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _child(name: str, folder: str) -> str:
    return name[len(folder) :].partition("/")[0]


def _octets(value: Buffer) -> memoryview:
    """A view of the bytes of a value that is to be set. Errors: TypeError."""
    if not isinstance(value, Buffer):
        raise TypeError(f"a value is a zarr Buffer, not {type(value).__name__}")
    return memoryview(value.as_buffer_like())


def _bounds(byte_range: ByteRequest | None, nbytes: int) -> tuple[int, int]:
    """Start and end of a range in so many bytes, as a slice takes them. Errors: TypeError."""
    if byte_range is None:
        return 0, nbytes
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, byte_range.end
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, nbytes
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, nbytes - byte_range.suffix), nbytes
    raise TypeError(
        f"Unexpected byte_range, got {byte_range!r}: give a RangeByteRequest, an OffsetByteRequest "
        "or a SuffixByteRequest"
    )
