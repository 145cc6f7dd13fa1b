"""A peer with a server of its own."""

import abc
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.protocol import Peer

_START_SECONDS = 20.0


class ServedPeer(Peer):
    """A peer whose objects are a server's, reached through a unix socket."""

    def __init__(self, where: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self._where = where
        self._server = server

    @classmethod
    def started(cls, command: Sequence[str], where: str) -> Peer:
        """Starts the server, and connects once its socket is there."""
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + _START_SECONDS
        while not os.path.exists(where) and time.monotonic() < end:
            time.sleep(0.01)
        return cls(where, server)

    @classmethod
    def attach(cls, handle: Any) -> Peer:
        return cls(handle)

    def handle(self) -> Any:
        return self._where

    @abc.abstractmethod
    def disconnect(self) -> None:
        """Ends this process's connection."""

    def close(self) -> None:
        self.disconnect()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
