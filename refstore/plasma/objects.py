"""Objects as Plasma has them: with an id, metadata and a state, evicted in the order of their use.

An object's name is the hexadecimal text of its id. Its metadata is its `meta`, or what is too long
for that lies behind the data, as in Plasma; then `meta` says where.

The store evicts by itself when it is full. `evict()` frees so many bytes when it is asked to: by
when this client used objects last, and of those that it did not use by when they were put.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pyarrow

from refstore._buffers import PinnedBuffer, Writer
from refstore._errors import GetTimeoutError, ObjectNotFoundError, StoreFullError
from refstore._refs import ObjectRef
from refstore._reports import ObjectInfo
from refstore._store import Store
from refstore.plasma.ids import ObjectID, PlasmaObjectNotFound, as_plasma_errors
from refstore.plasma.notifications import IS_ID, Notification, announced, drop_dead_subscribers

__all__ = ["Objects", "parts"]

MAX_META = 65_536  # bytes that an object's `meta` takes
BEHIND = b"plasma: the metadata lies behind the data, which has so many bytes: "
REMEMBERED = 100_000  # objects of which a client knows when it used them last
UNKNOWN = -1.0

T = TypeVar("T")


class _Draft(NamedTuple):
    """An object that this client has created and not sealed."""

    writer: Writer
    data_size: int
    metadata_size: int
    began: float


class _Use(NamedTuple):
    """The last use of an object by this client, and what it knows of it."""

    ref: ObjectRef
    at: float
    data_size: int
    metadata_size: int
    took: float = UNKNOWN  # seconds from its creation to its seal


class _AsItself:
    """A value that is pickled, though it has a buffer: bytes come back as bytes."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._value), (bytes(self._value),)


def name_of(object_id: ObjectID) -> str:
    """The name of an object in the store."""
    if not isinstance(object_id, ObjectID):
        raise TypeError(f"{object_id!r} is no ObjectID: make one of 20 bytes")
    return object_id.binary().hex()


def parts(buf: PinnedBuffer) -> tuple[Any, Any]:
    """The data and the metadata of an object, as pyarrow.Buffers, of which the first pins it."""
    data, meta = pyarrow.py_buffer(buf), buf.meta
    if meta.startswith(BEHIND):
        data_size = int(meta[len(BEHIND) :])
        return data.slice(0, data_size), data.slice(data_size)
    return data, pyarrow.py_buffer(meta)


