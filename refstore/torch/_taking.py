"""Objects that are taken from a message once.

A message has a store's handle and the ref of an object that the sender owns. Whoever reads the
message pins the object and deletes it: its memory is free when the last view of it goes, and if
the sender dies before, the object goes with it.
"""

from __future__ import annotations

import contextlib

from refstore._buffers import PinnedBuffer
from refstore._errors import ObjectNotFoundError
from refstore._handles import opened
from refstore._refs import ObjectRef

__all__ = ["taken"]


def taken(handle: bytes, ref: ObjectRef) -> PinnedBuffer:
    """The object of a message, in a private view that can be written; nobody else finds it now."""
    store = opened(handle)
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
