"""`PinnedBuffer` and `Writer`, as users and type checkers know them.

Each engine has classes of its own, registered here, so that isinstance() holds for all of them.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from refstore._refs import ObjectRef

__all__ = ["PinnedBuffer", "Writer"]


class _Block(abc.ABC):
    """Some bytes in shared memory, and a buffer for whoever asks for one."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __buffer__(self, flags: int, /) -> memoryview: ...
        def __len__(self) -> int: ...
        def __bytes__(self) -> bytes: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, kind: object, value: object, trace: object) -> None: ...

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """Bytes of payload."""

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether it takes no further use; views taken from it may live on."""

    @property
    @abc.abstractmethod
    def ref(self) -> ObjectRef:
        """The object's ref; of a Writer, ValueError before the seal."""

    @property
    @abc.abstractmethod
    def array(self) -> npt.NDArray[Any]:
        """A view without a copy: the array, or the bytes of anything else as uint8."""


class PinnedBuffer(_Block):
    """An object that is pinned where it lies: a context manager and a read-only buffer.

    The pin goes when it is closed (`with` ends, `release()`, collection) and the last view taken
    from it is gone. `Store.get()` makes them.
    """

    __slots__ = ()

    @abc.abstractmethod
    def release(self) -> None:
        """Closes the buffer. Views taken from it stay valid, and keep the pin."""

    @property
    @abc.abstractmethod
    def kind(self) -> Literal["bytes", "array", "object"]:
        """How the object was put."""

    @property
    @abc.abstractmethod
    def value(self) -> Any:
        """The object that was put; its buffers lie where they are, bytes are a memoryview."""

    @abc.abstractmethod
    def private_view(self) -> memoryview:
        """A writable copy-on-write view of the payload, with a pin of its own."""

    if TYPE_CHECKING:

        def __array__(
            self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
        ) -> npt.NDArray[Any]: ...
        def __dlpack__(self, **options: Any) -> Any: ...
        def __dlpack_device__(self) -> tuple[int, int]: ...


class Writer(_Block):
    """Room in shared memory, to be written and then sealed: a context manager and a buffer.

    Leaving `with` seals it; leaving by an exception, `abort()` or the writer's death gives the
    room back. `Store.create()` makes them.
    """

    __slots__ = ()

    @abc.abstractmethod
    def seal(self) -> ObjectRef:
        """Publishes what was written, for good; returns its ref."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Gives the room back; nobody ever sees it. Does nothing once it is sealed or aborted."""
