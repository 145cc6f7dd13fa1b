"""The tight loops that are measured, for refstore and for the store it replaces alike."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice, repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from refstore import ObjectRef, PinnedBuffer, Store
from stress.measure import Loop

if TYPE_CHECKING:
    from stress.baseline import BaselineStore

Key = ObjectRef | str
Payload = bytes | NDArray[np.uint8]


def memoryviews(data: bytes) -> Loop:
    """The floor of every small operation: a view of memory that is already there."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with memoryview(data):
                pass

    return run


def gets(store: Store, key: Key) -> Loop:
    """One object again and again."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.get(key):
                pass

    return run


def seals(store: Store, nbytes: int) -> Loop:
    """Room is made, sealed and given back."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            with store.create(nbytes) as writer:
                pass
            store.delete(writer.ref)

    return run


def arrays(buf: PinnedBuffer) -> Loop:
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


def gets_among(store: Store, keys: Sequence[Key]) -> Loop:
    """Each object in its turn."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            with store.get(key):
                pass

    return run


def dict_gets_among(found: Mapping[Key, object], keys: Sequence[Key]) -> Loop:
    """What Python itself takes to look each key up in its turn."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            found[key]

    return run


def puts(store: Store, data: Payload) -> Loop:
    """Put and delete."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.delete(store.put(data))

    return run


def named_puts(store: Store, data: Payload, name: str) -> Loop:
    """Put under a name, and delete by it."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.put(data, name=name)
            store.delete(name)

    return run


def cycles(store: Store, data: Payload) -> Loop:
    """Put, get and delete."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            ref = store.put(data)
            with store.get(ref):
                pass
            store.delete(ref)

    return run


def baseline_gets_among(store: "BaselineStore", keys: Sequence[int]) -> Loop:
    """Each object in its turn, copied out."""
    forever = cycle(keys)

    def run(turns: int) -> None:
        for key in islice(forever, turns):
            store.get(key)

    return run


def baseline_cycles(store: "BaselineStore", data: Payload, key: int) -> Loop:
    """Put, get and delete, under the same key each time."""

    def run(turns: int) -> None:
        for _ in repeat(None, turns):
            store.put(key, data)
            store.get(key)
            store.delete(key)

    return run
