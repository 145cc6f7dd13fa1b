"""vineyard's blobs, with its server on a unix socket and its metadata in that server."""

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import vineyard

from benchmarks.peers.protocol import Held, Key, Peer, View, Writer
from benchmarks.peers.served import ServedPeer


class Store(ServedPeer):
    copies = "1, 0"
    settings = "blobs, metadata local, no RPC"
    limits = "round trips to a server; a get is no pin: what was deleted is overwritten in use"
    cannot = {"held a view": "a get is no pin"}  # noqa: RUF012
    full = (vineyard._C.NotEnoughMemoryException,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        super().__init__(where, server)
        self._client: Any = vineyard.connect(where)

    @classmethod
    def version(cls) -> str:
        return str(vineyard.__version__)

    @classmethod
    def create(cls, capacity: int, folder: str) -> Peer:
        where = f"{folder}/vineyard.sock"
        options = f"-socket={where} -size={capacity} -meta=local -rpc=false".split()
        program = Path(vineyard.__file__).parent / "bdist" / "vineyardd"
        return cls.started([str(program), *options], where)

    def disconnect(self) -> None:
        self._client.close()

    def put(self, data: bytes) -> Key:
        blob = self._client.create_blob(len(data))
        blob.copy(0, data)
        return blob.seal(self._client).id

    def get(self, key: Key) -> AbstractContextManager[View]:
        return Held(memoryview(self._client.get_blob(key)))

    def delete(self, key: Key) -> None:
        self._client.delete(key)

    def writer(self, nbytes: int) -> Writer:
        blob = self._client.create_blob(nbytes)
        return Writer(memoryview(blob), lambda view: blob.seal(self._client).id)

    def pack(self, key: Key) -> bytes:
        return int(key).to_bytes(8, "big")

    def unpack(self, packed: bytes) -> Key:
        return vineyard.ObjectID(int.from_bytes(packed, "big"))
