"""`PlasmaClient`: the calls of `pyarrow.plasma`'s client, on a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow

from refstore._store import Store
from refstore.plasma.ids import ObjectID, ObjectNotAvailable, PlasmaObjectNotFound
from refstore.plasma.objects import Objects, parts
from refstore.plasma.subscriber import Subscriber

__all__ = ["PlasmaClient"]

DIGEST_NBYTES = 8


class PlasmaClient(Subscriber):
    """A client of a store with the calls of `pyarrow.plasma.PlasmaClient`; `connect()` makes it.

    In the store an object's name is the hexadecimal text of its id. It may be evicted while nobody
    has a buffer of it. Buffers are `pyarrow.Buffer`s, which keep their object pinned as long as
    they live, or anything over them. Several threads may use a client.

    Parameters:
        store: an open store, which `disconnect()` closes.

    Errors:
        TypeError: an id is no ObjectID.
        ValueError: the client is disconnected.

    Example:
        >>> from refstore import plasma
        >>> client = plasma.connect(store.path)
        >>> client.get(client.put({"any": "object"}))
        {'any': 'object'}
    """

    __slots__ = ("_objects",)

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._objects = Objects(store)

    def __repr__(self) -> str:
        return f"<PlasmaClient of {self._store!r}>"

    @property
    def store_socket_name(self) -> str:
        """The path of the store's file, by which others connect.

        Example:
            >>> from refstore import plasma
            >>> plasma.connect(store.path).store_socket_name == store.path
            True
        """
        return self._store.path

    # --- writing

    def create(self, object_id: ObjectID, data_size: int, metadata: bytes = b"") -> Any:
        """Begins an object, which nobody sees before `seal()`, and nobody else can create.

        It never was there if this process dies, or the client is disconnected or collected.

        Parameters:
            object_id: the id that it gets.
            data_size: bytes of data.
            metadata: bytes beside the data.

        Returns:
            A writable pyarrow.Buffer, not zeroed. Do not write to it after the seal.

        Errors:
            PlasmaObjectExists: there is one, or it is being written.
            PlasmaStoreFull: there is no room, though all was evicted that nobody uses.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = plasma.ObjectID.from_random()
            >>> np.frombuffer(client.create(object_id, 3), "u1")[:] = [1, 2, 3]
            >>> client.seal(object_id)
            >>> client.get_buffers([object_id])[0].to_pybytes()
            b'\\x01\\x02\\x03'
        """
        writer = self._objects.begin(object_id, data_size, metadata)
        return pyarrow.py_buffer(memoryview(writer)[:data_size])

    def seal(self, object_id: ObjectID) -> None:
        """Publishes an object that this client has created. From here on it does not change.

        Parameters:
            object_id: the id that it was created with.

        Errors:
            PlasmaObjectNotFound: this client has not created it, or it is sealed already.
            PlasmaStoreFull: there is no room to notify subscribers; it can be sealed later.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = plasma.ObjectID.from_random()
            >>> buffer = client.create(object_id, 0)
            >>> client.seal(object_id)
            >>> client.contains(object_id)
            True
        """
        self._objects.seal(object_id)

    def create_and_seal(self, object_id: ObjectID, data: Any, metadata: bytes = b"") -> None:
        """Stores bytes under an id.

        Parameters:
            object_id: the id that they get.
            data: anything with a contiguous buffer.
            metadata: bytes beside the data.

        Errors:
            PlasmaObjectExists, PlasmaStoreFull: as of `create()`.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = plasma.ObjectID.from_random()
            >>> client.create_and_seal(object_id, b"data", b"metadata")
            >>> client.get_buffers([object_id], with_meta=True)[0][0]
            b'metadata'
        """
        source = pyarrow.py_buffer(data)
        writer = self._objects.begin(object_id, source.size, metadata)
        try:
            writer.write_at(0, source)
            self._objects.seal(object_id)
        except BaseException:
            self._objects.abort(object_id)
            raise

    def put_raw_buffer(
        self,
        value: Any,
        object_id: ObjectID | None = None,
        metadata: bytes = b"",
        memcopy_threads: int = 6,
    ) -> ObjectID:
        """Stores bytes, under a new id if none is given.

        Parameters:
            value: anything with a contiguous buffer.
            object_id: the id that they get; None: a new one.
            metadata: bytes beside these.
            memcopy_threads: of no effect.

        Returns:
            The id.

        Errors:
            PlasmaObjectExists, PlasmaStoreFull: as `create()` raises them.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.get_buffers([client.put_raw_buffer(b"abc")])[0].to_pybytes()
            b'abc'
        """
        target = object_id or ObjectID.from_random()
        self.create_and_seal(target, value, metadata)
        return target

    def put(
        self,
        value: Any,
        object_id: ObjectID | None = None,
        memcopy_threads: int = 6,
        serialization_context: None = None,
    ) -> ObjectID:
        """Stores a Python object, as `Store.put()` does: an array, or else pickled.

        Parameters:
            value: the object. Bytes are pickled, too, and come back as what they were.
            object_id: the id that it gets; None: a new one.
            memcopy_threads: of no effect.
            serialization_context: must be None.

        Returns:
            The id of the object.

        Errors:
            PlasmaObjectExists, PlasmaStoreFull: as of the other calls.
            TypeError: a serialization context was given.
            Exception: whatever pickle raises.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.get(client.put([1, "two"]))
            [1, 'two']
        """
        _require_no_context(serialization_context)
        target = object_id or ObjectID.from_random()
        self._objects.put(target, value)
        return target

    # --- reading

    def get_buffers(
        self, object_ids: Sequence[ObjectID], timeout_ms: int = -1, with_meta: bool = False
    ) -> list[Any]:
        """Returns buffers of the data of objects, once all of them are there.

        Parameters:
            object_ids: their ids.
            timeout_ms: milliseconds to wait for those that are not; -1: for ever.
            with_meta: whether to return the metadata, too.

        Returns:
            A read-only pyarrow.Buffer of each, without a copy, and None for what was not there in
            time; or pairs of the metadata, as bytes, and that.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> there, absent = client.put_raw_buffer(b"abc"), plasma.ObjectID.from_random()
            >>> [buffer and buffer.size for buffer in client.get_buffers([there, absent], 0)]
            [3, None]
        """
        found = self._parts(object_ids, timeout_ms)
        if not with_meta:
            return [data for data, _ in found]
        return [(meta if meta is None else meta.to_pybytes(), data) for data, meta in found]

    def get_metadata(self, object_ids: Sequence[ObjectID], timeout_ms: int = -1) -> list[Any]:
        """Returns the metadata of objects, once all of them are there.

        Parameters:
            object_ids: their ids.
            timeout_ms: milliseconds to wait; -1: for ever.

        Returns:
            A pyarrow.Buffer of each, and None for what was not there in time.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = client.put_raw_buffer(b"abc", metadata=b"letters")
            >>> client.get_metadata([object_id])[0].to_pybytes()
            b'letters'
        """
        return [meta for _, meta in self._parts(object_ids, timeout_ms)]

    def _parts(self, object_ids: Sequence[ObjectID], timeout_ms: int) -> list[tuple[Any, Any]]:
        found = self._objects.pinned(object_ids, timeout_ms)
        return [(None, None) if buf is None else parts(buf) for buf in found]

    def get(
        self,
        object_ids: ObjectID | Sequence[ObjectID],
        timeout_ms: int = -1,
        serialization_context: None = None,
    ) -> Any:
        """Returns objects that were put, once all of them are there.

        Arrays, tables and tensors in them lie in shared memory, read-only, and keep it pinned.

        Parameters:
            object_ids: an id, or a list of them.
            timeout_ms: milliseconds to wait; -1: for ever.
            serialization_context: None.

        Returns:
            The object, or a list of them; `ObjectNotAvailable` in place of what was not there in
            time. What was not put but created is a memoryview.

        Errors:
            TypeError: a serialization context was given.
            Exception: whatever unpickling raises.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.get([client.put(1), client.put("two")])
            [1, 'two']
        """
        _require_no_context(serialization_context)
        if isinstance(object_ids, ObjectID):
            return self.get([object_ids], timeout_ms)[0]
        found = self._objects.pinned(object_ids, timeout_ms)
        return [ObjectNotAvailable if buf is None else buf.value for buf in found]

    def contains(self, object_id: ObjectID) -> bool:
        """Whether an object is there, and sealed.

        Parameters:
            object_id: its id.

        Returns:
            True or False.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.contains(plasma.ObjectID.from_random())
            False
        """
        return self._objects.contains(object_id)

    def hash(self, object_id: ObjectID) -> bytes:
        """Computes a checksum of an object's data and metadata.

        Parameters:
            object_id: its id.

        Returns:
            8 bytes. Plasma's are others.

        Errors:
            PlasmaObjectNotFound: it is not there.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.hash(client.put_raw_buffer(b"a")) == client.hash(client.put_raw_buffer(b"b"))
            False
        """
        ((data, metadata),) = self._parts([object_id], 0)
        if data is None:
            raise PlasmaObjectNotFound(f"{object_id!r} is not there to be hashed")
        digest = hashlib.blake2b(data.size.to_bytes(8, "little"), digest_size=DIGEST_NBYTES)
        digest.update(data)
        digest.update(metadata)
        return digest.digest()

    # --- deleting

    def delete(self, object_ids: Sequence[ObjectID]) -> None:
        """Deletes objects; those that are not there, or not sealed, are passed over.

        They are gone at once, and their memory is free when nobody has a buffer of it any more.

        Parameters:
            object_ids: the ids of the objects.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = client.put(1)
            >>> client.delete([object_id])
            >>> client.contains(object_id)
            False
        """
        self._objects.delete(object_ids)

    def evict(self, num_bytes: int) -> int:
        """Deletes objects that nobody uses, first those that this client used longest ago.

        Of an object that it has not used, the time when it was put counts. The store makes room for
        new objects by itself.

        Parameters:
            num_bytes: bytes of data and metadata to delete, at least, if there are so many.

        Returns:
            How many were.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = client.put_raw_buffer(b"abc")
            >>> client.evict(1)
            3
        """
        return self._objects.evict(num_bytes)

    # --- looking

    def list(self) -> dict[ObjectID, dict[str, Any]]:
        """Lists the objects, those that are being written, too.

        Returns:
            A dict by id of dicts: `data_size` and `metadata_size` in bytes; `ref_count`, the pins
            of all processes; `create_time` in seconds since the epoch; `construct_duration`,
            seconds from there to the seal, -1 if this client has not written it; `state`, "created"
            or "sealed". Of what another client is writing, the metadata count as data.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> object_id = client.put_raw_buffer(b"abc", metadata=b"letters")
            >>> told = client.list()[object_id]
            >>> told["data_size"], told["metadata_size"], told["state"]
            (3, 7, 'sealed')
        """
        return dict(self._objects.rows())

    def store_capacity(self) -> int:
        """Returns the bytes of payload that the store holds.

        Returns:
            Its capacity.

        Example:
            >>> from refstore import plasma
            >>> plasma.connect(store.path).store_capacity() == store.capacity
            True
        """
        return self._store.capacity

    def debug_string(self) -> str:
        """Describes the store, for people.

        Returns:
            Some lines of text.

        Example:
            >>> from refstore import plasma
            >>> print(plasma.connect(store.path).debug_string())  # doctest: +ELLIPSIS
            store: ...
            capacity: ...
        """
        stats = self._store.stats()
        told = {name: getattr(stats, name) for name in ("capacity", "used", "free", "objects")}
        return "\n".join(
            f"{name}: {value}" for name, value in [("store", self._store.path), *told.items()]
        )

    def disconnect(self) -> None:
        """Detaches from the store; what was not sealed is gone. Buffers stay valid, and pinned.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.disconnect()
        """
        self._objects.abort_all()
        try:
            self._unsubscribe()
        finally:
            self._store.close()


def _require_no_context(context: object) -> None:
    if context is not None:
        raise TypeError(
            f"a serialization context was given, {context!r}, and objects are pickled: tell pickle "
            "how, by copyreg or __reduce__"
        )
