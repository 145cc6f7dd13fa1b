"""State dicts as they are put: detached, on the CPU, tied tensors still tied.

A tensor that has its memory for itself is put as an array, which is read in a quarter of the time
that a tensor takes; others, which share their memory with views of other shapes, are sparse,
quantised or have gaps, are put as tensors.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from refstore._buffers import PinnedBuffer
from refstore._errors import ObjectNotFoundError
from refstore._refs import ObjectRef
from refstore._store import Store

__all__ = ["Weights", "newest", "numbers_of"]

# numpy has no bfloat16 and others, which go as numbers of their size
NUMBERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}
SAME = {  # of both libraries
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
}


def numbers_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A strided tensor's memory as an array of numbers of its itemsize, with its strides."""
    if tensor.dtype not in SAME:
        tensor = tensor.view(NUMBERS[tensor.element_size()])
    numbers: npt.NDArray[Any] = tensor.numpy()
    return numbers


class Weights:
    """A state dict on its way into a store: what is unpickled is the state dict itself.

    Errors: TypeError for what is none, and for tensors without data.
    """

    def __init__(self, module_or_state_dict: Any) -> None:
        given = module_or_state_dict
        if isinstance(given, torch.nn.Module):
            given = given.state_dict()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{type(given).__name__} is no module and no state dict: give one of them"
            )
        self._copies: dict[tuple[Any, ...], torch.Tensor] = {}  # on the CPU: each once
        self._shown: dict[int, set[Any]] = {}  # by storage: what is shown of it, None if elsewhere
        self._state = {key: self._of_state(value, repr(key)) for key, value in given.items()}
        # the versions of a module's parts, by which they load
        self._metadata = getattr(given, "_metadata", None)

    def _of_state(self, value: Any, where: str) -> Any:
        if not isinstance(value, torch.Tensor):
            return self._inner(value, where)
        tensor = self._on_the_cpu(value.detach(), where)
        if tensor.layout is torch.strided:
            self._note(tensor, _view_of(tensor))
        return tensor

    def _inner(self, value: Any, where: str) -> Any:
        """A value of a state dict such as an optimizer's, which has dicts in it."""
        if isinstance(value, torch.Tensor):
            tensor = self._on_the_cpu(value.detach(), where)
            if tensor.layout is torch.strided:
                self._note(tensor, None)
            return tensor
        if type(value) is dict:
            return {key: self._inner(each, f"{where}[{key!r}]") for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._inner(each, f"{where}[{k}]") for k, each in enumerate(value))
        return value

    def _note(self, tensor: torch.Tensor, view: tuple[Any, ...] | None) -> None:
        self._shown.setdefault(tensor.untyped_storage()._cdata, set()).add(view)

    def _on_the_cpu(self, tensor: torch.Tensor, where: str) -> torch.Tensor:
        kind = tensor.device.type
        if kind == "cpu":
            return tensor
        if kind == "meta":
            raise TypeError(f"{where} is a tensor on the device meta, which has no data to publish")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return tensor.cpu()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        copy = self._copies.get(key)
        if copy is None:
            copy = self._copies[key] = tensor.cpu()
        return copy.detach()  # another tensor over the same memory

    def __reduce__(self) -> Any:
        arrays: list[npt.NDArray[Any]] = []
        dtypes: list[Any] = []
        slots: list[int] = []
        others: list[Any] = []
        known: dict[int, int] = {}  # arrays by their storage
        for value in self._state.values():
            is_tensor = isinstance(value, torch.Tensor) and value.layout is torch.strided
            storage = value.untyped_storage()._cdata if is_tensor else None
            if storage is None or len(self._shown[storage]) > 1 or None in self._shown[storage]:
                slots.append(-1)
                others.append(value)
                continue
            if storage not in known:
                known[storage] = len(arrays)
                arrays.append(numbers_of(value))
                dtypes.append(None if value.dtype in SAME else value.dtype)
            slots.append(known[storage])
        is_simple = slots == list(range(len(arrays))) and not any(dtypes)
        rest = None if is_simple else (slots, dtypes, others)
        return restored, (list(self._state), arrays, rest, self._metadata)


def _view_of(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """The part of its storage that a tensor shows; None if no array has the same."""
    if type(tensor) is not torch.Tensor or tensor.is_quantized or tensor.is_nested:
        return None
    if tensor.is_conj() or tensor.is_neg() or tensor.__dict__ or not tensor.is_contiguous():
        return None
    return tensor.storage_offset(), tensor.dtype, tuple(tensor.shape)


def newest(store: Store, name: str, known: ObjectRef | None, timeout: float | None) -> PinnedBuffer:
    """A private view of the object of that name, other than `known`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        with store.wait(name, newer_than=known, timeout=left) as buf:
            ref = buf.ref
        with contextlib.suppress(ObjectNotFoundError):  # there is a newer one by now
            return store.get(ref, writable=True)


# Stored pickles name this function: it stays where it is, and so does its meaning.


def restored(
    keys: Sequence[str],
    arrays: Sequence[npt.NDArray[Any]],
    rest: tuple[Sequence[int], Sequence[Any], Sequence[Any]] | None,
    metadata: Any,
) -> OrderedDict[str, Any]:
    """The state dict of these keys and arrays.

    `rest`: of key k the value is the array `slots[k]`, or if that is -1, the next of `others`; and
    the dtypes that numpy does not have. None: each key has its array.
    """
    if not all(array.flags.writeable for array in arrays):
        # torch would make tensors of it whose writes are fatal
        arrays = [np.array(array) for array in arrays]
    tensors = map(torch.from_numpy, arrays)
    state = OrderedDict(zip(keys, tensors, strict=True) if rest is None else ())
    if rest is not None:
        slots, dtypes, others = rest
        typed = [t if d is None else t.view(d) for t, d in zip(tensors, dtypes, strict=True)]
        following, used = iter(others), set()
        for key, slot in zip(keys, slots, strict=True):
            if slot < 0:
                state[key] = next(following)
            else:
                state[key] = typed[slot].detach() if slot in used else typed[slot]
                used.add(slot)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    return state
