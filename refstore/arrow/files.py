"""Objects as files: one that is written until it is closed, which publishes it."""

from __future__ import annotations

import io
from types import TracebackType
from typing import Any

from refstore._buffers import Writer
from refstore._refs import ObjectRef

__all__ = ["OutputStream"]


class OutputStream(io.RawIOBase):
    """An object that is written like a file, by anything that writes into one.

    `close()`, or leaving `with`, publishes what was written, and no more room is taken than that.
    Leaving `with` by an exception, `abort()`, its collection or the death of this process leave
    nothing. `output_stream()` makes them.

    Parameters:
        writer: the object that is written.

    Errors:
        ValueError: it is closed, or more is written than it was made for.

    Example:
        >>> import refstore.arrow
        >>> with refstore.arrow.output_stream(store, 1000, name="letters") as sink:
        ...     sink.write(b"abc")
        3
        >>> bytes(store["letters"])
        b'abc'
    """

    def __init__(self, writer: Writer) -> None:
        self._writer: Writer | None = writer  # None once it is closed: it may keep room
        self._ref: ObjectRef | None = None
        self._nbytes = 0

    def write(self, data: Any) -> int:
        """Copies bytes to the end of what was written.

        Parameters:
            data: anything that has a contiguous buffer.

        Returns:
            How many bytes there were.

        Errors:
            ValueError: there is no room for so many.

        Example:
            >>> import refstore.arrow
            >>> with refstore.arrow.output_stream(store, 1000) as sink:
            ...     sink.write(b"ab"), sink.write(b"c")
            (2, 1)
        """
        writer = self._writer
        if writer is None:
            raise ValueError("this output stream is closed")
        with memoryview(data) as view:
            end = self._nbytes + view.nbytes
            if end > writer.nbytes:
                raise ValueError(
                    f"{end} bytes are written to an output stream of {writer.nbytes}: give "
                    "output_stream() as many as there can be; what is not used is given back"
                )
            writer.write_at(self._nbytes, view)
            self._nbytes = end
            return view.nbytes

    def tell(self) -> int:
        """Returns how many bytes were written.

        Returns:
            The number of bytes.

        Example:
            >>> import refstore.arrow
            >>> with refstore.arrow.output_stream(store, 1000) as sink:
            ...     _ = sink.write(b"abc")
            ...     sink.tell()
            3
        """
        return self._nbytes

    def writable(self) -> bool:
        """Tells that it can be written, but not read, nor from anywhere but its end.

        Returns:
            True.

        Example:
            >>> import refstore.arrow
            >>> with refstore.arrow.output_stream(store, 1000) as sink:
            ...     sink.writable(), sink.readable(), sink.seekable()
            (True, False, False)
        """
        return True

    @property
    def ref(self) -> ObjectRef:
        """The ref of the object, once it is closed.

        Errors:
            ValueError: it is not closed, or it was aborted.

        Example:
            >>> import refstore.arrow
            >>> with refstore.arrow.output_stream(store, 1000, name="letters") as sink:
            ...     pass
            >>> sink.ref == store.ref("letters")
            True
        """
        if self._ref is None:
            raise ValueError("this output stream is not closed: its object has no ref yet")
        return self._ref

    def close(self) -> None:
        """Publishes the object; a second call does nothing.

        Errors:
            ObjectExistsError: the name was taken meanwhile. Nothing is left of the object.

        Example:
            >>> import refstore.arrow
            >>> sink = refstore.arrow.output_stream(store, 1000)
            >>> sink.close()
            >>> sink.ref in store
            True
        """
        super().close()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.truncate(self._nbytes)
            self._ref = writer.seal()

    def abort(self) -> None:
        """Gives the object up; does nothing if it is published.

        Example:
            >>> import refstore.arrow
            >>> sink = refstore.arrow.output_stream(store, 1000, name="letters")
            >>> sink.abort()
            >>> "letters" in store
            False
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_writer"):  # else it was interrupted as it was made
            self.abort()  # a file would be closed, which publishes
