"""`SharedList` and `SharedDict`: many records in one object, for data loaders.

    texts = SharedList.put(store, ["one", "two", "three"], name="texts")
    texts[1], texts[-1], texts[:2]              # in any process: each item is decoded by itself

A list of a million Python objects is copied into each worker that touches it, since reference
counts lie beside the objects. These records lie in shared memory once: a few bytes of overhead an
item, no Python object until an item is asked for.
"""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex, overload

from refstore import _messages
from refstore._records import Builder, NoRecordsError, Records, encode_index_key
from refstore._refs import ObjectRef
from refstore._store import Store

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["SharedDict", "SharedList"]


class _Handle:
    """An open object, which is pinned until it is closed."""

    __slots__ = ("__weakref__", "_buf", "_records", "_ref", "_store")

    _EACH: ClassVar[int]  # records of an item

    def __init__(self, store: Store, key: ObjectRef | str) -> None:
        buf = store.get(key)
        try:
            self._records: Records | None = Records(buf, is_dict=self._EACH == 2)
        except NoRecordsError:
            buf.release()
            raise TypeError(
                f"object {key!r} in store {store.path!r} is no {type(self).__name__}: give what "
                f"{type(self).__name__}.put() made"
            ) from None
        self._store: Store | None = store
        self._buf, self._ref = buf, buf.ref

    @property
    def ref(self) -> ObjectRef:
        """The ref of the object that has the records, for `store.delete()` and others.

        Example:
            >>> from refstore.shared import SharedList
            >>> with SharedList.put(store, ["one"], name="texts") as texts:
            ...     texts.ref == store.ref("texts")
            True
        """
        return self._ref

    @property
    def closed(self) -> bool:
        """Whether it is closed.

        Example:
            >>> from refstore.shared import SharedList
            >>> with SharedList.put(store, ["one"]) as texts:
            ...     texts.closed
            False
        """
        return self._records is None

    def close(self) -> None:
        """Unpins the records; a second call does nothing. Arrays that were taken stay valid.

        Example:
            >>> from refstore.shared import SharedList
            >>> texts = SharedList.put(store, ["one"])
            >>> texts.close()
            >>> texts.closed
            True
        """
        self._records = self._store = None
        self._buf.release()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> Records:
        records = self._records
        if records is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return records

    def __reduce__(self) -> tuple[Any, ...]:
        self._open()
        return type(self), (self._store, self._ref)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name}, closed>" if self.closed else f"<{name} of {len(self)} items>"

    def __len__(self) -> int:
        return self._open().count // self._EACH


def _publish(
    store: Store,
    builder: Builder,
    name: str | None,
    replace: bool,
    timeout: float | None,
    owned: bool,
    evictable: bool | None,
) -> ObjectRef:
    if not store._rules.allows:
        raise _messages.not_pickled("a shared collection")
    with store.create(
        builder.measure(),
        name=name,
        replace=replace,
        timeout=timeout,
        owned=owned,
        evictable=evictable,
    ) as writer:
        builder.write(writer)
    return writer.ref


def _is_steady(items: object) -> bool:
    return isinstance(items, list | tuple | dict)


def _add(builder: Builder, item: object, which: str) -> None:
    try:
        builder.add(item)
    except pickle.PicklingError as error:
        raise pickle.PicklingError(f"{which} cannot be pickled: {error}") from error
    except TypeError as error:
        raise TypeError(f"{which} cannot be pickled: {error}") from error


