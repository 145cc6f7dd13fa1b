"""iceoryx2, publish and subscribe: no store, but the fastest way from process to process there is.

A put is sent, a get receives it, a delete lets go of it. So each object is got once, in the order
of the puts, by each who had subscribed before.
"""

import ctypes
import os
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import iceoryx2
import numpy as np

from benchmarks.peers.protocol import Held, Key, Peer, View
from benchmarks.peers.timing import batch_size

_FIFO = "messages in order, no objects: a get consumes"


class Store(Peer):
    copies = "1, 0"
    settings = "a service per size and sender, 64 samples of buffer"
    limits = "no store: no get by key, no delete, bounded and in order"
    bounded = False
    cannot = dict.fromkeys(("hot", "traffic", "mixed", "overhead", "kill"), _FIFO)

    def __init__(self, name: str, index: int) -> None:
        iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
        self._name = name
        self._index = index
        self._node: Any = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._wanted = 0, -1
        self._publisher: Any = None
        self._subscriber: Any = None
        self._receive: Any = None

    @classmethod
    def version(cls) -> str:
        return version("iceoryx2")

    @classmethod
    def create(cls, capacity: int, folder: str) -> "Store":
        return cls(Path(folder).name, 0)

    @classmethod
    def attach(cls, handle: Any) -> "Store":
        return cls(handle, os.getpid())

    def handle(self) -> Any:
        return self._name

    def close(self) -> None:
        self._publisher = self._subscriber = self._receive = self._node = None

    def prepare(self, nbytes: int, source: int) -> None:
        # Own messages come back on a service of one's own, another's on his.
        sender = self._index if source < 0 else source
        if (nbytes, sender) != self._wanted:
            # Ports of the size before go first: each holds as many blocks as may be in flight.
            self._publisher = self._subscriber = self._receive = None
            self._wanted = nbytes, sender
            self._open(nbytes, sender)

    def _open(self, nbytes: int, sender: int) -> None:
        few = batch_size(nbytes)
        name = iceoryx2.ServiceName.new(f"{self._name}/{nbytes}/{sender}")
        service = (
            self._node.service_builder(name)
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .subscriber_max_buffer_size(few)
            .subscriber_max_borrowed_samples(few)
            .max_publishers(1)
            .max_subscribers(2)
            .history_size(0)
            .open_or_create()
        )
        if self._index == sender:
            self._publisher = service.publisher_builder().initial_max_slice_len(nbytes).create()
        self._subscriber = service.subscriber_builder().create()
        self._receive = self._subscriber.receive

    def put(self, data: bytes) -> Key:
        sample = self._publisher.loan_slice_uninit(len(data))
        ctypes.memmove(sample.payload_ptr, data, len(data))
        sample.assume_init().send()
        return None

    def get(self, key: Key) -> AbstractContextManager[View]:
        sample = self._receive()
        # Its own memoryview has a format that Python cannot index.
        view = np.frombuffer(sample.payload().as_memory_view(), np.uint8)
        return Held(view, sample.delete)

    def delete(self, key: Key) -> None:
        # Of an object that was put and not got. One that was got is let go already.
        if (sample := self._receive()) is not None:
            sample.delete()
