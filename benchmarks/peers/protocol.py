"""The calls of an adapter."""

import abc
import pickle
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar

Key = Any  # whatever the peer calls its objects by
View = Any  # anything that memoryview() takes


class Cannot(Exception):
    """The peer has no such thing; the text says why."""


class Peer(abc.ABC):
    """A store as one process sees it.

    `put`, `get` and `delete` are called in tight loops: an adapter whose peer already has such a
    function sets it on the instance, and pays for no call of its own.
    """

    copies: ClassVar[str]  # of the payload, in a put and in a get
    settings: ClassVar[str] = ""  # the choices, where there are any
    limits: ClassVar[str]  # of the peer
    evicts: ClassVar[bool] = False  # a put into a full store throws out what nobody holds
    bounded: ClassVar[bool] = True  # it has a capacity
    full: ClassVar[tuple[type[Exception], ...]] = ()  # its exceptions when it is full
    cannot: ClassVar[dict[str, str]] = {}  # works that it has no answer to, and why

    put: Callable[[bytes], Key]
    get: Callable[[Key], AbstractContextManager[View]]
    delete: Callable[[Key], object]

    @classmethod
    def version(cls) -> str:
        """The package's version, and the server's where there is one. Here: Python's own."""
        return f"Python {platform.python_version()}"

    @classmethod
    @abc.abstractmethod
    def create(cls, capacity: int, folder: str) -> "Peer":
        """A new store; `folder` is empty, in shared memory, and removed by the driver."""

    @classmethod
    @abc.abstractmethod
    def attach(cls, handle: Any) -> "Peer":
        """The same store in another process."""

    @abc.abstractmethod
    def handle(self) -> Any:
        """The argument of `attach`, picklable."""

    @abc.abstractmethod
    def close(self) -> None:
        """Detaches; from the process that created it, ends it and leaves nothing behind."""

    def writer(self, nbytes: int) -> "Writer":
        """Memory to be written to in place. Here: private memory that is put when it is full."""
        return Writer(_scratch(nbytes), self.put)

    def prepare(self, nbytes: int, source: int) -> None:  # noqa: B027  most need nothing
        """Prepares for objects of that size, which process number `source` puts."""

    def reclaim(self) -> None:  # noqa: B027  as above
        """Calls what a user has to call after a process was killed. Most need nothing."""

    def unmapped(self, keys: list[Key]) -> int:
        """Bytes of shared memory that these objects take and no process has mapped."""
        return 0

    def pack(self, key: Key) -> bytes:
        """A key on its way to another process."""
        return pickle.dumps(key)

    def unpack(self, packed: bytes) -> Key:
        return pickle.loads(packed)


class Unplaced(Peer):
    """A peer whose keys alone find its objects, so that no handle is passed on."""

    @classmethod
    def create(cls, capacity: int, folder: str) -> Peer:
        return cls()

    @classmethod
    def attach(cls, handle: Any) -> Peer:
        return cls()

    def handle(self) -> Any:
        return None


class Copying(Peer):
    """A peer whose get copies the object out, by calls that find an object and drop it."""

    _find: Callable[[Key], Any]
    _drop: Callable[[Key], object]

    def get(self, key: Key) -> AbstractContextManager[View]:
        return memoryview(self._find(key))

    def delete(self, key: Key) -> object:
        return self._drop(key)


class Writer:
    """Memory to be written to; `key` is there once the `with` is over."""

    key: Key

    def __init__(self, view: View, seal: Callable[[Any], Key]) -> None:
        self._view = view
        self._seal = seal

    def __enter__(self) -> View:
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.key = self._seal(self._view)


_scratched: dict[int, bytearray] = {}


def _scratch(nbytes: int) -> bytearray:
    # Kept: fresh pages for each object would be charged to the peer.
    if nbytes not in _scratched:
        _scratched[nbytes] = bytearray(nbytes)
    return _scratched[nbytes]


class Held:
    """A view, and a call for when it is let go; for peers whose own views are no `with`."""

    __slots__ = ("_release", "_view")

    def __init__(self, view: View, release: Callable[[], object] | None = None) -> None:
        self._view = view
        self._release = release

    def __enter__(self) -> View:
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._view = None
        if self._release is not None:
            self._release()
