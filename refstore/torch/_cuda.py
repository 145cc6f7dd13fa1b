"""A store's memory registered with CUDA, by the address at which this process has it mapped."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from refstore._errors import RefstoreError
from refstore._store import Store

__all__ = ["Registration", "arena"]

PORTABLE, READ_ONLY = 0x01, 0x08  # cudaHostRegisterPortable, cudaHostRegisterReadOnly


class _Area(NamedTuple):
    """One line of /proc/self/maps."""

    start: int
    end: int
    permissions: str
    file: str


def _areas() -> list[_Area]:
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            span, permissions, _, device, inode = line.split(maxsplit=5)[:5]
            start, end = (int(part, 16) for part in span.split("-"))
            found.append(_Area(start, end, permissions, f"{device} {inode}"))
    return found


def arena(store: Store) -> tuple[int, int, bool]:
    """Address and size of the mapping in which objects that are got lie, and if it can be written.

    It is what /proc/self/maps says of the address of an object that is put and got for that. The
    kernel may show one mapping as several areas, each beginning where the one before it ends.
    """
    ref = store.put(np.zeros(64, "u1"), owned=True)
    try:
        with store.get(ref) as buf:
            address = buf.array.__array_interface__["data"][0]
            areas = _areas()
    finally:
        store.delete(ref)
    first = last = next((k for k, a in enumerate(areas) if a.start <= address < a.end), None)
    if first is None or last is None:
        raise RefstoreError(f"the memory of store {store.path!r} is not in /proc/self/maps")
    while first and _are_one(areas[first - 1], areas[first]):
        first -= 1
    while last + 1 < len(areas) and _are_one(areas[last], areas[last + 1]):
        last += 1
    start = areas[first].start
    return start, areas[last].end - start, "w" in areas[first].permissions


def _are_one(low: _Area, high: _Area) -> bool:
    return low.end == high.start and low[2:] == high[2:]


class Registration:
    """A store's mapping as CUDA knows it, until it is closed."""

    def __init__(self, store: Store) -> None:
        if not torch.cuda.is_available():
            raise RefstoreError(
                f"CUDA is not there, so that store {store.path!r} cannot be registered with it: "
                "this needs a GPU and a torch that is built for it"
            )
        address, nbytes, writable = arena(store)
        flags = PORTABLE if writable else PORTABLE | READ_ONLY
        _require(torch.cuda.cudart().cudaHostRegister(address, nbytes, flags), store, nbytes)
        self._address: int | None = address

    def close(self) -> None:
        """Takes it back; a second call does nothing."""
        if self._address is not None:
            torch.cuda.cudart().cudaHostUnregister(self._address)
            self._address = None

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _require(result: Any, store: Store, nbytes: int) -> None:
    if int(result) != 0:
        raise RefstoreError(
            f"cudaHostRegister of the {nbytes} bytes of store {store.path!r} failed with error "
            f"{int(result)}: a store of a smaller capacity needs less locked memory (ulimit -l)"
        )
