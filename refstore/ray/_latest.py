"""The latest version of a name, as a node's store has it.

An object of its own under `ray/latest/<name>` says which: the number, the object's ref in this
store, and its ref for the cluster. It is replaced in one step, and only by a later version: the
agent claims the name while it compares.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Iterator
from typing import NamedTuple

from refstore import (
    GetTimeoutError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectRef,
    PinnedBuffer,
    Store,
)
from refstore.ray._names import LATEST, latest_name
from refstore.ray._values import ClusterRef

__all__ = ["Version", "known_versions", "parse", "read", "replace"]

HEAD = struct.Struct("<Q16s")
NAP = 0.05  # seconds between two looks whether another thread still compares


class Version(NamedTuple):
    """One version, on this node."""

    number: int
    local: ObjectRef
    ref: ClusterRef


def parse(buf: PinnedBuffer) -> tuple[int, ObjectRef]:
    """Number and ref in this store."""
    number, raw = HEAD.unpack_from(buf)
    return number, ObjectRef(raw)


def _whole(buf: PinnedBuffer) -> Version:
    number, local = parse(buf)
    return Version(number, local, pickle.loads(memoryview(buf)[HEAD.size :]))


def read(store: Store, name: str) -> Version | None:
    try:
        with store.get(latest_name(name)) as buf:
            return _whole(buf)
    except ObjectNotFoundError:
        return None


def replace(store: Store, name: str, new: Version) -> Version | None:
    """Makes a version the latest one, unless a later one is; returns the earlier of the two."""
    raw = HEAD.pack(new.number, bytes(new.local)) + pickle.dumps(new.ref, 5)
    full = latest_name(name)
    while True:
        try:
            writer = store.create(len(raw), name=full, replace=True, claim=True)
        except ObjectExistsError:
            with contextlib.suppress(GetTimeoutError):
                store.wait(full, newer_than=_ref_of(store, full), timeout=NAP).release()
            continue
        with writer:
            old = read(store, name)
            if old is not None and old.number >= new.number:
                writer.abort()
                return new if old.number > new.number else None
            writer.write_at(0, raw)
        return old


def _ref_of(store: Store, name: str) -> ObjectRef | None:
    with contextlib.suppress(ObjectNotFoundError):
        return store.ref(name)
    return None


def known_versions(store: Store) -> Iterator[tuple[str, Version]]:
    """All names that have versions here."""
    for full in store.names(LATEST):
        name = full.removeprefix(LATEST)
        version = read(store, name)
        if version is not None:
            yield name, version
