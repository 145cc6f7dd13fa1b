"""State dicts as they are put: detached, on the CPU, tied tensors still tied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch

__all__ = ["Weights", "numbers_of"]

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
        self._state = {key: self._of_state(value, repr(key)) for key, value in given.items()}
        # the versions of a module's parts, by which they load
        self._metadata = getattr(given, "_metadata", None)

    def _of_state(self, value: Any, where: str) -> Any:
        """A value of a state dict; one such as an optimizer's has dicts in it."""
        if isinstance(value, torch.Tensor):
            return self._on_the_cpu(value.detach(), where)
        if type(value) is dict:
            return {key: self._of_state(each, f"{where}[{key!r}]") for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(
                self._of_state(each, f"{where}[{k}]") for k, each in enumerate(value)
            )
        return value

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
        return restored, (self._state, self._metadata)


# Stored pickles name this function: it stays where it is, and so does its meaning.


def restored(state: dict[str, Any], metadata: Any) -> dict[str, Any]:
    if metadata is None:
        return state
    found = OrderedDict(state)
    found._metadata = metadata  # type: ignore[attr-defined]
    return found
