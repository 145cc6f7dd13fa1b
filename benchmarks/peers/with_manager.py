"""`multiprocessing.Manager().dict()`: a server process with a dict."""

import os
from multiprocessing.managers import BaseManager, DictProxy
from typing import Any

from benchmarks.peers.protocol import Copying, Key

_objects: dict[Any, bytes] = {}  # the server's


def _the_dict() -> dict[Any, bytes]:
    return _objects


class _Manager(BaseManager):
    """A SyncManager whose dict others can find."""


_Manager.register("objects", callable=_the_dict, proxytype=DictProxy)


class Store(Copying):
    copies = "3+ (pickle, socket, unpickle), 3+"
    limits = "a pickle through a socket both ways; one server process with a GIL"
    bounded = False

    def __init__(self, manager: _Manager, where: Any) -> None:
        self._manager = manager
        self._where = where
        self._process = os.getpid()
        self._puts = 0
        proxy: Any = manager.objects()  # type: ignore[attr-defined]
        self._set, self._find, self._drop = proxy.__setitem__, proxy.__getitem__, proxy.__delitem__

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        where = f"{folder}/manager", os.urandom(16)
        manager = _Manager(*where)
        manager.start()
        return cls(manager, where)

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        manager = _Manager(*handle)
        manager.connect()
        return cls(manager, handle)

    def handle(self) -> Any:
        return self._where

    def close(self) -> None:
        if hasattr(self._manager, "shutdown"):  # only who started it has that
            self._manager.shutdown()

    def put(self, data: bytes) -> Key:
        self._puts += 1
        key = self._process, self._puts
        self._set(key, bytes(data))  # of bytes, no copy
        return key
