"""Objects as plain bytes, as modules beside other libraries show them: as keys or files.

Those are the named ones of kind "bytes": a name that has an object of another kind, or that no
object can have, is as one that has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from refstore import ObjectInfo, ObjectNotFoundError, ObjectRef, PinnedBuffer, Store

__all__ = ["any_below", "below", "delete", "find", "octets_of", "pin", "refs_below"]

T = TypeVar("T")


def octets_of(buf: PinnedBuffer) -> memoryview:
    """A pinned object's payload in storage order, whatever its kind."""
    view: Any = buf  # of which numpy asks plain bytes, and has them, whatever the order of axes
    return np.frombuffer(view, np.uint8).data if buf.nbytes else memoryview(b"")


def pin(store: Store, name: str) -> PinnedBuffer | None:
    """The pinned object of a name."""
    buf = _looked_up(store, store.get, name)
    if buf is None or buf.kind == "bytes":
        return buf
    buf.release()
    return None


def find(store: Store, name: str) -> ObjectInfo | None:
    """The description of a name's object, which is not pinned for it."""
    info = _looked_up(store, store.info, name)
    return info if info is not None and info.kind == "bytes" else None


def _looked_up(store: Store, call: Callable[[str], T], name: str) -> T | None:
    try:
        return call(name)
    except ObjectNotFoundError:
        return None
    except ValueError:
        if store.closed:
            raise
        return None  # too long for a name, or empty


def below(store: Store, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
    """All whose names begin so, with their descriptions, in no order."""
    for info in store.objects(prefix):
        if info.kind == "bytes" and info.state == "live" and info.name is not None:
            yield info.name, info


def refs_below(store: Store, prefix: str) -> list[ObjectRef]:
    """Refs of the objects whose names begin so."""
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
