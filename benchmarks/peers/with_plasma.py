"""Plasma, as of pyarrow 11: the store that refstore takes the place of."""

import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.plasma as plasma

from benchmarks.peers.protocol import Held, Key, Peer, View, Writer
from benchmarks.peers.served import ServedPeer


class Store(ServedPeer):
    copies = "1, 0"
    settings = "its server on a unix socket"
    limits = "a round trip to a server for create, seal, get, release and delete"
    evicts = True
    full = (plasma.PlasmaStoreFull,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        super().__init__(where, server)
        self._client: Any = plasma.connect(where)
        self._prefix = os.urandom(12)
        self._puts = 0

    @classmethod
    def version(cls) -> str:
        return f"pyarrow {pyarrow.__version__}"

    @classmethod
    def create(cls, capacity: int, folder: str) -> Peer:
        where = f"{folder}/plasma.sock"
        program = Path(sys.executable).parent / "plasma_store"
        command = [str(program), "-m", str(capacity), "-s", where, "-d", "/dev/shm"]
        return cls.started(command, where)

    def disconnect(self) -> None:
        self._client.disconnect()

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

    def writer(self, nbytes: int) -> Writer:
        key = self._fresh()

        def seal(view: Any) -> Any:
            self._client.seal(key)
            return key

        return Writer(self._client.create(key, nbytes), seal)

    def pack(self, key: Key) -> bytes:
        packed: bytes = key.binary()
        return packed

    def unpack(self, packed: bytes) -> Key:
        return plasma.ObjectID(packed)


if not shutil.which("plasma_store", path=str(Path(sys.executable).parent)):
    raise ImportError("plasma_store is not beside this interpreter")
