"""`multiprocessing.shared_memory`: a file and a mapping for each object."""

from contextlib import AbstractContextManager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from benchmarks.peers.protocol import Held, Key, Unplaced, View, Writer


class Store(Unplaced):
    copies = "1 (fresh pages), 0"
    settings = "its resource tracker as it comes"
    limits = "a file, an mmap and page faults per object"
    bounded = False

    def __init__(self) -> None:
        self._own: dict[str, SharedMemory] = {}  # their creator keeps them mapped, as is usual

    def close(self) -> None:
        for key in list(self._own):
            self.delete(key)

    def put(self, data: bytes) -> Key:
        memory = SharedMemory(create=True, size=len(data))
        view: Any = memory.buf
        view[: len(data)] = data
        self._own[memory.name] = memory
        return memory.name

    def get(self, key: Key) -> AbstractContextManager[View]:
        memory = SharedMemory(key)
        return Held(memory.buf, memory.close)

    def delete(self, key: Key) -> None:
        memory = self._own.pop(key, None) or SharedMemory(key)
        memory.close()
        memory.unlink()

    def writer(self, nbytes: int) -> Writer:
        memory = SharedMemory(create=True, size=nbytes)
        buffer: Any = memory.buf

        def seal(view: memoryview) -> str:
            view.release()
            self._own[memory.name] = memory
            return memory.name

        return Writer(buffer[:nbytes], seal)
