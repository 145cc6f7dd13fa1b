"""vineyard's blobs, with its server on a unix socket and its metadata in that server."""

import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import vineyard

from stress.peers.protocol import Held, Key, Peer, Room, View

_PATIENCE = 20.0


class Store(Peer):
    copies = "1, 0"
    settings = "blobs, metadata local, no RPC"
    limits = "round trips to a server; a get is no pin: what was deleted is overwritten in use"
    cannot = {"held a view": "a get is no pin"}  # noqa: RUF012
    full = (vineyard._C.NotEnoughMemoryException,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self._where = where
        self._server = server
        self._client: Any = vineyard.connect(where)

    @classmethod
    def version(cls) -> str:
        return str(vineyard.__version__)

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        where = f"{folder}/vineyard.sock"
        options = f"-socket={where} -size={capacity} -meta=local -rpc=false".split()
        program = Path(vineyard.__file__).parent / "bdist" / "vineyardd"
        server = subprocess.Popen([str(program), *options], stdout=subprocess.DEVNULL)
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
        self._client.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def put(self, data: bytes) -> Key:
        blob = self._client.create_blob(len(data))
        blob.copy(0, data)
        return blob.seal(self._client).id

    def get(self, key: Key) -> AbstractContextManager[View]:
        return Held(memoryview(self._client.get_blob(key)))

    def delete(self, key: Key) -> None:
        self._client.delete(key)

    def room(self, nbytes: int) -> Room:
        blob = self._client.create_blob(nbytes)
        return Room(memoryview(blob), lambda view: blob.seal(self._client).id)

    def pack(self, key: Key) -> bytes:
        return int(key).to_bytes(8, "big")

    def unpack(self, packed: bytes) -> Key:
        return vineyard.ObjectID(int.from_bytes(packed, "big"))
