"""The first sixteen bytes of a store file: whether it is one, and which engine it belongs to."""

from __future__ import annotations

import os
import struct
from typing import Literal

from refstore._paths import open_store

__all__ = ["BACKENDS", "MAGIC", "Backend", "holds_store", "is_store", "number_of", "owner_of"]

Backend = Literal["native", "filelock"]
BACKENDS: tuple[Backend, ...] = ("native", "filelock")
_NUMBERS: dict[int, Backend] = {1: "native", 2: "filelock"}  # as the file's header has them
_HEADER = struct.Struct("=QII")  # magic, version, engine: of every store, whoever owns it
MAGIC = 0x65726F7473666572  # "refstore"


def owner_of(path: str) -> Backend | None:
    """The engine that the store file at `path` belongs to; None if it is absent or not a store."""
    number = _engine_number(path)
    return None if number is None else _NUMBERS.get(number)


def is_store(path: str) -> bool:
    """Whether the file at `path` is a store's, of whatever version."""
    return _engine_number(path) is not None


def holds_store(fd: int) -> bool:
    """The same for an open file."""
    return _number_in(fd) is not None


def _engine_number(path: str) -> int | None:
    try:
        with open_store(path, os.O_RDONLY) as file:
            return _number_in(file.fileno())
    except OSError:  # nothing that can be opened
        return None


def _number_in(fd: int) -> int | None:
    try:
        return number_of(os.read(fd, _HEADER.size))
    except OSError:  # a device, or the like
        return None


def number_of(head: bytes) -> int | None:
    """The engine's number in a file's first bytes; None if it is not a store."""
    if len(head) < _HEADER.size:
        return None
    magic, _, number = _HEADER.unpack_from(head)
    return int(number) if magic == MAGIC else None
