"""Stores by what messages name them by, and objects that are taken from a message once.

A message has a store's pickle, the same bytes each time, and the ref of an object that the sender
owns. Whoever reads the message pins the object and deletes it: its memory is free when the last
view of it goes, and if the sender dies before, the object goes with it.
"""

from __future__ import annotations

import contextlib
import pickle
import weakref

from refstore._buffers import PinnedBuffer
from refstore._errors import ObjectNotFoundError
from refstore._refs import ObjectRef
from refstore._store import Store

__all__ = ["forget", "handle_of", "taken"]

KEPT = 8  # stores that a process keeps open only since it has read messages about them

_known: weakref.WeakValueDictionary[bytes, Store] = weakref.WeakValueDictionary()
_kept: list[Store] = []


def handle_of(store: Store) -> bytes:
    """Names a store to other processes of this machine."""
    handle = pickle.dumps(store)
    _known[handle] = store
    return handle


def _attached(handle: bytes) -> Store:
    store = _known.get(handle)
    if store is None or store.closed:
        opened: Store = pickle.loads(handle)
        _known[handle] = store = opened
        _kept.append(store)
        while len(_kept) > KEPT:
            _kept.pop(0).close()
    return store


def forget() -> None:
    """Closes the stores that are open only since messages were read."""
    while _kept:
        _kept.pop().close()


def taken(handle: bytes, ref: ObjectRef) -> PinnedBuffer:
    """The object of a message, in a private view that can be written; nobody else finds it now."""
    store = _attached(handle)
    try:
        buf = store.get(ref, writable=True)
    except ObjectNotFoundError:
        raise ObjectNotFoundError(
            f"the tensors of this message, object {ref!r} in store {store.path!r}, are gone: the "
            "process that sent them was killed before they were read, or has called uninstall(), "
            "or somebody has read the message already; send them again",
            key=ref,
        ) from None
    with contextlib.suppress(ObjectNotFoundError):
        store.delete(ref)
    return buf
