"""The tight loops that are measured: the same for refstore and for every store beside it.

A loop looks each method up as a user's program does. This module imports no refstore, so that
interpreters without it can run the loops, too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle, islice, repeat
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stress.measure import Loop

if TYPE_CHECKING:
    from refstore import PinnedBuffer, Store
    from stress.baseline.store import BaselineStore


class AnyStore(Protocol):
    """The calls that every store has, refstore's or another's."""

    def put(self, data: Any, /) -> Any: ...
    def get(self, key: Any, /) -> AbstractContextManager[Any]: ...
    def delete(self, key: Any, /) -> object: ...


def payload(nbytes: int) -> bytes:
    """Bytes to put: no zeros, which would be read from one page that the kernel keeps for them."""
    return b"\x01" * nbytes


def nothing(turns: int) -> None:
    """An empty loop."""
    for _ in repeat(None, turns):
        pass


def memoryviews(data: bytes) -> Loop:
    """The floor of every small operation: a view of memory that is already there."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with memoryview(data):
                pass

    return run


def calls(call: Callable[[], object]) -> Loop:
    """Calls of a function without arguments."""

    def run(turns: int) -> None:
        for _ in range(turns):
            call()

    return run


def gets(store: AnyStore, key: Any) -> Loop:
    """One object again and again."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.get(key):
                pass

    return run


def seals(store: "Store", nbytes: int) -> Loop:
    """Create, seal and delete, with nothing written."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.create(nbytes) as writer:
                pass
            store.delete(writer.ref)

    return run


def arrays(buf: "PinnedBuffer") -> Loop:
    """A pinned array, looked at."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            buf.array  # noqa: B018  making the view is what is measured

    return run


def frombuffers(data: bytes) -> Loop:
    """The floor of that: numpy's own view of the same bytes."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            np.frombuffer(data)

    return run


def gets_among(store: AnyStore, keys: Sequence[Any]) -> Loop:
    """Each object in its turn."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            with store.get(key):
                pass

    return run


def dict_gets_among(found: Mapping[Any, object], keys: Sequence[Any]) -> Loop:
    """Python's own lookup of each key in its turn."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            found[key]

    return run


def puts(store: AnyStore, data: Any) -> Loop:
    """Put and delete."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.delete(store.put(data))

    return run


def named_puts(store: "Store", data: bytes, name: str) -> Loop:
    """Put under a name, and delete by it."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.put(data, name=name)
            store.delete(name)

    return run


def cycles(store: AnyStore, data: Any) -> Loop:
    """Put, get and delete."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            ref = store.put(data)
            with store.get(ref):
                pass
            store.delete(ref)

    return run


def cycles_without_delete(store: AnyStore, data: Any) -> Loop:
    """Put and get, of a store whose get takes the object out."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.get(store.put(data)):
                pass

    return run


def baseline_gets_among(store: "BaselineStore", keys: Sequence[int]) -> Loop:
    """Each object in its turn, copied out."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            store.get(key)

    return run


def baseline_cycles(store: "BaselineStore", data: Any, key: int) -> Loop:
    """Put, get and delete, under the same key each time."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.put(key, data)
            store.get(key)
            store.delete(key)

    return run
