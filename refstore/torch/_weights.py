"""State dicts as they are put: detached, on the CPU, tied tensors still tied."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from refstore._buffers import PinnedBuffer
from refstore._errors import ObjectNotFoundError
from refstore._refs import ObjectRef
from refstore._store import Store

__all__ = ["Weights", "newest"]


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


def newest(
    store: Store, name: str, known: ObjectRef | None, timeout: float | None
) -> tuple[PinnedBuffer, Any]:
    """The object of that name, other than `known`, and its value, which can be written to."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        buf = store.wait(name, newer_than=known, timeout=left)
        state = buf.value if buf.kind == "object" else None
        if not isinstance(state, dict) or {torch.Tensor}.issuperset(map(type, state.values())):
            return buf, state
        ref = buf.ref
        del state  # it may have arrays, which are read-only
        buf.release()
        with contextlib.suppress(ObjectNotFoundError):  # there is a newer one by now
            buf = store.get(ref, writable=True)
            return buf, buf.value


# Stored pickles name this function: it stays where it is, and so does its meaning.


def restored(state: dict[str, Any], metadata: Any) -> dict[str, Any]:
    if metadata is None:
        return state
    found = OrderedDict(state)
    found._metadata = metadata  # type: ignore[attr-defined]
    return found
