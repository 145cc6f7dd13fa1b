"""The client of `pyarrow.plasma`, which Arrow had until version 11, on a store without a server.

from refstore import plasma                     # was: from pyarrow import plasma

client = plasma.connect("plasma", capacity="1GB")
object_id = client.put(array)
client.get(object_id)
"""

from __future__ import annotations

import contextlib
import os
import time

from refstore._extras import missing_extra
from refstore._store import Store

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise missing_extra(__name__, "arrow", error) from error

from refstore.plasma.client import PlasmaClient
from refstore.plasma.ids import (
    ObjectID,
    ObjectNotAvailable,
    PlasmaObjectExists,
    PlasmaObjectNotFound,
    PlasmaStoreFull,
)
from refstore.plasma.server import start_plasma_store

__all__ = [
    "ObjectID",
    "ObjectNotAvailable",
    "PlasmaClient",
    "PlasmaObjectExists",
    "PlasmaObjectNonexistent",
    "PlasmaObjectNotFound",
    "PlasmaStoreFull",
    "connect",
    "start_plasma_store",
]

RETRIES = 50
DELAY = 0.1  # seconds between two; a store that somebody is about to make cannot be waited for

PlasmaObjectNonexistent = PlasmaObjectNotFound  # its name before Arrow 0.15


def connect(
    store_socket_name: str | os.PathLike[str],
    num_retries: int = -1,
    *,
    capacity: int | str | None = None,
) -> PlasmaClient:
    """Connects to a store.

    Parameters:
        store_socket_name: the store's name or path, as of `Store()`.
        num_retries: how often to look for it, a tenth of a second apart; -1: 50 times.
        capacity: makes the store if there is none: bytes of payload, or text such as "1GB". It
            evicts what was not used for longest.

    Returns:
        The client.

    Errors:
        FileNotFoundError: there is no such store, and no capacity was given.
        ValueError: the store is there, and has another capacity, or does not evict that way.
        OSError, RefstoreError: as of `Store()`.

    Example:
        >>> from refstore import plasma
        >>> plasma.connect(store.path).store_capacity() == store.capacity
        True
    """
    if capacity is not None:
        return PlasmaClient(Store(store_socket_name, capacity=capacity, evict="lru"))
    for _ in range((RETRIES if num_retries < 0 else num_retries) - 1):
        with contextlib.suppress(FileNotFoundError):
            return PlasmaClient(Store(store_socket_name, create=False))
        time.sleep(DELAY)
    return PlasmaClient(Store(store_socket_name, create=False))


for _name in __all__:
    globals()[_name].__module__ = __name__  # by which pickles name it, and people
