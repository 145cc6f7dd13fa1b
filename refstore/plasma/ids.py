"""Names that `pyarrow.plasma` has beside its client: ids of objects, and its errors."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import pyarrow

from refstore._errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    RefstoreError,
    StoreFullError,
)

__all__ = [
    "ID_NBYTES",
    "ObjectID",
    "ObjectNotAvailable",
    "PlasmaObjectExists",
    "PlasmaObjectNotFound",
    "PlasmaStoreFull",
    "as_plasma_errors",
]

ID_NBYTES = 20


class ObjectID:
    """The 20 bytes by which clients name an object. Hashable; pickles as these bytes.

    In the store the object's name is their hexadecimal text: `store.get(object_id.binary().hex())`.

    Parameters:
        object_id: the bytes.

    Errors:
        ValueError: it is not 20 bytes.

    Example:
        >>> from refstore import plasma
        >>> plasma.ObjectID(b"12345678901234567890")
        ObjectID(3132333435363738393031323334353637383930)
    """

    __slots__ = ("__weakref__", "_raw")

    def __init__(self, object_id: bytes) -> None:
        if not isinstance(object_id, bytes) or len(object_id) != ID_NBYTES:
            raise ValueError(f"an ObjectID is made of {ID_NBYTES} bytes, not of {object_id!r}")
        self._raw = object_id

    def binary(self) -> bytes:
        """Returns the 20 bytes.

        Returns:
            The bytes that it was made of.

        Example:
            >>> from refstore import plasma
            >>> plasma.ObjectID(b"12345678901234567890").binary()
            b'12345678901234567890'
        """
        return self._raw

    @staticmethod
    def from_random() -> ObjectID:
        """Makes an id that no other object has, in any process.

        Returns:
            The id, of 20 random bytes.

        Example:
            >>> from refstore import plasma
            >>> plasma.ObjectID.from_random() == plasma.ObjectID.from_random()
            False
        """
        return ObjectID(secrets.token_bytes(ID_NBYTES))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectID) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"ObjectID({self._raw.hex()})"

    def __reduce__(self) -> tuple[type[ObjectID], tuple[bytes]]:
        return ObjectID, (self._raw,)


class ObjectNotAvailable:
    """Stands for an object that was not there in time. `get()` returns the class itself.

    Example:
        >>> from refstore import plasma
        >>> client = plasma.connect(store.path)
        >>> client.get(plasma.ObjectID.from_random(), timeout_ms=0) is plasma.ObjectNotAvailable
        True
    """


class PlasmaObjectExists(RefstoreError, pyarrow.lib.ArrowException):  # type: ignore[misc]
    """An object with that id is there, or is being written.

    Example:
        >>> from refstore import plasma
        >>> client = plasma.connect(store.path)
        >>> object_id = client.put(1)
        >>> try:
        ...     client.put(2, object_id)
        ... except plasma.PlasmaObjectExists:
        ...     print(client.get(object_id))
        1
    """


class PlasmaObjectNotFound(RefstoreError, pyarrow.lib.ArrowException):  # type: ignore[misc]
    """No object has that id, or this client has not begun to write one.

    Example:
        >>> from refstore import plasma
        >>> client = plasma.connect(store.path)
        >>> try:
        ...     client.seal(plasma.ObjectID.from_random())
        ... except plasma.PlasmaObjectNotFound:
        ...     print("was not created")
        was not created
    """


class PlasmaStoreFull(RefstoreError, pyarrow.lib.ArrowException):  # type: ignore[misc]
    """No room for an object, even when all that nobody uses is evicted.

    Example:
        >>> from refstore import plasma
        >>> client = plasma.connect(store.path)
        >>> try:
        ...     client.create(plasma.ObjectID.from_random(), client.store_capacity() + 1)
        ... except plasma.PlasmaStoreFull:
        ...     print("full")
        full
    """


@contextlib.contextmanager
def as_plasma_errors() -> Iterator[None]:
    """Raises Plasma's errors in place of the store's; the latter is the cause."""
    try:
        yield
    except ObjectExistsError as error:
        raise PlasmaObjectExists(str(error)) from error
    except ObjectNotFoundError as error:
        raise PlasmaObjectNotFound(str(error)) from error
    except StoreFullError as error:
        raise PlasmaStoreFull(str(error)) from error
