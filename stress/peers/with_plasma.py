"""Plasma, as of pyarrow 11: the store that refstore takes the place of."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.plasma as plasma

from stress.peers.protocol import Held, Key, Peer, Room, View

_PATIENCE = 10.0


class Store(Peer):
    copies = "1, 0"
    settings = "its server on a unix socket"
    limits = "a round trip to a server for create, seal, get, release and delete"
    evicts = True
    full = (plasma.PlasmaStoreFull,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self._where = where
        self._server = server
        self._client: Any = plasma.connect(where)
        self._prefix = os.urandom(12)
        self._puts = 0

    @classmethod
    def version(cls) -> str:
        return f"pyarrow {pyarrow.__version__}"

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        where = f"{folder}/plasma.sock"
        program = Path(sys.executable).parent / "plasma_store"
        command = [str(program), "-m", str(capacity), "-s", where, "-d", "/dev/shm"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + _PATIENCE
        while not os.path.exists(where) and time.monotonic() < end:
            time.sleep(0.01)
        return cls(where, server)

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        return cls(handle)

    def handle(self) -> Any:
        return self._where

    def close(self) -> None:
        self._client.disconnect()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def _fresh(self) -> Any:
        self._puts += 1
        return plasma.ObjectID(self._prefix + self._puts.to_bytes(8, "big"))

    def put(self, data: bytes) -> Key:
        key = self._fresh()
        memory = memoryview(self._client.create(key, len(data))).cast("B")
        memory[:] = data
        del memory
        self._client.seal(key)
        return key

    def get(self, key: Key) -> AbstractContextManager[View]:
        return Held(self._client.get_buffers([key], timeout_ms=5000)[0])

    def delete(self, key: Key) -> None:
        self._client.delete([key])

    def room(self, nbytes: int) -> Room:
        key = self._fresh()

        def seal(view: Any) -> Any:
            self._client.seal(key)
            return key

        return Room(self._client.create(key, nbytes), seal)

    def pack(self, key: Key) -> bytes:
        packed: bytes = key.binary()
        return packed

    def unpack(self, packed: bytes) -> Key:
        return plasma.ObjectID(packed)


if not shutil.which("plasma_store", path=str(Path(sys.executable).parent)):
    raise ImportError("plasma_store is not beside this interpreter")
