"""Tensors in messages between processes: reducers of multiprocessing's pickler.

A storage of the CPU is put into the store when it is sent, and taken from there when it is read. A
tensor that shows less than its storage has is sent by itself, as what it shows. What is small
travels in the message. What was moved to torch's own shared memory before, by `share_memory_()`,
goes torch's way, since it is there to be changed by all; so does what the store has no room for.

The sender owns what it has sent and nobody has read. When it ends in order, the store does from
then on, so that a process may send its results and end; workers of a DataLoader, whose batches
nobody reads any more then, let theirs go.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy.typing as npt
import torch
from torch.multiprocessing import reductions
from torch.utils.data import get_worker_info

from refstore._errors import ObjectNotFoundError, StoreFullError
from refstore._handles import handle_of
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.payload.torch import SHARED_DTYPES, octets_of
from refstore.torch._taking import taken

__all__ = ["Sender", "set_sender"]

INLINE = 4096  # bytes up to which a tensor travels in the message
LAST = -100  # among multiprocessing's finalizers: queues have sent what they had by then
MANY = 128  # messages after which it is looked which of them were read

# numpy has no bfloat16 and others, which go as numbers of their size
NUMBERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}
SAME = {getattr(torch, name) for name in SHARED_DTYPES}

_sender: Sender | None = None


def _numbers_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A strided tensor's memory as an array of numbers of its itemsize, with its strides."""
    if tensor.dtype not in SAME:
        tensor = tensor.view(NUMBERS[tensor.element_size()])
    numbers: npt.NDArray[Any] = tensor.numpy()
    return numbers


def set_sender(sender: Sender | None) -> None:
    """Has tensors sent by it from now on, or by torch as ever."""
    global _sender
    _sender = sender
    ours = sender is not None
    by_tensor = _reduce_tensor if ours else reductions.reduce_tensor
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, by_tensor)
    by_storage = _reduce_storage if ours else reductions.reduce_storage
    ForkingPickler.register(torch.UntypedStorage, by_storage)


class Sender:
    """A process's part: what it has sent, and whose that is."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.handle = handle_of(store)
        self._begin()
        multiprocessing.util.register_after_fork(self, Sender._begin)
        atexit.register(self._hand_over)

    def _begin(self) -> None:
        # In each process anew: a forked child owns nothing that its parent has sent.
        self._pid = os.getpid()
        self._sent: dict[ObjectRef, None] = {}
        self._many = MANY
        self._end = multiprocessing.util.Finalize(None, self._hand_over, exitpriority=LAST)

    def send(self, array: npt.NDArray[Any]) -> ObjectRef:
        """Puts what a message is about. Errors: StoreFullError."""
        ref = self.store.put(array, owned=True)
        if self._pid != os.getpid():  # forked, but not by multiprocessing
            self._begin()
        self._sent[ref] = None
        if len(self._sent) > self._many:
            self._forget_what_was_read()
        return ref

    def _forget_what_was_read(self) -> None:
        # Other threads send meanwhile: each step is atomic.
        for ref in list(self._sent):
            if ref not in self.store:
                self._sent.pop(ref, None)
        self._many = max(MANY, 2 * len(self._sent))

    def _hand_over(self) -> None:
        self._each(self.store.disown if get_worker_info() is None else self.store.delete)

    def _each(self, call: Callable[[ObjectRef], None]) -> None:
        if self._pid != os.getpid() or self.store.closed:
            return
        while self._sent:
            ref, _ = self._sent.popitem()
            with contextlib.suppress(ObjectNotFoundError):
                call(ref)

    def close(self) -> None:
        """Deletes what was sent and nobody has read."""
        self._end.cancel()
        atexit.unregister(self._hand_over)
        self._each(self.store.delete)


# --- sending


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    sender = _sender
    is_ours = (
        sender is not None
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_shared()
        and (tensor.is_leaf or not tensor.requires_grad)  # which torch refuses
    )
    if not is_ours:
        return reductions.reduce_tensor(tensor)
    if tensor.is_quantized:
        return tensor.__reduce_ex__(2)  # reduce_tensor() forgets scales; the storage comes to us
    if tensor.is_conj() or tensor.is_neg():  # it forgets these, too
        tensor = tensor.resolve_conj().resolve_neg()
    shown = tensor.numel() * tensor.element_size()
    if shown < tensor.untyped_storage().nbytes():
        return _reduce_part(sender, tensor, shown)
    return reductions.reduce_tensor(tensor)


def _reduce_part(sender: Any, tensor: torch.Tensor, shown: int) -> Any:
    kind, needs_grad = type(tensor), tensor.requires_grad
    if shown > INLINE:
        with contextlib.suppress(StoreFullError):
            ref = sender.send(_numbers_of(tensor.detach()))
            return _part, (kind, sender.handle, ref, tensor.dtype, needs_grad)
    copy = tensor.detach().clone()
    return _whole, (kind, copy.untyped_storage(), copy.dtype, copy.shape, copy.stride(), needs_grad)


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    sender = _sender
    if sender is None or storage.device.type != "cpu" or storage.is_shared():
        return reductions.reduce_storage(storage)
    memory = octets_of(storage, 0, storage.nbytes())
    if storage.nbytes() <= INLINE:
        return _small_storage, (memory.tobytes(),)
    try:
        return _storage, (sender.handle, sender.send(memory))
    except StoreFullError:
        return reductions.reduce_storage(storage)


# --- reading; pickles name these


def _storage(handle: bytes, ref: ObjectRef) -> torch.UntypedStorage:
    with taken(handle, ref) as buf:
        return torch.from_numpy(buf.array).untyped_storage()


def _small_storage(octets: bytes) -> torch.UntypedStorage:
    if not octets:
        return torch.UntypedStorage(0)
    return torch.frombuffer(bytearray(octets), dtype=torch.uint8).untyped_storage()


def _part(kind: Any, handle: bytes, ref: ObjectRef, dtype: Any, needs_grad: bool) -> Any:
    with taken(handle, ref) as buf:
        return _as(kind, torch.from_numpy(buf.array).view(dtype), needs_grad)


def _whole(
    kind: Any, storage: Any, dtype: Any, shape: Any, strides: Any, needs_grad: bool
) -> torch.Tensor:
    return _as(kind, torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides), needs_grad)


def _as(kind: Any, tensor: torch.Tensor, needs_grad: bool) -> torch.Tensor:
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(tensor, requires_grad=needs_grad)
    return tensor.requires_grad_(needs_grad)
