"""`PinnedBuffer` and `Writer`, as users and type checkers know them.

Each engine has classes of its own, registered here, so that isinstance() holds for all of them.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from refstore import _html, _messages

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from refstore._refs import ObjectRef

__all__ = ["PinnedBuffer", "Writer"]


class Block(abc.ABC):
    """Bytes in shared memory that export the buffer protocol."""

    __slots__ = ()

    def __new__(cls, *arguments: object, **options: object) -> Self:
        if cls.__abstractmethods__:
            raise _messages.no_constructor(cls.__name__)
        return super().__new__(cls)

    if TYPE_CHECKING:

        def __buffer__(self, flags: int, /) -> memoryview: ...
        def __len__(self) -> int: ...
        def __bytes__(self) -> bytes: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, kind: object, value: object, trace: object) -> None: ...

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """Bytes of payload; `len()` is the same.

        Example:
            >>> with store.get(store.put(b"abc")) as buf:
            ...     buf.nbytes
            3
        """

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether it is closed: then it cannot be used. Views taken from it may live on.

        Example:
            >>> with store.get(store.put(b"abc")) as buf:
            ...     pass
            >>> buf.closed
            True
        """


class PinnedBuffer(Block):
    """An object that is pinned where it lies: a context manager and a read-only buffer.

    The pin goes when it is closed (`with` ends, `release()`, collection) and the last view taken
    from it is gone; until then the object's memory is not reused, even if it is deleted. An object
    of kind "array" exports its format, shape and strides to those who ask for them, and plain
    bytes in storage order to others. `Store.get()` makes them, read-only unless `writable=True` was
    given.

    Errors:
        ValueError: it is used after it is closed.
        RefstoreError: it is used in a forked child that has no place in the store.

    Example:
        >>> with store.get(store.put(np.arange(3, dtype="u1"))) as buf:
        ...     bytes(buf), np.asarray(buf)
        (b'\\x00\\x01\\x02', array([0, 1, 2], dtype=uint8))
    """

    __slots__ = ()

    @abc.abstractmethod
    def release(self) -> None:
        """Closes the buffer. Views taken from it stay valid, and keep the pin.

        Example:
            >>> buf = store.get(store.put(b"abc"))
            >>> buf.release()
            >>> buf.closed
            True
        """

    @property
    @abc.abstractmethod
    def ref(self) -> ObjectRef:
        """The object's ref.

        Example:
            >>> ref = store.put(b"abc")
            >>> with store.get(ref) as buf:
            ...     buf.ref == ref
            True
        """

    @property
    @abc.abstractmethod
    def kind(self) -> Literal["bytes", "array", "object"]:
        """Kind of the object, as it was put: "bytes", "array" or "object".

        Errors:
            ValueError: the buffer is closed.

        Example:
            >>> with store.get(store.put({"any": "object"})) as buf:
            ...     buf.kind
            'object'
        """

    @property
    @abc.abstractmethod
    def array(self) -> npt.NDArray[Any]:
        """The object as an ndarray over the pinned memory, without a copy.

        It has the shape, dtype and order that were put; of kind "bytes" it has one axis of uint8.
        It is read-only, unless the buffer is a private view. It keeps the pin as long as it, or a
        view of it, lives.

        Errors:
            TypeError: the object is of kind "object"; `value` has its arrays.
            ValueError: the buffer is closed.

        Example:
            >>> with store.get(store.put(np.ones((2, 3)))) as buf:
            ...     buf.array.shape
            (2, 3)
        """

    @property
    @abc.abstractmethod
    def value(self) -> Any:
        """The object that was put; its buffers stay where they are, without a copy.

        An array, a memoryview if bytes were put, or the object, which each use unpickles again.

        Errors:
            ValueError: the buffer is closed.
            Exception: whatever unpickling the object raises.

        Example:
            >>> with store.get(store.put({"weights": [1, 2]})) as buf:
            ...     buf.value
            {'weights': [1, 2]}
        """

    @property
    @abc.abstractmethod
    def header(self) -> bytes:
        """Small bytes that say what the payload is, for `create(header=)` of any store.

        They name no store, offset or process.

        Errors:
            ValueError: the buffer is closed.

        Example:
            >>> with store.get(store.put(np.arange(3))) as buf:
            ...     with store.create(buf.nbytes, header=buf.header) as writer:
            ...         writer.write_at(0, bytes(buf))
            >>> with store.get(writer.ref) as copy:
            ...     copy.array
            array([0, 1, 2])
        """

    @property
    @abc.abstractmethod
    def meta(self) -> bytes:
        """The bytes that were given as `meta=` when the object was put.

        Errors:
            ValueError: the buffer is closed.

        Example:
            >>> with store.get(store.put(b"abc", meta=b"step 7")) as buf:
            ...     buf.meta
            b'step 7'
        """

    def _repr_html_(self) -> str:
        return _html.of_buffer(self)

    if TYPE_CHECKING:

        def _private_view(self) -> memoryview: ...
        def __array__(
            self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
        ) -> npt.NDArray[Any]: ...
        def __dlpack__(self, **options: Any) -> Any: ...
        def __dlpack_device__(self) -> tuple[int, int]: ...


