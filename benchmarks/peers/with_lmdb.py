"""LMDB on a memory file system, without any waiting for a disk."""

import os
from contextlib import AbstractContextManager
from typing import Any

import lmdb

from benchmarks.peers.protocol import Key, Peer, View


class Store(Peer):
    copies = "1, 0"
    settings = "in /dev/shm, writemap, nosync, nometasync"
    limits = "one writer at a time, copying included; readers keep every page freed after them"
    full = (lmdb.MapFullError,)

    def __init__(self, folder: str, capacity: int, process: int) -> None:
        self._where = folder, capacity
        self._prefix = process.to_bytes(4, "big")
        self._puts = 0
        self._begin: Any = self._open(folder, capacity)

    def _open(self, folder: str, capacity: int) -> Any:
        self._env = lmdb.open(
            folder,
            map_size=capacity,
            writemap=True,
            sync=False,
            metasync=False,
            readahead=False,
            max_readers=512,
        )
        return self._env.begin

    @classmethod
    def version(cls) -> str:
        return f"{lmdb.__version__} (library {'.'.join(map(str, lmdb.version()))})"

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        return cls(folder, capacity, 0)

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        folder, capacity = handle
        return cls(folder, capacity, os.getpid())

    def handle(self) -> Any:
        return self._where

    def close(self) -> None:
        self._env.close()

    def put(self, data: bytes) -> Key:
        self._puts += 1
        key = self._prefix + self._puts.to_bytes(8, "big")
        with self._begin(write=True) as transaction:
            transaction.put(key, data)
        return key

    def get(self, key: Key) -> AbstractContextManager[View]:
        return _Read(self._begin(buffers=True), key)

    def delete(self, key: Key) -> None:
        with self._begin(write=True) as transaction:
            transaction.delete(key)

    def reclaim(self) -> None:
        self._env.reader_check()
        # Freed pages can be had from the second transaction on.
        self.delete(self.put(b"x"))


class _Read:
    """A read transaction, for as long as the view is wanted."""

    __slots__ = ("_key", "_transaction")

    def __init__(self, transaction: Any, key: Key) -> None:
        self._transaction = transaction
        self._key = key

    def __enter__(self) -> View:
        return self._transaction.get(self._key)

    def __exit__(self, *exception: object) -> None:
        self._transaction.abort()
