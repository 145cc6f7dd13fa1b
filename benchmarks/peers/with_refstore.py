"""refstore itself, through the same protocol as the others."""

from importlib.metadata import version
from typing import Any

import refstore
from benchmarks.peers.protocol import Key, Peer, Writer


class Store(Peer):
    copies = "1, 0"
    limits = "the interpreter; for large objects memory bandwidth"
    full = (refstore.StoreFullError,)

    def __init__(self, store: refstore.Store) -> None:
        self.store = store
        # No call of the adapter's own stands between the loop and the store.
        self.put, self.get, self.delete = store.put, store.get, store.delete

    @classmethod
    def version(cls) -> str:
        return version("refstore")

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        return cls(refstore.Store.temporary(capacity))

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        return cls(handle)  # unpickling it has attached

    def handle(self) -> Any:
        return self.store

    def close(self) -> None:
        self.store.close()

    def writer(self, nbytes: int) -> Writer:
        return _Writer(self.store, nbytes)


class _Writer(Writer):
    def __init__(self, store: refstore.Store, nbytes: int) -> None:
        self._writer = store.create(nbytes)

    def __enter__(self) -> Any:
        return self._writer

    def __exit__(self, *exception: Any) -> None:
        self._writer.__exit__(*exception)
        self.key = self._writer.ref


class Cold(Store):
    """refstore, with each put into fresh pages."""

    cannot = dict.fromkeys(("get", "delete"), "as refstore's")

    def __init__(self, store: refstore.Store) -> None:
        super().__init__(store)
        self.delete = self._forget

    def _forget(self, key: Key) -> None:
        self.store.delete(key)
        self.store.trim()
