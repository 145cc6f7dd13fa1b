"""Redis on a unix socket, keeping nothing on disk."""

import os
import shutil
import subprocess
from typing import Any

import redis

from benchmarks.peers.protocol import Copying, Key, Peer
from benchmarks.peers.served import ServedPeer


class Store(ServedPeer, Copying):
    copies = "2+ (socket, server), 2+"
    settings = "unix socket, no persistence, maxmemory noeviction"
    limits = "the payload goes through a socket both ways; one server thread"
    cannot = {"kill": "a get is a copy: who is killed holds nothing"}  # noqa: RUF012
    full = (redis.exceptions.OutOfMemoryError,)

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        super().__init__(where, server)
        self._client: Any = redis.Redis(unix_socket_path=where)
        self._client.ping()
        self._process = f"{os.getpid()}:"
        self._puts = 0
        self._find = self._client.get
        self._drop = self._client.delete

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
    def create(cls, capacity: int, folder: str) -> Peer:
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
        return cls.started(command, where)

    def disconnect(self) -> None:
        self._client.close()

    def put(self, data: bytes) -> Key:
        self._puts += 1
        key = f"{self._process}{self._puts}"
        self._client.set(key, data)
        return key
