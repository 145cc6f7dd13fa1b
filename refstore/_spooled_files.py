"""File objects of `refstore.fsspec`: a pinned object that is read, bytes that become one on close.

A file that is written has its bytes in this process till it is closed, and then they are published
in one step. One that an exception ends, or its process's death, was never there.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

from fsspec.core import OpenFile

from refstore import PinnedBuffer, Store

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CompressedFile", "PinnedFile", "SpooledFile", "TextFile"]

LARGE = 1 << 16  # bytes; what has fewer is gathered, so that a file of small writes has few parts
LEFT_CONTEXT = OpenFile.__exit__.__code__


class PinnedFile(io.BufferedReader):
    """A file over the memory of a pinned object.

    `read()` returns bytes, which are copies. `getbuffer()` and `read_buffer()`, by which pyarrow
    reads, return the memory itself; it stays pinned as long as the file is open, or such a view of
    it lives, also when the name has another object or none.
    """

    def __init__(self, fs: Any, path: str, buf: PinnedBuffer) -> None:
        self._raw = _PinnedMemory(buf)
        super().__init__(self._raw)
        self.fs, self.path, self.size = fs, path, buf.nbytes
        self.details = {"name": path, "size": self.size, "type": "file", "ref": buf.ref.hex()}

    def getbuffer(self) -> memoryview:
        """All of the file, as a read-only view, wherever its position is."""
        return self._raw.view()[:]

    def read_buffer(self, nbytes: int | None = -1) -> memoryview:
        """The next bytes, all that are left if no number is given, without a copy."""
        start = self.tell()
        end = self.size if nbytes is None or nbytes < 0 else min(self.size, start + nbytes)
        self.seek(max(start, end))
        return self._raw.view()[start:end]

    def info(self) -> dict[str, Any]:
        """The description of the file that was opened."""
        return self.details

    # The base refuses pickle by this one from Python 3.12 on, and pickle asks for it first.
    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return _opened_at, (self.fs, self.path, self.tell())


def _opened_at(fs: Any, path: str, position: int) -> Any:
    file = fs.open(path, "rb")
    file.seek(position)
    return file


class _PinnedMemory(io.RawIOBase):
    """The same without buffering."""

    mode = "rb"

    def __init__(self, buf: PinnedBuffer) -> None:
        self._buf, self._view, self._at = buf, memoryview(buf), 0

    def view(self) -> memoryview:
        self._require_open()
        return self._view

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        rest = self.view()[self._at :]
        with memoryview(room).cast("B") as octets:
            nbytes = min(len(octets), len(rest))
            octets[:nbytes] = rest[:nbytes]
        self._at += nbytes
        return nbytes

    def readall(self) -> bytes:
        rest = bytes(self.view()[self._at :])
        self._at += len(rest)
        return rest

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self.view())}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is before the start of the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        self._require_open()
        return self._at

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._view.release()
            self._buf.release()


class SpooledFile(io.BufferedIOBase):
    """A file that is written, and is there when it is closed.

    It cannot be read, and has no other position than its end.
    """

    def __init__(
        self, fs: Any, path: str, mode: str, autocommit: bool, before: PinnedBuffer | None = None
    ) -> None:
        self._parts: list[Any] = []
        self._gathered = io.BytesIO()
        self._size = 0
        self._pid = os.getpid()
        self._discarded = False
        self.fs, self.path, self.mode, self.autocommit = fs, path, mode, autocommit
        if before is not None:
            self._parts.append(memoryview(before))
            self._size = before.nbytes

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Takes bytes; large ones that cannot change are not copied till the file is published."""
        if self.closed:
            raise ValueError(f"{self.path!r} is closed, and takes nothing more")
        if type(data) is bytes and len(data) >= LARGE:
            self._end_part()
            self._parts.append(data)
            nbytes = len(data)
        else:
            nbytes = self._gathered.write(data)
        self._size += nbytes
        return nbytes

    def _end_part(self) -> None:
        if self._gathered.tell():
            self._parts.append(self._gathered.getbuffer())
            self._gathered = io.BytesIO()

    def commit(self) -> None:
        """Publishes what was written, in one step. Errors: what storing it raises."""
        if self._discarded or os.getpid() != self._pid:
            return  # a child that inherits a file is not who writes it
        self._end_part()
        store, name = self.fs._place_of_file(self.path)
        try:
            _write_parts(store, name, self._size, self._parts, replace="x" not in self.mode)
        finally:
            self.discard()

    def discard(self) -> None:
        """Forgets what was written: nothing is published."""
        self._discarded = True
        self._parts.clear()
        self._gathered = io.BytesIO()

    def close(self) -> None:
        """Publishes the file, unless that is for a transaction to do, or an exception ended it."""
        if self.closed:
            return
        try:
            if _is_left_by_exception(self):
                self.discard()
            elif self.autocommit:
                self.commit()
        finally:
            super().close()

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is not None:
            self.discard()
        super().__exit__(kind, value, trace)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"cannot pickle {self.path!r}, which is being written: write all of a file in one "
            "process"
        )


def _write_parts(store: Store, name: str, nbytes: int, parts: list[Any], replace: bool) -> None:
    with store.create(nbytes, name=name, replace=replace) as writer:
        offset = 0
        for part in parts:
            writer.write_at(offset, part)
            offset += len(part)


def _is_left_by_exception(file: SpooledFile) -> bool:
    """Whether an exception leaves the `with fsspec.open(...)` that closes a file.

    `OpenFile` does not hand it on to the file, and so the arguments of its `__exit__` are read.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is LEFT_CONTEXT:
            files = frame.f_locals["self"].fobjects
            if any(one is file for one in files):
                return any(frame.f_locals["args"])
        frame = frame.f_back
    return False


class _Layer:
    """A file object that writes to a SpooledFile, and closes it or discards it with itself."""

    spooled: SpooledFile

    def close(self) -> None:
        super().close()  # type: ignore[misc]  # of the class that stands beside this one
        self.spooled.close()

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is not None:
            self.spooled.discard()
        super().__exit__(kind, value, trace)  # type: ignore[misc]


class TextFile(_Layer, io.TextIOWrapper):
    """Text that is encoded into a SpooledFile."""


class CompressedFile(_Layer, io.BufferedWriter):
    """Bytes that a compressor writes into a SpooledFile."""
