"""Every exception that refstore raises of its own.

Each has `RefstoreError` as a base, and beside it the built-in exception that code which knows
nothing of refstore would catch: a missing object is a `KeyError`, a full store a `MemoryError`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

if TYPE_CHECKING:
    from refstore._refs import ObjectRef

__all__ = [
    "GetTimeoutError",
    "NodeLostError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "RefstoreError",
    "RefstoreWarning",
    "StoreBusyError",
    "StoreCorruptedError",
    "StoreFullError",
    "StoreVersionError",
    "TopHolder",
]


class RefstoreWarning(UserWarning):
    """Something works, though not as well as it could on this machine.

    Warned of are a store that works through file locks since the compiled core is not there, a
    forked child that has no place in the store, and a REFSTORE_LABEL that cannot be a label.

    Example:
        >>> issubclass(refstore.RefstoreWarning, UserWarning)
        True
    """


class RefstoreError(Exception):
    """The base of all errors of this package.

    Raised itself in a forked child that has no place in the store, and when all places in the
    process table are taken.

    Example:
        >>> try:
        ...     store.get("no such name")
        ... except refstore.RefstoreError as error:
        ...     print(type(error).__name__)
        ObjectNotFoundError
    """

    _keywords: ClassVar[tuple[str, ...]] = ()  # attributes that the constructor asks for by name

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as cls(*args), which has no place for keyword arguments.
        keywords = {name: getattr(self, name) for name in self._keywords}
        return functools.partial(type(self), **keywords), self.args, self.__dict__


_ARGS: Any = BaseException.__dict__["args"]  # which the property below hides
UNWRITTEN: Final = object()


class ObjectNotFoundError(RefstoreError, KeyError):
    """No live object has this ref or name. A KeyError, too.

    Parameters:
        key: the ref or name that was asked for.

    Example:
        >>> try:
        ...     store.get("no such name")
        ... except KeyError as error:
        ...     print(error.key)
        no such name
    """

    # Who asks a cache meets it all the time, and seldom reads it. So the store makes it by
    # `__new__` alone, with args of UNWRITTEN, a function that writes the message, the store's
    # path, and the key. Message and attribute are made of these for the first who asks.

    _keywords = ("key",)

    def __init__(self, message: str, *, key: ObjectRef | str) -> None:
        # BaseException.__new__() has kept the message
        self.key = key

    @functools.cached_property
    def key(self) -> ObjectRef | str:
        """The ref or name that was asked for.

        Example:
            >>> try:
            ...     store.delete("weights")
            ... except refstore.ObjectNotFoundError as error:
            ...     print(error.key)
            weights
        """
        unwritten = self._unwritten()
        if unwritten is not None:
            return cast("ObjectRef | str", unwritten[-1])
        with contextlib.suppress(KeyError):  # another thread has just made both
            return cast("ObjectRef | str", self.__dict__["key"])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute 'key'")

    def _unwritten(self) -> tuple[Any, ...] | None:
        """Parts of the message, if it is not there yet: what writes it, the path, and the key."""
        kept = _ARGS.__get__(self)
        return kept[1:] if kept and kept[0] is UNWRITTEN else None

    def _write_message(self) -> None:
        unwritten = self._unwritten()
        if unwritten is not None:
            write, path, key = unwritten
            self.args = (write(path, key),)

    @property
    def args(self) -> tuple[Any, ...]:
        """The message, in a tuple, as every exception has it.

        Example:
            >>> try:
            ...     store.get("no such name")
            ... except KeyError as error:
            ...     print(error.args[0][:33])
            there is no object named 'no such
        """
        self._write_message()
        return cast(tuple[Any, ...], _ARGS.__get__(self))

    @args.setter
    def args(self, value: tuple[Any, ...]) -> None:
        if self._unwritten() is not None:
            self.key  # noqa: B018  before what it is made of is gone
        _ARGS.__set__(self, value)

    def __repr__(self) -> str:
        self._write_message()
        return super().__repr__()

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; this one is a sentence.
        self._write_message()
        return Exception.__str__(self)


class ObjectExistsError(RefstoreError, FileExistsError):
    """The name is taken or claimed. A FileExistsError, too.

    Parameters:
        key: the name.
        pid: of the process that claims the name, by `create(claim=True)`; None: an object has it.
        refs: of put_many(): the objects that were published before.

    Example:
        >>> _ = store.put(b"x", name="weights")
        >>> try:
        ...     store.put(b"y", name="weights")
        ... except refstore.ObjectExistsError as error:
        ...     print(error.key)
        weights
    """

    _keywords = ("key", "pid", "refs")

    def __init__(
        self,
        message: str,
        *,
        key: str,
        pid: int | None = None,
        refs: Sequence[ObjectRef] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.pid = pid
        self.refs = list(refs)


class TopHolder(NamedTuple):
    """A process, and how much of a store's space it keeps from being used again.

    Parameters:
        pid: of the process; 0 while it is not known.
        command: how it was started, cut short.
        bytes: of the blocks that it pins or is writing, as allocated.

    Example:
        >>> refstore.TopHolder(pid=4711, command="train.py", bytes=4096).bytes
        4096
    """

    pid: int
    command: str
    bytes: int


class StoreFullError(RefstoreError, MemoryError):
    """There is no space for an object. A MemoryError, too.

    Parameters:
        needed: bytes asked for.
        free: bytes free in the whole store.
        largest_free: bytes of the largest object that would fit.
        holders: the processes that pin objects or are writing some, a TopHolder each, largest
            first.

    Example:
        >>> try:
        ...     store.put(bytes(store.capacity + 1))
        ... except refstore.StoreFullError as error:
        ...     print(error.needed - store.capacity, error.holders)
        1 ()
    """

    _keywords = ("needed", "free", "largest_free", "holders")

    def __init__(
        self,
        message: str,
        *,
        needed: int,
        free: int,
        largest_free: int,
        holders: Sequence[TopHolder] = (),
    ) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free
        self.largest_free = largest_free
        self.holders = tuple(holders)


class GetTimeoutError(RefstoreError, TimeoutError):
    """A wait ended with its time, and nothing had come. A TimeoutError, too.

    Parameters:
        pid: of the process that has claimed the name, and is making its object; else None.
        ready: of wait_any(): the names that have objects.

    Example:
        >>> try:
        ...     store.get("no such name", timeout=0.01)
        ... except TimeoutError as error:
        ...     print(error.ready)
        []
    """

    _keywords = ("pid", "ready")

    def __init__(self, message: str, *, pid: int | None = None, ready: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.pid = pid
        self.ready = list(ready)


class StoreBusyError(RefstoreError, TimeoutError):
    """A process is stopped in the middle of a change that must end first. A TimeoutError, too.

    Raised after five seconds in which the process did not go on.

    Parameters:
        pid: of that process: resume it (kill -CONT) or kill it.

    Example:
        >>> issubclass(refstore.StoreBusyError, TimeoutError)
        True
    """

    _keywords = ("pid",)

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class StoreCorruptedError(RefstoreError):
    """The file is not a store, or its contents contradict each other.

    Example:
        >>> with open(store.path + ".other", "wb") as file:
        ...     _ = file.write(b"no store" * 1000)
        >>> try:
        ...     refstore.Store(file.name)
        ... except refstore.StoreCorruptedError:
        ...     os.unlink(file.name)
    """


class StoreVersionError(RefstoreError):
    """The file is a store, but of another format, build or engine, or not the one expected.

    Example:
        >>> other = "filelock" if store.backend == "native" else "native"
        >>> try:
        ...     refstore.Store(store.path, backend=other)
        ... except refstore.StoreVersionError:
        ...     print("it belongs to the other engine")
        it belongs to the other engine
    """


class NodeLostError(RefstoreError, ConnectionError):
    """The node of a cluster that has an object is dead, and this node has no replica.

    Raised only when Ray lists the node as dead, which takes it some 15 s and more; before that,
    what cannot be reached is waited for until the timeout.

    Parameters:
        node: Ray's id of the node.

    Example:
        >>> refstore.NodeLostError("it is dead", node="c0ffee").node
        'c0ffee'
    """

    _keywords = ("node",)

    def __init__(self, message: str, *, node: str) -> None:
        super().__init__(message)
        self.node = node