class Objects:
    """The objects of one client: those that it writes, and when it used which."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._drafts: dict[str, _Draft] = {}
        self._uses: dict[str, _Use] = {}  # first what was used longest ago
        self._candidates: deque[tuple[float, str]] = deque()

    # --- writing

    def begin(self, object_id: ObjectID, data_size: int, metadata: bytes) -> Writer:
        name, meta, behind = name_of(object_id), bytes(metadata), b""
        if len(meta) > MAX_META or meta.startswith(BEHIND):
            meta, behind = BEHIND + b"%d" % data_size, meta
        with as_plasma_errors():
            writer = self._with_room(
                lambda: self.store.create(
                    data_size + len(behind), name=name, claim=True, evictable=True, meta=meta
                )
            )
        if behind:
            writer.write_at(data_size, behind)
        self._drafts[name] = _Draft(writer, data_size, len(metadata), time.time())
        return writer

    def seal(self, object_id: ObjectID) -> None:
        name = name_of(object_id)
        draft = self._drafts.get(name)
        if draft is None:
            state = "is sealed already" if name in self.store else "was not created by this client"
            raise PlasmaObjectNotFound(f"{object_id!r} {state}: call create() before each seal()")
        sizes = draft.data_size, draft.metadata_size
        with as_plasma_errors(), announced(self.store, 1) as told:
            ref = draft.writer.seal()
            if told is not None:
                told.append(Notification(object_id.binary(), *sizes))
        del self._drafts[name]
        now = time.time()
        self._note(name, _Use(ref, now, *sizes, now - draft.began))

    def abort(self, object_id: ObjectID) -> None:
        """Gives up an object that is not sealed; does nothing if it is."""
        draft = self._drafts.pop(name_of(object_id), None)
        if draft is not None:
            draft.writer.abort()

    def abort_all(self) -> None:
        while self._drafts:
            self._drafts.popitem()[1].writer.abort()

    def put(self, object_id: ObjectID, value: Any) -> None:
        name = name_of(object_id)
        given = _AsItself(value) if type(value) in (bytes, bytearray, memoryview) else value
        with as_plasma_errors():
            self._with_room(lambda: self._put(name, given))

    def _put(self, name: str, value: Any) -> None:
        with announced(self.store, 1) as told:
            ref = self.store.put(value, name=name, evictable=True)
            if told is not None:
                with contextlib.suppress(ObjectNotFoundError):  # it is evicted already
                    told.append(Notification(bytes.fromhex(name), self.store.info(ref).nbytes, 0))

    def _with_room(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except StoreFullError:
            if not drop_dead_subscribers(self.store):
                raise
        return call()

    # --- reading

    def pinned(self, object_ids: Sequence[ObjectID], timeout_ms: int) -> list[PinnedBuffer | None]:
        """A buffer of each, once all are there or it is time. What comes first is pinned first."""
        names = [name_of(one) for one in object_ids]
        end = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000
        found: dict[str, PinnedBuffer] = {}
        while True:
            for name in names:
                if name not in found:
                    with contextlib.suppress(ObjectNotFoundError):
                        found[name] = self._get(name)
            missing = [name for name in dict.fromkeys(names) if name not in found]
            left = None if end is None else end - time.monotonic()
            if not missing or (left is not None and left <= 0):
                return [found.get(name) for name in names]
            with contextlib.suppress(GetTimeoutError):
                self.store.wait_any(missing, timeout=left)

    def _get(self, name: str) -> PinnedBuffer:
        buf = self.store.get(name)
        known = self._uses.get(name)
        if known is None or known.ref != buf.ref:
            known = _Use(buf.ref, 0, *(part.size for part in parts(buf)))
        self._note(name, known._replace(at=time.time()))
        return buf

    def _note(self, name: str, use: _Use) -> None:
        self._uses.pop(name, None)
        self._uses[name] = use
        if len(self._uses) > REMEMBERED:
            with contextlib.suppress(RuntimeError):  # another thread does the same
                self._uses.pop(next(iter(self._uses)), None)

    # --- deleting

    def delete(self, object_ids: Sequence[ObjectID]) -> None:
        names = [name_of(one) for one in object_ids]
        with announced(self.store, len(names)) as told:
            for name in names:
                self._delete(name, told)

    def evict(self, nbytes: int) -> int:
        """Deletes objects that nobody uses until so many bytes are free; how many are."""
        victims: list[str] = []
        freed, unused = 0, self._unused()
        while freed < nbytes and (found := next(unused, None)) is not None:
            victims.append(found[0])
            freed += found[1]
        with announced(self.store, len(victims)) as told:
            for name in victims:
                self._delete(name, told)
        return freed

    def _unused(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of sealed objects that nobody uses, first what was used longest ago.

        What an earlier call has found is still in order: what came since is younger, and what was
        used since has another time.
        """
        for _ in range(2):
            while self._candidates:
                with contextlib.suppress(ObjectNotFoundError, IndexError):
                    at, name = self._candidates.popleft()  # unless another thread was first
                    info = self.store.info(name)
                    if not info.pins and self._at(info) == at:
                        yield name, self._size(name)
            rows = (one for one in self._rows() if one.state == "live" and not one.pins)
            self._candidates.extend(sorted((self._at(one), one.name or "") for one in rows))

    def _size(self, name: str) -> int:
        with self.store.get(name) as buf:
            return sum(part.size for part in parts(buf))

    def _at(self, info: ObjectInfo) -> float:
        known = self._uses.get(info.name or "")
        return known.at if known is not None and known.ref == info.ref else info.created

    def _delete(self, name: str, told: list[Notification] | None) -> None:
        self._uses.pop(name, None)
        with contextlib.suppress(ObjectNotFoundError):
            self.store.delete(name)
            if told is not None:
                told.append(Notification(bytes.fromhex(name)))

    # --- looking

    def contains(self, object_id: ObjectID) -> bool:
        return name_of(object_id) in self.store

    def rows(self) -> Iterator[tuple[ObjectID, dict[str, Any]]]:
        """Each object as Plasma lists it."""
        for info in self._rows():
            name = info.name or ""
            with contextlib.suppress(ObjectNotFoundError):
                data_size, metadata_size, took = self._known(name, info)
                yield (
                    ObjectID(bytes.fromhex(name)),
                    {
                        "data_size": data_size,
                        "metadata_size": metadata_size,
                        "ref_count": info.pins,
                        "create_time": info.created,
                        "construct_duration": took,
                        "state": "sealed" if info.state == "live" else "created",
                    },
                )

    def _rows(self) -> Iterator[ObjectInfo]:
        for info in self.store.objects(""):
            if info.state != "pending delete" and IS_ID(info.name or ""):
                yield info

    def _known(self, name: str, info: ObjectInfo) -> tuple[int, int, float]:
        """Sizes of the data and the metadata, and how long it was written."""
        draft, known = self._drafts.get(name), self._uses.get(name)
        if info.ref is None:
            if draft is None:  # another client's, of which nobody else sees where the data end
                return info.nbytes, 0, UNKNOWN
            return draft.data_size, draft.metadata_size, UNKNOWN
        if known is None or known.ref != info.ref:
            with self.store.get(info.ref) as buf:
                known = _Use(info.ref, info.created, *(part.size for part in parts(buf)))
            self._note(name, known)
        return known.data_size, known.metadata_size, known.took
