"""Commands that attach, as any process does: `get`, `put`, `delete`, `trim`."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import stat
import sys
from collections.abc import Iterator
from typing import IO

import numpy as np

from refstore._buffers import PinnedBuffer
from refstore._errors import RefstoreError
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore._units import size_text
from refstore.cli.objects import as_json
from refstore.cli.output import complain, is_terminal, show, show_json
from refstore.cli.reaching import attach, key_of

__all__ = ["delete", "get", "put", "trim"]

ARRAY = ".npy"  # files of this kind hold one array
STANDARD = "-"  # in place of a file's name
_PIECE = 1 << 20  # bytes that are read at once from what has no known length


def get(options: argparse.Namespace) -> int:
    """Writes bytes as they are, an array as a .npy file, any other object as a pickle."""
    if options.json and options.output in (None, STANDARD):
        raise ValueError("--json describes what -o FILE gets: give a FILE")
    with attach(options.name, options.foreign) as store:
        key = key_of(store, options.key)
        with store.get(key) as buf:
            with _said("it cannot be unpickled here"):  # before there is a file
                value = buf.value if buf.kind == "object" else None
            with _output(options.output, buf) as file:
                _write(buf, value, file)
            if options.json:
                show_json(as_json(store.info(buf.ref)) | {"file": os.path.abspath(options.output)})
    return 0


@contextlib.contextmanager
def _output(name: str | None, buf: PinnedBuffer) -> Iterator[IO[bytes]]:
    if name not in (None, STANDARD):
        with open(name, "wb") as file:
            yield file
        return
    if is_terminal() and not (buf.kind == "bytes" and _is_text(buf)):
        raise ValueError(
            f"this object ({buf.kind}, {size_text(buf.nbytes)}) is not text for a terminal: give "
            "-o FILE, or send it down a pipe"
        )
    if sys.stdout is not None:
        yield sys.stdout.buffer


def _is_text(buf: PinnedBuffer) -> bool:
    try:
        text = bytes(buf).decode()
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


class _Written:
    """A file, of which there is only its write()."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Errors of pickle, whichever they are, as one that a command says in a line."""
    try:
        yield
    except (OSError, RefstoreError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error


def _write(buf: PinnedBuffer, value: object, file: IO[bytes]) -> None:
    if buf.kind == "bytes":
        with memoryview(buf) as view:
            file.write(view)
    elif buf.kind == "array":
        # to what is no file numpy writes by calls, whose errors say why
        np.lib.format.write_array(_Written(file), buf.array, allow_pickle=False)
    else:
        with _said("it cannot be pickled anew"):
            pickle.dump(value, file, protocol=5)


def put(options: argparse.Namespace) -> int:
    """Stores the bytes of a file, or the array that a .npy file holds."""
    with attach(options.name, options.foreign) as store:
        ref = _put(store, options.key, options.file, options.replace)
        if options.json:
            show_json(as_json(store.info(ref)))
        else:
            show(ref.hex())
    return 0


def _put_all_of(store: Store, file: IO[bytes], name: str, replace: bool) -> ObjectRef:
    """Stores what has no known length; of what is too long no more is read than shows that."""
    read = bytearray()
    while len(read) <= store.capacity and (piece := file.read(_PIECE)):
        read += piece
    return store.put(read, name=name, replace=replace)


def _put(store: Store, name: str, source: str, replace: bool) -> ObjectRef:
    if source == STANDARD:
        return _put_all_of(store, sys.stdin.buffer, name, replace)
    if source.endswith(ARRAY):
        array = np.load(source, mmap_mode="r", allow_pickle=False)
        return store.put(np.asarray(array), name=name, replace=replace)
    with open(source, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):  # a pipe, whose length is not known
            return _put_all_of(store, file, name, replace)
        with store.create(found.st_size, name=name, replace=replace) as writer:
            writer.truncate(_fill(memoryview(writer), file))
        return writer.ref


def _fill(room: memoryview, file: IO[bytes]) -> int:
    """Read a file into the room; the number of bytes, fewer if the file became shorter."""
    done = 0
    with room:
        while done < len(room):
            with room[done:] as rest:
                count = file.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                break
            done += count
    return done


def delete(options: argparse.Namespace) -> int:
    """Goes on after a key that is not there."""
    with attach(options.name, options.foreign) as store:
        deleted = [text for text in options.keys if _delete_or_say_why(store, text)]
    if options.json:
        show_json(deleted)
    return 0 if len(deleted) == len(options.keys) else 2


def _delete_or_say_why(store: Store, text: str) -> bool:
    try:
        store.delete(key_of(store, text))
    except (RefstoreError, ValueError) as error:
        complain(error)
        return False
    return True


def trim(options: argparse.Namespace) -> int:
    with attach(options.name, options.foreign) as store:
        path, nbytes = store.path, store.trim()
    if options.json:
        show_json({"name": options.name, "path": path, "nbytes": nbytes})
    else:
        show(f"{options.name}: {size_text(nbytes)} given back to the system")
    return 0
