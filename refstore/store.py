"""`Store`: what users open. The engine behind it does the work; here is what engines share."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from refstore import _core, paths
from refstore.errors import StoreVersionError

if TYPE_CHECKING:
    from refstore._core import ObjectRef, PinnedBuffer

__all__ = ["Holder", "Recovery", "Store", "StoreStats", "collect_temporary"]

LOOKS = 5  # more that check() takes before it reports
LOOK_AGAIN_AFTER = 0.02  # seconds


@dataclass(frozen=True)
class StoreStats:
    """What a store holds. Sizes in bytes; exact when nobody is at work on the store.

    The first seven are counted from the slots; the counters are kept per process and added up.
    """

    capacity: int
    used: int  # blocks being written, live or deleted and still pinned, as allocated
    free: int
    largest_free: int  # the largest object that fits now
    objects: int  # live
    pinned: int  # live or deleted
    condemned: int  # deleted, and kept by pins
    puts: int
    gets: int
    deletes: int
    evictions: int
    recoveries: int  # processes that died attached, and were cleaned up after
    processes: int  # attached and alive


@dataclass(frozen=True)
class Recovery:
    """What one process gave back of what dead processes held. True if any had died."""

    processes: int  # dead ones that were cleaned up after
    pids: tuple[int, ...]  # theirs, as far as known; of very many, the last
    pins: int
    unfinished: int  # objects that were never sealed, and are gone
    published: int  # objects that lacked the last steps of their publication, and are whole
    locks: int
    nbytes: int  # of blocks that came free, as allocated

    def __bool__(self) -> bool:
        return self.processes > 0


class Holder(NamedTuple):
    """One process and one object that it keeps in memory, by pins or because it is writing it."""

    pid: int  # 0 while it is not known
    command: str  # how the process was started, cut short
    ref: ObjectRef | None  # None: it is being written
    name: str | None
    pins: int
    bytes: int  # of the object's block, as allocated
    alive: bool  # the process is; what a dead one holds comes back by recover(), or by itself


class Store(_core.Engine):
    """A store on this machine, shared by every process that opens the same name.

    `name` is a plain name, for a file in this user's folder in shared memory, or a path if it
    holds a separator. `create`: None attaches, or creates if it is not there; True must create;
    False must attach. `capacity` is bytes of payload, as a number or "64MiB"; `max_objects` how
    many objects fit. An attached store takes both from its file, and a different value given is a
    ValueError.

    Errors: FileExistsError, FileNotFoundError, ValueError, StoreCorruptedError, StoreVersionError,
    PermissionError (another user's file, without `foreign=True`), OSError.
    """

    __slots__ = ("__weakref__", "_remove")

    _remove: weakref.finalize[[str, int, int, int], Store] | None

    def __init__(
        self,
        name: str | os.PathLike[str] = "default",
        *,
        capacity: int | str | None = None,
        max_objects: int | None = None,
        create: bool | None = None,
        backend: str = "auto",
        evict: str | None = None,
        mode: int = 0o600,
        foreign: bool = False,
    ) -> None:
        self._remove = None
        _check_options(backend, evict)
        wanted = None if capacity is None else paths.parse_capacity(capacity)
        path = paths.store_path(name)
        collect_temporary(os.path.dirname(path))
        while True:
            if create is not True:
                try:
                    self._attach(path, foreign, wanted, max_objects)
                except FileNotFoundError:
                    if create is False:
                        raise
                else:
                    return
            try:
                os.close(_make(path, wanted, max_objects, mode, temporary=False))
            except FileExistsError:
                if create:
                    raise
                continue  # another process was first: attach to its store
            try:
                self._attach(path, foreign, None, None)
            except BaseException:
                os.unlink(path)
                raise
            return

    @classmethod
    def temporary(
        cls,
        capacity: int | str | None = None,
        *,
        max_objects: int | None = None,
        backend: str = "auto",
        evict: str | None = None,
        mode: int = 0o600,
    ) -> Store:
        """A store with a fresh name, removed when this process closes it, exits or dies."""
        _check_options(backend, evict)
        wanted = None if capacity is None else paths.parse_capacity(capacity)
        path = paths.store_path(paths.temporary_name())
        collect_temporary(os.path.dirname(path))
        # The descriptor holds the lock by which others see that the creator lives.
        fd = _make(path, wanted, max_objects, mode, temporary=True)
        store = cls.__new__(cls)
        store._remove = weakref.finalize(
            store, _remove_temporary, path, fd, os.fstat(fd).st_ino, os.getpid()
        )
        _creator_fds.add(fd)
        try:
            store._attach(path, False, None, None)
        except BaseException:
            store._remove()
            raise
        return store

    def _attach(
        self, path: str, foreign: bool, capacity: int | None, max_objects: int | None
    ) -> None:
        attachment = _core.attach(path, foreign)
        for what, asked, has in (
            ("capacity", capacity, attachment.capacity),
            ("max_objects", max_objects, attachment.max_objects),
        ):
            if asked is not None and asked != has:
                raise ValueError(
                    f"store {path!r} has {what} {has}, and {asked} was asked for: "
                    "leave it out to attach, or remove the store to make it anew"
                )
        self._open(attachment)

    @property
    def path(self) -> str:
        """The store's file, an absolute path."""
        return self._attachment.path

    @property
    def capacity(self) -> int:
        """Bytes of payload that fit."""
        return self._attachment.capacity

    @property
    def max_objects(self) -> int:
        """Objects that fit."""
        return self._attachment.max_objects

    @property
    def evict(self) -> None:
        """The eviction policy: None, objects live until they are deleted."""
        self._attachment  # noqa: B018  a closed store raises
        return None

    def stats(self) -> StoreStats:
        """Counts of what the store holds and has done."""
        return StoreStats(*self._census())

    def holders(self, ref_or_name: ObjectRef | str | None = None) -> list[Holder]:
        """Who keeps what in memory, largest first: of the whole store, or of one object.

        A ref finds its object even when that is deleted, as long as it is pinned; a live object
        that nobody pins has no holders. Errors: ObjectNotFoundError.
        """
        found = [Holder(*row) for row in self._holders(ref_or_name)]
        return sorted(found, key=lambda holder: (-holder.bytes, holder.pid))

    def recover(self) -> Recovery:
        """Gives back what dead processes held; it also happens by itself, when it is needed.

        The result is what this process gave back since its last recover(), by this call or by
        itself. Errors: OSError if there is no file descriptor left to do it with; what was given
        back till then is in the next result.
        """
        return Recovery(*self._recover_all())

    def check(self) -> list[str]:
        """Every invariant of the store, looked at and not touched: a sentence for each that fails.

        What a dead process still holds is no problem. What changes while it looks may seem one, so
        it looks again, and reports only what stays.
        """
        problems = self._problems()
        for _ in range(LOOKS):
            if not problems:
                break
            time.sleep(LOOK_AGAIN_AFTER)
            problems &= self._problems()
        return sorted(problems)

    def unlink(self) -> None:
        """Removes the store's file, if it is still this store's. Who is attached goes on.

        Errors: FileNotFoundError if it is gone, StoreVersionError if another store is there now.
        """
        attachment = self._attachment
        with _opened(attachment.path) as fd:
            if not attachment.is_of(fd):
                raise StoreVersionError(
                    f"{attachment.path!r} is another store by now, and is left alone"
                )
            os.unlink(attachment.path)

    def close(self) -> None:
        """Detaches. Live buffers stay valid and pinned; the last one unmaps. Twice is once."""
        if self._remove is not None:
            self._remove()
        super().close()

    def __enter__(self) -> Store:
        self._attachment  # noqa: B018  a closed store raises
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> PinnedBuffer:
        return self.get(_name(name))

    def __setitem__(self, name: str, obj: object) -> None:
        self.put(obj, name=_name(name), replace=True)

    def __delitem__(self, name: str) -> None:
        self.delete(_name(name))

    def __reduce__(self) -> tuple[object, ...]:
        attachment = self._attachment
        return _reattach, (type(self), attachment.path, attachment.uuid)

    def __repr__(self) -> str:
        if self.closed:
            return "<Store, closed>"
        return f"<Store {self.path!r}, capacity {self.capacity}>"


def _reattach(cls: type[Store], path: str, uuid: bytes) -> Store:
    store = cls.__new__(cls)
    store._remove = None
    # whoever could unpickle this trusts its sender, hence the file that the sender trusts
    store._attach(path, True, None, None)
    if store._attachment.uuid != uuid:
        store.close()
        raise StoreVersionError(f"{path!r} is another store than the one that was pickled")
    return store


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    return name


def _check_options(backend: str, evict: str | None) -> None:
    if backend not in ("auto", "native", "filelock"):
        raise ValueError(f"backend is {backend!r}: it is 'auto', 'native' or 'filelock'")
    if evict not in (None, "lru"):
        raise ValueError(f"evict is {evict!r}: it is None or 'lru'")
    if evict is not None:
        raise ValueError(f"evict is {evict!r}: this version does not evict yet, leave it out")
    if backend == "filelock":
        raise NotImplementedError("this version of refstore has the native engine only")


def _make(
    path: str, capacity: int | None, max_objects: int | None, mode: int, *, temporary: bool
) -> int:
    folder = os.path.dirname(path)
    if capacity is None:
        capacity = paths.default_capacity(folder)
    if max_objects is None:
        max_objects = paths.default_max_objects(capacity)
    if isinstance(max_objects, bool) or not isinstance(max_objects, int):
        raise TypeError(f"max_objects is an int, not {type(max_objects).__name__}")
    if not 0 < max_objects <= _core.OBJECTS_LIMIT:
        raise ValueError(
            f"max_objects is {max_objects}: it must be between 1 and {_core.OBJECTS_LIMIT}"
        )
    return _core.make_file(path, capacity, max_objects, mode, temporary)


# Temporary stores: the creator keeps the descriptor by whose lock others see that it lives.

_creator_fds: set[int] = set()


def _forget_creators() -> None:
    # A forked child is no creator: what it inherited would keep a dead creator's stores alive.
    for fd in _creator_fds:
        os.close(fd)
    _creator_fds.clear()


os.register_at_fork(after_in_child=_forget_creators)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _remove_temporary(path: str, fd: int, inode: int, creator: int) -> None:
    if os.getpid() != creator:
        return
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    _creator_fds.discard(fd)
    os.close(fd)


def collect_temporary(folder: str) -> list[str]:
    """Removes the temporary stores in `folder` whose creators are dead; returns their paths."""
    removed: list[str] = []
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return removed  # whoever opens or makes the store says so
    for entry in entries:
        if not entry.name.startswith(paths.TEMPORARY_PREFIX):
            continue
        with contextlib.suppress(OSError), _opened(entry.path) as fd:
            if _core.is_creator_alive(fd) is False:
                os.unlink(entry.path)
                removed.append(entry.path)
    return removed
