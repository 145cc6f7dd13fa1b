"""Named objects of kind "bytes", for the modules that show a store as keys or files.

A name that has an object of another kind, or that no object can have, is as one that has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refstore import ObjectInfo, ObjectNotFoundError, ObjectRef, PinnedBuffer, Store

__all__ = ["any_below", "below", "delete", "find", "pin", "refs_below"]


def pin(store: Store, name: str) -> PinnedBuffer | None:
    """The pinned object of a name."""
    try:
        buf = store.get(name)
    except ObjectNotFoundError:
        return None
    except ValueError:
        if store.closed:
            raise
        return None  # too long for a name, or empty
    if buf.kind == "bytes":
        return buf
    buf.release()
    return None


def find(store: Store, name: str) -> ObjectInfo | None:
    """The description of a name's object, which is not pinned for it."""
    try:
        info = store.info(name)
    except ObjectNotFoundError:
        return None
    except ValueError:
        if store.closed:
            raise
        return None
    return info if info.kind == "bytes" else None


def below(store: Store, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
    """All whose names begin so, with their descriptions, in no order."""
    for info in store.objects(prefix):
        if info.kind == "bytes" and info.state == "live" and info.name is not None:
            yield info.name, info


def refs_below(store: Store, prefix: str) -> list[ObjectRef]:
    """Their refs."""
    return [info.ref for _, info in below(store, prefix) if info.ref is not None]


def any_below(store: Store, prefix: str) -> bool:
    """Whether there is one whose name begins so."""
    return any(find(store, name) is not None for name in store.names(prefix))


def delete(store: Store, name: str) -> bool:
    """Deletes the object that a name has, not one that another process gives it meanwhile.

    Returns whether there was one.
    """
    info = find(store, name)
    if info is None or info.ref is None:
        return False
    with contextlib.suppress(ObjectNotFoundError):  # deleted or replaced since the look above
        store.delete(info.ref)
    return True
