"""`StoreMapping`: the named objects of a store as a dict of str to values.

d = StoreMapping(store, "cache/")
d["a"] = np.ones(3)              # store.put(np.ones(3), name="cache/a", replace=True)
d["a"]                           # store.get("cache/a").value
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, cast

from refstore._buffers import PinnedBuffer
from refstore._errors import ObjectExistsError, ObjectNotFoundError
from refstore._names import encode_name, require_text
from refstore._store import Store

__all__ = ["StoreMapping"]

_MISSING: Any = object()


class StoreMapping(MutableMapping[str, Any]):
    """The objects of a store whose names begin with a prefix, as a dict of str to values.

    A key is what follows the prefix in an object's name; names have at most 255 bytes of UTF-8.
    What comes back is the value that was put, without a copy where `buf.value` makes none: an array
    is read-only, and bytes come back as a memoryview. It keeps its object's memory as long as it
    lives, or a view of it, also after the key is deleted or has another value. To change a value,
    assign it again.

    Other processes may change the store at any time. Each call on one key is atomic: of several
    that pop() a key, one gets the value, and setdefault() puts one value. `len()`, iteration and
    views see the keys that are there as they begin; `items()` and `values()` pass over those that
    have gone by the time they reach them. `clear()` and `update()` go key by key.

    Parameters:
        store: the store, which stays open as long as this is used; this does not close it.
        prefix: how the names of the objects begin; "" takes all that have names.

    Errors:
        KeyError: no object has the name. Every str is a valid key to ask for.
        TypeError, ValueError: a key to be set is not a str, or it makes no valid name.
        StoreFullError: there is no space for a value.
        ValueError: the store is closed.

    Example:
        >>> from refstore.mapping import StoreMapping
        >>> settings = StoreMapping(store, "settings/")
        >>> settings["rate"] = 0.5
        >>> dict(settings), store.names()
        ({'rate': 0.5}, ['settings/rate'])
    """

    __slots__ = ("_prefix", "_store")

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = require_text(prefix, "a prefix")

    @property
    def store(self) -> Store:
        """The store that has the objects.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> StoreMapping(store).store is store
            True
        """
        return self._store

    @property
    def prefix(self) -> str:
        """The text with which the names of the objects begin.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> StoreMapping(store, "settings/").prefix
            'settings/'
        """
        return self._prefix

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, prefix={self._prefix!r})"

    # --- one key

    def __getitem__(self, key: str) -> Any:
        buf = self._find(key)
        if buf is None:
            raise KeyError(key)
        with buf:
            return buf.value

    def __setitem__(self, key: str, value: Any) -> None:
        self._store.put(value, name=self._prefix + require_text(key), replace=True)

    def __delitem__(self, key: str) -> None:
        name = self._name(key)
        if name is None:
            raise KeyError(key)
        try:
            self._store.delete(name)
        except ObjectNotFoundError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        name = self._name(key)
        return name is not None and name in self._store

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or a default if it has none.

        Parameters:
            key: the key.
            default: what to return if no object has its name.

        Returns:
            The value that was put.

        Errors:
            Exception: whatever unpickling the value raises, a KeyError of its own, too.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> StoreMapping(store).get("no such key", 0)
            0
        """
        buf = self._find(key)
        if buf is None:
            return default
        with buf:
            return buf.value

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Deletes a key and returns its value; of several processes that do, one gets it.

        Parameters:
            key: the key.
            default: what to return if no object has its name; without it that is a KeyError.

        Returns:
            The value that was put.

        Errors:
            KeyError: no object has the name, and there is no default.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> settings = StoreMapping(store)
            >>> settings["rate"] = 0.5
            >>> settings.pop("rate"), settings.pop("rate", None)
            (0.5, None)
        """
        value = self._take(key)
        if value is not _MISSING:
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Deletes some key and returns it with its value.

        Returns:
            The key and the value; which key is not defined.

        Errors:
            KeyError: there is no key.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> settings = StoreMapping(store)
            >>> settings["rate"] = 0.5
            >>> settings.popitem()
            ('rate', 0.5)
        """
        while keys := list(self):
            for key in keys:
                value = self._take(key)
                if value is not _MISSING:
                    return key, value
        raise KeyError("popitem(): the mapping is empty")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, after putting a default if it has none.

        Parameters:
            key: the key.
            default: what to put.

        Returns:
            The value that the key has: `default` itself, if this call put it.

        Errors:
            TypeError, ValueError: the key is not a str, or it makes no valid name.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> StoreMapping(store).setdefault("rate", 0.5)
            0.5
        """
        name = self._prefix + require_text(key)
        while True:
            buf = self._find(key)
            if buf is not None:
                with buf:
                    return buf.value
            try:
                self._store.put(default, name=name)
            except ObjectExistsError as error:
                if error.pid is not None:  # somebody writes it: there may be no value for long
                    raise
                continue
            return default

    # --- all keys

    def __iter__(self) -> Iterator[str]:
        start = len(self._prefix)
        return iter([name[start:] for name in self._store.names(self._prefix)])

    def __len__(self) -> int:
        return len(self._store.names(self._prefix))

    def items(self) -> ItemsView[str, Any]:
        """A view of the keys with their values, as that of a dict.

        Returns:
            The view. Its iteration passes over keys that are deleted meanwhile.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> list(StoreMapping(store).items())
            []
        """
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """A view of the values, as that of a dict.

        Returns:
            The view. Its iteration passes over keys that are deleted meanwhile.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> list(StoreMapping(store).values())
            []
        """
        return _Values(self)

    def clear(self) -> None:
        """Deletes all keys. Objects without names stay, and those of other prefixes.

        Example:
            >>> from refstore.mapping import StoreMapping
            >>> StoreMapping(store, "settings/").clear()
        """
        self._store.delete_many(self._store.names(self._prefix))

    # --- objects

    def _take(self, key: str) -> Any:
        """Deletes a key and returns its value; _MISSING if there is none."""
        while (buf := self._find(key)) is not None:
            with buf:
                value = buf.value  # raises before anything is deleted
                try:
                    self._store.delete(buf.ref)
                except ObjectNotFoundError:
                    continue  # another process deleted or replaced it: look for its successor
                return value
        return _MISSING

    def _name(self, key: object) -> str | None:
        """The name of a key's object; None if there can be none."""
        if not isinstance(key, str):
            return None
        name = self._prefix + key
        try:
            encode_name(name)
        except ValueError:
            return None
        return name

    def _find(self, key: object) -> PinnedBuffer | None:
        name = self._name(key)
        if name is None:
            return None
        try:
            return self._store.get(name)
        except ObjectNotFoundError:
            return None


def _pairs(mapping: StoreMapping) -> Iterator[tuple[str, Any]]:
    for key in mapping:
        value = mapping.get(key, _MISSING)
        if value is not _MISSING:
            yield key, value


class _Items(ItemsView[str, Any]):
    """The items of a StoreMapping, without those that go meanwhile."""

    __slots__ = ()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return _pairs(cast(Any, self)._mapping)


class _Values(ValuesView[Any]):
    """The values of a StoreMapping, without those that go meanwhile."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in _pairs(cast(Any, self)._mapping))

    def __contains__(self, value: object) -> bool:
        return any(one is value or one == value for one in self)
