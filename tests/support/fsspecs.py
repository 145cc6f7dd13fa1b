"""File systems of a folder of stores, and what children of tests do with files there."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from children import Session


def filesystem(path: str) -> tuple[Any, str]:
    """The file system of the folder of a store's file, and the store's name."""
    fsspec = importlib.import_module("fsspec")
    folder, name = os.path.split(path)
    return fsspec.filesystem("refstore", directory=folder), name


@contextlib.contextmanager
def of_users_stores(folder: Path) -> Iterator[Any]:
    """The file system of the user's stores, which are in that folder; it forgets all of them."""
    with mock.patch.dict(os.environ, REFSTORE_DIR=str(folder)):
        fs = importlib.import_module("fsspec").filesystem("refstore")
        yield fs
        fs.clear_instance_cache()
        fs.invalidate_cache()


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