class SharedList(_Handle, Sequence[Any]):
    """A read-only sequence of records in shared memory, each decoded when it is asked for.

    Bytes-like items come back as bytes, text and ints as such; arrays of plain dtypes as read-only
    arrays over the shared memory, in C order; all else as it was pickled, with large buffers in
    shared memory. Each use makes a new object. An item has an overhead of 5 bytes, or 9 if the
    records have more than 4 GiB together; arrays are aligned beside that.

    A SharedList pins its object until it is closed or collected; it pickles as a handle, which
    opens the same object in the other process. It can be used by many threads, and in forked
    children.

    Parameters:
        store: the store that has the records.
        key: their ref or name.

    Errors:
        ObjectNotFoundError: there is no such object.
        TypeError: the object is no SharedList.
        ValueError: the list, or the store, is closed.

    Example:
        >>> from refstore.shared import SharedList
        >>> texts = SharedList.put(store, ["one", "two", "three"], name="texts")
        >>> texts[-1], texts[:2], len(SharedList(store, "texts"))
        ('three', ['one', 'two'], 3)
        >>> texts.close()
    """

    __slots__ = ()
    _EACH = 1

    @classmethod
    def put(
        cls,
        store: Store,
        iterable: Iterable[Any],
        name: str | None = None,
        *,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> Self:
        """Stores items as one object, and opens it.

        The encoded items are gathered in this process's own memory before they are written.

        Parameters:
            store: where to.
            iterable: the items: anything that can be pickled.
            name: the object's name; the others are as of `store.put()`.
            replace: an object that has the name is deleted.
            timeout: seconds to wait for space; None: for ever.
            owned: the object is deleted when this process closes the store, exits or dies.
            evictable: whether the object may be deleted when others need its space.

        Returns:
            The SharedList.

        Errors:
            TypeError, pickle.PicklingError: an item cannot be pickled; the message says which.
            StoreFullError, ObjectExistsError, ValueError: as of `store.put()`.

        Example:
            >>> from refstore.shared import SharedList
            >>> with SharedList.put(store, (n * n for n in range(5))) as squares:
            ...     squares[3]
            9
        """
        builder = Builder(_is_steady(iterable))
        for i, item in enumerate(iterable):
            _add(builder, item, f"item {i} of a SharedList")
        return cls(store, _publish(store, builder, name, replace, timeout, owned, evictable))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        records = self._open()
        if isinstance(index, slice):
            return [records.item(i) for i in range(*index.indices(records.count))]
        at = operator.index(index)
        if not -records.count <= at < records.count:
            raise IndexError(f"there is no item {at} in a SharedList of {records.count} items")
        return records.item(at % records.count)

    def __iter__(self) -> Iterator[Any]:
        return (self._open().item(i) for i in range(len(self)))


class SharedDict(_Handle, Mapping[Any, Any]):
    """A read-only mapping in shared memory, whose values are decoded when they are asked for.

    Keys are str, bytes or ints. A look-up hashes the key and compares its bytes: it decodes neither
    other keys nor other values. Iteration is in the order in which they were put. What is said of
    the items of a SharedList holds for the values; an entry has an overhead of 15 to 21 bytes.

    Parameters:
        store: the store that has the records.
        key: their ref or name.

    Errors:
        ObjectNotFoundError: there is no such object.
        KeyError: the mapping does not have the key.
        TypeError: the object is no SharedDict.
        ValueError: the mapping, or the store, is closed.

    Example:
        >>> from refstore.shared import SharedDict
        >>> ages = SharedDict.put(store, {"Ada": 36, "Alan": 41}, name="ages")
        >>> ages["Ada"], "Grace" in ages, len(ages)
        (36, False, 2)
        >>> ages.close()
    """

    __slots__ = ()
    _EACH = 2

    @classmethod
    def put(
        cls,
        store: Store,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        name: str | None = None,
        *,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> Self:
        """Stores a mapping as one object, and opens it.

        Parameters:
            store: where to.
            items: a mapping, or pairs of key and value.
            name: the object's name; the others are as of `store.put()`.
            replace: an object that has the name is deleted.
            timeout: seconds to wait for space; None: for ever.
            owned: the object is deleted when this process closes the store, exits or dies.
            evictable: whether the object may be deleted when others need its space.

        Returns:
            The SharedDict.

        Errors:
            TypeError: a key is neither str, bytes nor int, or a value cannot be pickled.
            ValueError: a key is there twice.
            StoreFullError, ObjectExistsError, ValueError: as of `store.put()`.

        Example:
            >>> from refstore.shared import SharedDict
            >>> with SharedDict.put(store, [(1, "one"), (2, "two")]) as words:
            ...     list(words.items())
            [(1, 'one'), (2, 'two')]
        """
        builder, keys = Builder(_is_steady(items)), dict[tuple[int, bytes], None]()
        for key, value in items.items() if isinstance(items, Mapping) else items:
            encoded = encode_index_key(key)
            if encoded is None:
                raise TypeError(f"{key!r} is a key of a SharedDict: give str, bytes or int")
            if encoded in keys:
                raise ValueError(f"the key {key!r} is there twice: give each once")
            keys[encoded] = None
            builder.add_key(encoded)
            _add(builder, value, f"the value of {key!r}")
        builder.index(list(keys))
        return cls(store, _publish(store, builder, name, replace, timeout, owned, evictable))

    def __getitem__(self, key: Any) -> Any:
        at = self._find(key)
        if at is None:
            raise KeyError(key)
        return self._open().item(at)

    def get(self, key: Any, default: Any = None) -> Any:
        """Returns the value of a key, or a default if it is not there.

        Parameters:
            key: the key.
            default: what to return without it.

        Returns:
            The value.

        Errors:
            Exception: whatever unpickling the value raises, a KeyError of its own, too.

        Example:
            >>> from refstore.shared import SharedDict
            >>> with SharedDict.put(store, {"Ada": 36}) as ages:
            ...     ages.get("Ada"), ages.get("Grace", 0)
            (36, 0)
        """
        at = self._find(key)
        return default if at is None else self._open().item(at)

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not None

    def __iter__(self) -> Iterator[Any]:
        return (self._open().item(i * 2) for i in range(len(self)))

    def _find(self, key: object) -> int | None:
        records, encoded = self._open(), encode_index_key(key)
        return None if encoded is None else records.find(*encoded)
