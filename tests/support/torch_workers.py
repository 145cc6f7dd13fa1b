"""What other processes do in tests of `refstore.torch`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.utils.data
from children import Session

import refstore
import refstore.torch

torch.set_num_threads(1)  # else a forked child waits for threads that it does not have

LARGE = 100_000  # elements of a tensor that is no part of its message


class Pair(NamedTuple):
    image: Any
    label: Any


# --- tensors


def same(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.layout is not torch.strided:
        one, other = one.to_dense(), other.to_dense()
    if one.is_quantized:
        return bool((one.q_scale(), one.q_zero_point()) == (other.q_scale(), other.q_zero_point()))
    if "float8" in str(one.dtype):
        one, other = one.float(), other.float()
    return bool(torch.equal(one, other))


def tensors() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is in beta, and what is deprecated
        big = torch.arange(20_000.0).view(100, 200)
        return {
            "float32": torch.randn(1000),
            "small": torch.arange(3),
            "scalar": torch.tensor(3.0),
            "empty": torch.zeros(0, 3),
            "bool": torch.arange(2000) % 3 == 0,
            "float16": torch.randn(1000).half(),
            "bfloat16": torch.randn(1000).bfloat16(),
            "float8": torch.randn(3000).to(torch.float8_e4m3fn),
            "complex": torch.randn(1000, dtype=torch.complex64),
            "conjugated": torch.randn(1000, dtype=torch.complex64).conj(),
            "transposed": torch.randn(40, 50).t(),
            "channels": torch.randn(4, 5, 10, 6).to(memory_format=torch.channels_last),
            "column": big[:, 3],
            "block": big[3:50, 7:20],
            "expanded": torch.randn(1, 100).expand(50, 100),
            "parameter": torch.nn.Parameter(torch.randn(1000)),
            "by_places": torch.eye(100).to_sparse(),
            "csr": torch.eye(100).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.randn(3000), 0.1, 3, torch.qint8),
        }


# --- weights


def uniform(version: int) -> dict[str, Any]:
    return {f"w{k}": torch.full((5000 + k,), float(version)) for k in range(3)}


def follow(session: Session, name: str, last: int) -> list[float]:
    """Load each version that comes into one module, till the last; the versions seen.

    Raises AssertionError for a mix of two.
    """
    shapes = uniform(0)
    module = torch.nn.ParameterDict({key: torch.zeros_like(w) for key, w in shapes.items()})
    seen: list[float] = []
    version: Any = None
    while not seen or seen[-1] != last:
        version = refstore.torch.load(session.store, name, module, version, timeout=60)
        values = {float(one) for w in module.values() for one in (w.min(), w.max())}
        assert len(values) == 1, values
        seen.append(values.pop())
    return seen


def hold_weights(session: Session, name: str) -> bool:
    """Give a module of this process tensors over the store's memory."""
    module = torch.nn.Linear(300, 500)
    refstore.torch.load(session.store, name, module, assign=True)
    session.held["module"] = module
    return bool((module.weight == 1).all())


# --- messages: `connection` is one end of a pipe, or a queue


def install(session: Session) -> None:
    refstore.torch.install(session.store)


def say_tensors(session: Session, count: int) -> None:
    """Send that many large tensors, and wait to be told that they were read."""
    for k in range(count):
        session.say(torch.full((LARGE,), float(k)))
    session.hear()


def is_received(session: Session) -> tuple[float, bool]:
    """Wait for a tensor from the parent, change it, and keep it; its sum, and if it is shared."""
    assert session._pipe is not None
    session.say("ready")
    tensor = session._pipe.recv()
    total = float(tensor.sum())
    tensor.fill_(-1)
    session.held["tensor"] = tensor
    return total, tensor.is_shared()


def put_and_end(store: refstore.Store, queue: Any, count: int) -> None:
    refstore.torch.install(store)
    for k in range(count):
        queue.put(torch.full((LARGE,), float(k)))


def doubled(tensor: Any) -> Any:
    return tensor * 2


def is_shared(tensor: Any) -> tuple[str | None, bool]:
    """In a worker of a pool: the store in use, and whether a tensor went torch's way."""
    return os.environ.get("REFSTORE_TORCH"), tensor.is_shared()


def add_one(tensor: Any) -> None:
    tensor += 1


# --- data


class Samples(torch.utils.data.Dataset):  # type: ignore[misc]  # torch is not there then
    """Images and labels; each worker says its pid as the label."""

    def __init__(self, count: int, nbytes: int = 40_000) -> None:
        self._count, self._elements = count, nbytes // 4

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Any:
        if i >= self._count:
            raise IndexError(i)
        return torch.full((self._elements,), float(i)), os.getpid()


class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Samples without an index."""

    def __iter__(self) -> Iterator[Any]:
        yield from (torch.full((5000,), float(i)) for i in range(6))


def as_pairs(samples: list[Any]) -> Any:
    """A batch in forms of its own."""
    images, labels = zip(*samples, strict=True)
    return Pair(torch.stack(images), {"of": [torch.tensor(labels), "text"]})
