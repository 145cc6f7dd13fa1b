"""Adapters without a store: the machine itself, measured by the loops that measure the stores."""

import mmap
import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.peers.protocol import Held, Key, Unplaced, View
from benchmarks.shared_pages import shared_pages

_PAGE = 4096
_SPACE = 1 << 30


class Floor(Unplaced):
    """One process, and nothing that another could attach to."""

    copies = "1, 0"
    limits = ""
    bounded = False

    @classmethod
    def version(cls) -> str:
        return f"numpy {np.__version__}"

    def close(self) -> None:
        pass


class Dict(Floor):
    """A plain dict of bytes, and memoryviews of them."""

    def __init__(self) -> None:
        self._objects: dict[int, bytes] = {}
        self._puts = 0

    def put(self, data: bytes) -> Key:
        self._puts += 1
        self._objects[self._puts] = bytes(memoryview(data))
        return self._puts

    def get(self, key: Key) -> AbstractContextManager[View]:
        return memoryview(self._objects[key])

    def delete(self, key: Key) -> None:
        del self._objects[key]


class _Copy(Floor):
    """numpy.copyto into shared memory."""

    cannot = dict.fromkeys(("get", "delete"), "a copy is all it is")

    def __init__(self) -> None:
        self._memory = shared_pages(_SPACE)
        self._target = np.frombuffer(self._memory, np.uint8)


class WarmCopy(_Copy):
    """Copies into the same memory each time."""

    def put(self, data: bytes) -> Key:
        np.copyto(self._target[: len(data)], np.frombuffer(data, np.uint8))

    def get(self, key: Key) -> AbstractContextManager[View]:
        return memoryview(b"")

    def delete(self, key: Key) -> None:
        pass


class ColdCopy(_Copy):
    """Copies into pages that the kernel has yet to clear; a delete gives them back to it."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0

    def put(self, data: bytes) -> Key:
        nbytes = len(data)
        at = self._at if self._at + nbytes <= _SPACE else 0
        self._at = at + -(-nbytes // _PAGE) * _PAGE
        np.copyto(self._target[at : at + nbytes], np.frombuffer(data, np.uint8))
        return at, nbytes

    def get(self, key: Key) -> AbstractContextManager[View]:
        return memoryview(b"")

    def delete(self, key: Key) -> None:
        at, nbytes = key
        self._memory.madvise(mmap.MADV_REMOVE, at, -(-nbytes // _PAGE) * _PAGE)


class Empty(Floor):
    """The loops, and an adapter written in Python, by themselves."""

    def put(self, data: bytes) -> Key:
        return None

    def get(self, key: Key) -> AbstractContextManager[View]:
        return Held(b"")

    def delete(self, key: Key) -> None:
        pass


class Nothing(Floor):
    """No store at all, for a program that has the same arithmetic and messages."""

    def __init__(self) -> None:
        self._puts = 0
        self._kept: dict[Any, np.ndarray[Any, Any]] = {}

    def put(self, data: bytes) -> Key:
        self._puts += 1
        return os.getpid(), self._puts % 2, memoryview(data).nbytes

    def get(self, key: Key) -> AbstractContextManager[View]:
        # An array for each that was put: as many bytes are read as with a store.
        if key not in self._kept:
            self._kept[key] = np.ones(key[-1], np.uint8)
        return Held(self._kept[key])

    def delete(self, key: Key) -> None:
        pass
