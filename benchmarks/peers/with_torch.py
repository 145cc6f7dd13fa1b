"""Tensors shared as `torch.multiprocessing` does it: a file and a mapping for each."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from benchmarks.peers.protocol import Held, Key, Unplaced, View, Writer


class Store(Unplaced):
    copies = "1 (fresh pages), 0"
    settings = 'strategy "file_system", so that no descriptor need be passed'
    limits = "a file, an mmap and page faults per tensor, and word to its manager process"
    bounded = False

    def __init__(self) -> None:
        torch.set_num_threads(1)
        multiprocessing: Any = torch.multiprocessing
        multiprocessing.set_sharing_strategy("file_system")
        self._own: dict[Any, torch.Tensor] = {}

    @classmethod
    def version(cls) -> str:
        return str(torch.__version__)

    def close(self) -> None:
        self._own.clear()

    def put(self, data: bytes) -> Key:
        tensor = _empty(len(data))
        np.copyto(tensor.numpy(), np.frombuffer(data, np.uint8))
        return self._share(tensor)

    def _share(self, tensor: torch.Tensor) -> Key:
        # As ForkingPickler does with a tensor, without the pickle.
        key = tensor.untyped_storage()._share_filename_cpu_()
        self._own[key] = tensor
        return key

    def writer(self, nbytes: int) -> Writer:
        tensor = _empty(nbytes)
        return Writer(tensor.numpy(), lambda view: self._share(tensor))

    def get(self, key: Key) -> AbstractContextManager[View]:
        storage: Any = torch.UntypedStorage._new_shared_filename_cpu(*key)
        return Held(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())

    def delete(self, key: Key) -> None:
        del self._own[key]


def _empty(nbytes: int) -> torch.Tensor:
    """A tensor of memory that can be shared."""
    storage: Any = torch.UntypedStorage._new_using_filename_cpu(nbytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage)
