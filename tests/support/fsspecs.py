"""What children of tests do with files of a store."""

from __future__ import annotations

import importlib
import os
from typing import Any

from children import Session


def filesystem(path: str) -> tuple[Any, str]:
    """The file system of the folder of a store's file, and the store's name."""
    fsspec = importlib.import_module("fsspec")
    folder, name = os.path.split(path)
    return fsspec.filesystem("refstore", directory=folder), name


def begin(session: Session, path: str) -> None:
    """Write to a file, and keep it open."""
    fs, store = filesystem(session.store.path)
    file = session.held[path] = fs.open(f"{store}/{path}", "wb")
    file.write(bytes(1 << 20))
    file.write(b"small")


def hold(session: Session, path: str) -> int:
    """Open a file and keep a view of it; its bytes."""
    fs, store = filesystem(session.store.path)
    session.held[path] = fs.open(f"{store}/{path}").getbuffer()
    return len(session.held[path])


def read_with(session: Session, fs: Any, path: str) -> bytes:
    """Read by a file system that came here by pickle."""
    data: bytes = fs.cat(path)
    fs.invalidate_cache()
    return data


def read_rest(session: Session, file: Any) -> bytes:
    """Read on in a file that came here by pickle."""
    with file:
        data: bytes = file.read()
    file.fs.invalidate_cache()
    return data
