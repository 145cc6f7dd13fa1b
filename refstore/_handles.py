"""Handles by which messages between processes name stores."""

from __future__ import annotations

import os
import pickle
import weakref

from refstore._store import Store

__all__ = ["forget", "handle_of", "opened"]

_lent: weakref.WeakValueDictionary[bytes, Store] = weakref.WeakValueDictionary()
_opened: dict[bytes, Store] = {}


def handle_of(store: Store, *, alone: bool = False) -> bytes:
    """Names a store to other processes of this machine, and to this one.

    Parameters:
        alone: whether it finds this very `Store` here, and no other one of the same file.
    """
    handle = pickle.dumps((os.urandom(8) if alone else b"", store))
    _lent[handle] = store
    return handle


def opened(handle: bytes) -> Store:
    """The store of a handle, which stays open in this process as long as its file is there."""
    store = _lent.get(handle)
    if store is None:
        store = _opened.get(handle)
    if store is None or store.closed:
        for other, known in list(_opened.items()):
            if known.closed or not os.path.exists(known.path):
                _opened.pop(other, None)
        _, store = pickle.loads(handle)
        _opened[handle] = store
    return store


def forget() -> None:
    """Lets go of the stores that are open only since messages were read."""
    _opened.clear()
