"""Redis on a unix socket, keeping nothing on disk."""

import os
import shutil
import subprocess
import time
from contextlib import AbstractContextManager
from typing import Any

import redis

from stress.peers.protocol import Key, Peer, View

_PATIENCE = 10.0


class Store(Peer):
    copies = "2+ (socket, server), 2+"
    settings = "unix socket, no persistence, maxmemory noeviction"
    limits = "the payload goes through a socket both ways; one server thread"
    cannot = {"kill": "a get is a copy: who is killed holds nothing"}  # noqa: RUF012
    full = (redis.exceptions.OutOfMemoryError,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self._where = where
        self._server = server
        self._client: Any = redis.Redis(unix_socket_path=where)
        self._process = f"{os.getpid()}:"
        self._puts = 0
        self._find: Any = self._client.get
        self._drop: Any = self._client.delete

    @classmethod
    def version(cls) -> str:
        server = shutil.which("redis-server")
        if not server:
            raise FileNotFoundError("redis-server is not installed (Debian: redis-server)")
        told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
        parser = "hiredis" if redis.utils.HIREDIS_AVAILABLE else "without hiredis"
        return (
            f"{told.stdout.split()[2].removeprefix('v=')} (redis-py {redis.__version__}, {parser})"
        )

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        where = f"{folder}/redis.sock"
        options = {
            "port": "0",
            "unixsocket": where,
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "maxmemory": str(capacity),
            "maxmemory-policy": "noeviction",
        }
        command = ["redis-server", *(part for pair in options.items() for part in pair)]
        command[1::2] = [f"--{name}" for name in options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        store = cls(where, server)
        end = time.monotonic() + _PATIENCE
        while not os.path.exists(where) and time.monotonic() < end:
            time.sleep(0.01)
        store._client.ping()
        return store

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        store = cls(handle)
        store._client.ping()
        return store

    def handle(self) -> Any:
        return self._where

    def close(self) -> None:
        self._client.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def put(self, data: bytes) -> Key:
        self._puts += 1
        key = f"{self._process}{self._puts}"
        self._client.set(key, data)
        return key

    def get(self, key: Key) -> AbstractContextManager[View]:
        return memoryview(self._find(key))

    def delete(self, key: Key) -> None:
        self._drop(key)
