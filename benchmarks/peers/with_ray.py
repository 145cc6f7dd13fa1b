"""Ray's object store, by its own put and get; each process is a driver of one local cluster."""

import logging
import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.peers.protocol import Held, Key, Peer, View

# Ray listens beyond this machine, so it lets in who knows the token of this run and nobody else.
# It reads these when it is imported; without them it would look for the user's own token, or leave
# one behind in the home folder.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = os.environ.get("REFSTORE_BENCH_TOKEN", "")

import ray
from ray import cloudpickle

_LEAST = 80 << 20  # it takes no less
_SPACE = "bench"


class Store(Peer):
    copies = "1 (and a pickle), 0"
    settings = "numpy uint8, one node, entry by token, no less than 80 MiB"
    limits = "round trips to its daemons; a delete is the last reference going, some time later"
    full = (ray.exceptions.ObjectStoreFullError,)
    evicts = True
    cannot = {"delete": "there is none: an object goes some time after the last reference to it"}  # noqa: RUF012

    def __init__(self, address: str) -> None:
        self._address = address
        self._find = ray.get
        self._sent: dict[bytes, Any] = {}

    @classmethod
    def version(cls) -> str:
        return str(ray.__version__)

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        context = ray.init(
            num_cpus=1,
            object_store_memory=max(capacity, _LEAST),
            include_dashboard=False,
            _temp_dir=folder,
            _system_config={"automatic_object_spilling_enabled": False},
            logging_level=logging.ERROR,
            log_to_driver=False,
            namespace=_SPACE,
        )
        return cls(context.address_info["gcs_address"])

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        ray.init(address=handle, logging_level=logging.ERROR, log_to_driver=False, namespace=_SPACE)
        return cls(handle)

    def handle(self) -> Any:
        return self._address

    def close(self) -> None:
        ray.shutdown()

    def put(self, data: bytes) -> Key:
        return ray.put(np.frombuffer(data, np.uint8))

    def get(self, key: Key) -> AbstractContextManager[View]:
        return Held(self._find(key))

    def delete(self, key: Key) -> None:
        # The loop's own reference is the last one; it goes with the name there.
        self._sent.pop(key.binary(), None)

    def pack(self, key: Key) -> bytes:
        # An object lives as long as its owner has a reference, whatever another process holds.
        self._sent[key.binary()] = key
        packed: bytes = cloudpickle.dumps(key)
        return packed

    def unpack(self, packed: bytes) -> Key:
        return cloudpickle.loads(packed)
