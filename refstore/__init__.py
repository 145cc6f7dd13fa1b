"""A same-machine shared-memory object store: zero-copy, pinned, no server.

with refstore.Store("train", capacity="1GiB") as store:
    ref = store.put(np.arange(1_000_000, dtype="f4"))
    with store.get(ref) as buf:
        print(buf.array.mean())
    store.delete(ref)
"""

from refstore import (
    _main_interpreter,  # noqa: F401  first: it raises in any other
    _unpickle,  # noqa: F401  pickle would lose what a signal raises as it imports
)
from refstore._buffers import PinnedBuffer, Writer
from refstore._errors import (
    GetTimeoutError,
    NodeLostError,
    ObjectExistsError,
    ObjectNotFoundError,
    RefstoreError,
    RefstoreWarning,
    StoreBusyError,
    StoreCorruptedError,
    StoreFullError,
    StoreVersionError,
    TopHolder,
)
from refstore._identity import label
from refstore._refs import ObjectRef
from refstore._reports import Holder, ObjectInfo, Recovery, StoreStats
from refstore._store import Store
from refstore.payload.serializers import register_serializer

__version__ = "0.1.0"  # of which pyproject.toml makes that of the package

__all__ = [
    "GetTimeoutError",
    "Holder",
    "NodeLostError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectRef",
    "PinnedBuffer",
    "Recovery",
    "RefstoreError",
    "RefstoreWarning",
    "Store",
    "StoreBusyError",
    "StoreCorruptedError",
    "StoreFullError",
    "StoreStats",
    "StoreVersionError",
    "TopHolder",
    "Writer",
    "label",
    "register_serializer",
]
