"""Objects of bytes, as file systems and arrays of other libraries find them in a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import refstore
from refstore import _byte_objects


@contextlib.contextmanager
def replaced_when_found(data: bytes) -> Iterator[None]:
    """Another replaces each object right after it was looked up."""
    find = _byte_objects.find

    def found_and_replaced(store: refstore.Store, name: str) -> Any:
        info = find(store, name)
        store.put(data, name=name, replace=True)
        return info

    with mock.patch.object(_byte_objects, "find", found_and_replaced):
        yield