class Writer(Block):
    """Memory of an object that is being written: a context manager and a writable buffer.

    Leaving `with` seals it, which publishes the object; an exception there, `abort()` or the
    death of its process frees the space, and no process ever sees the object. Writing through a
    view kept past the seal is undefined. `Store.create()` makes them.

    Errors:
        ValueError: it is used after it is sealed or aborted, or in a forked child.

    Example:
        >>> with store.create(3) as writer:
        ...     memoryview(writer)[:] = b"abc"
        >>> with store.get(writer.ref) as buf:
        ...     bytes(buf)
        b'abc'
    """

    __slots__ = ()

    @abc.abstractmethod
    def seal(self) -> ObjectRef:
        """Publishes what was written, for good; from here on it is read-only.

        Returns:
            The object's ref.

        Errors:
            ObjectExistsError: the name was taken meanwhile, and `replace` was not given. The
                object is discarded, and the Writer is closed.
            StoreFullError: the file system has no memory left for the table of pins.
            ValueError: it is sealed or aborted already, or this is a forked child.

        Example:
            >>> writer = store.create(3)
            >>> memoryview(writer)[:] = b"abc"
            >>> writer.seal() in store
            True
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Frees the space. Does nothing if the Writer is already sealed or aborted.

        Example:
            >>> writer = store.create(1000)
            >>> writer.abort()
            >>> len(store)
            0
        """

    @property
    @abc.abstractmethod
    def ref(self) -> ObjectRef:
        """The sealed object's ref.

        Errors:
            ValueError: it is not sealed.

        Example:
            >>> with store.create(3) as writer:
            ...     writer.array[:] = 0
            >>> writer.ref in store
            True
        """

    @property
    @abc.abstractmethod
    def array(self) -> npt.NDArray[Any]:
        """The memory as an ndarray of the shape and dtype asked for, or of uint8.

        Writable until the seal.

        Errors:
            ValueError: it is aborted.

        Example:
            >>> with store.create(shape=3, dtype="i8") as writer:
            ...     writer.array[:] = [1, 2, 3]
        """

    @abc.abstractmethod
    def write_at(self, offset: SupportsIndex, data: object) -> None:
        """Copies bytes into the memory, without leaving a view of it behind.

        Parameters:
            offset: where they begin, in bytes from the start.
            data: anything that has a contiguous buffer.

        Errors:
            ValueError: they do not fit, or the Writer is sealed or aborted.
            TypeError: `data` has no buffer.
            BufferError: its buffer is not contiguous.

        Example:
            >>> with store.create(4) as writer:
            ...     writer.write_at(0, b"ab")
            ...     writer.write_at(2, b"cd")
            >>> bytes(store.get(writer.ref))
            b'abcd'
        """

    @abc.abstractmethod
    def truncate(self, nbytes: SupportsIndex) -> None:
        """Makes an object of kind "bytes" shorter; the space behind it is free again.

        Views that are longer stay valid until the seal.

        Parameters:
            nbytes: the new size.

        Errors:
            ValueError: it is negative or larger than the size, or the Writer is sealed or aborted.
            TypeError: the object is an array, or made from a header.

        Example:
            >>> with store.create(1000) as writer:
            ...     writer.write_at(0, b"abc")
            ...     writer.truncate(3)
            >>> bytes(store.get(writer.ref))
            b'abc'
        """
