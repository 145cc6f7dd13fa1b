"""What the children of a test do: commands for `helpers.Peer`, importable by any start method."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
from multiprocessing.connection import Connection
from typing import Any

import helpers
import numpy as np
from helpers import Hands

import refstore


def nothing(hands: Hands) -> None:
    """Answer: the child is there and has done all that came before."""


def attach(hands: Hands, path: str, options: dict[str, Any]) -> None:
    """Open a store and make it the child's."""
    hands.adopt(refstore.Store(path, **options))


def close(hands: Hands) -> None:
    hands.store.close()


def put(hands: Hands, obj: Any, name: str | None = None, replace: bool = False) -> Any:
    return hands.store.put(obj, name=name, replace=replace)


def read(hands: Hands, key: Any) -> bytes:
    with hands.store.get(key) as buf:
        return bytes(buf)


def delete(hands: Hands, key: Any) -> None:
    hands.store.delete(key)


def hold(hands: Hands, key: Any, label: str = "buffer") -> None:
    """Pin an object until `drop`."""
    hands.held[label] = hands.store.get(key)


def hold_view(hands: Hands, key: Any, label: str = "view") -> None:
    """Pin an object by a view alone."""
    with hands.store.get(key) as buf:
        hands.held[label] = helpers.flat(buf)


def hold_writable(hands: Hands, key: Any, byte: int) -> None:
    """Overwrite a private copy-on-write view and keep it."""
    buf = hands.store.get(key, writable=True)
    view = helpers.flat(buf)
    view[:] = byte
    hands.held["view"] = view


def drop(hands: Hands, label: str = "buffer") -> None:
    del hands.held[label]


def show(hands: Hands, label: str = "buffer") -> bytes:
    """The bytes of what is held."""
    return bytes(hands.held[label])


def begin(hands: Hands, nbytes: int, name: str | None = None, replace: bool = False) -> None:
    """Create without sealing, half written."""
    writer = hands.store.create(nbytes, name=name, replace=replace)
    memoryview(writer)[: nbytes // 2] = b"\xbb" * (nbytes // 2)
    hands.held["writer"] = writer


def seal(hands: Hands) -> Any:
    return hands.held.pop("writer").seal()


def names(hands: Hands) -> list[str]:
    return sorted(hands.store.names())


def refcount(hands: Hands, key: Any) -> int:
    return hands.store.refcount(key)


def processes(hands: Hands) -> int:
    return hands.store.stats().processes


def recover(hands: Hands) -> refstore.Recovery:
    return hands.store.recover()


def problems(hands: Hands) -> list[Any]:
    return list(hands.store.check())


def unpickle_store(hands: Hands, dumped: bytes) -> int:
    """Attach by a pickled store from another folder; the number of objects there."""
    os.chdir("/")
    with pickle.loads(dumped) as store:
        return len(store)


def read_when_told(pipe: Connection, buffer: refstore.PinnedBuffer) -> None:
    """The whole of a process: read what it was handed, when the word comes."""
    pipe.recv()
    pipe.send(bytes(buffer))


def give_back(hands: Hands, value: Any) -> Any:
    return value


# -- longer work, which says how far it is ----------------------------------------------------


def publish(hands: Hands, name: str, versions: int, size: int) -> None:
    """Replace one name again and again; version v is the byte v % 251, `size` + v times."""
    for version in range(1, versions + 1):
        hands.store.put(bytes([version % 251]) * (size + version), name=name, replace=True)


def follow(hands: Hands, name: str, last: int, size: int) -> int:
    """Read a name until its last version: it always resolves, whole, and never goes back."""
    seen = reads = 0
    while seen < last:
        with hands.store.get(name) as buf:
            version = buf.nbytes - size
            assert version >= seen, f"version {version} after {seen}"
            assert bytes(buf) == bytes([version % 251]) * buf.nbytes
            seen = version
            reads += 1
    return reads


def churn(hands: Hands, seed: int, turns: int, share: float = 0.4) -> int:
    """Mixed operations on objects of one's own, every byte verified; all deleted at the end."""
    store, rng = hands.store, random.Random(seed)
    limit = store.capacity * share
    mine: list[tuple[Any, int, int]] = []
    payload = 0
    for turn in range(turns):
        size = int(2 ** rng.uniform(0, 16))
        if rng.random() < 0.5 and payload + size < limit:
            stamp = seed * 1_000_000 + turn
            mine.append((store.put(helpers.pattern(stamp, size)), stamp, size))
            payload += size
        elif mine:
            ref, stamp, size = mine[rng.randrange(len(mine))]
            with store.get(ref) as buf:
                assert bytes(buf) == helpers.pattern(stamp, size)
                if rng.random() < 0.7:
                    store.delete(ref)
                    mine.remove((ref, stamp, size))
                    payload -= size
                    assert bytes(buf) == helpers.pattern(stamp, size)
    for ref, _, _ in mine:
        store.delete(ref)
    return turns


def churn_for_ever(hands: Hands, seed: int) -> None:
    """Mixed operations with names, pins and writers until killed; says so after every tenth."""
    store, rng = hands.store, random.Random(seed)
    pins: list[Any] = []
    turn = 0
    while True:
        turn += 1
        number = rng.randrange(20)
        name = f"shared {number}"
        size = int(2 ** rng.uniform(0, 17))
        choice = rng.random()
        with contextlib.suppress(refstore.ObjectNotFoundError, refstore.StoreFullError):
            if choice < 0.5:
                store.put(stamped(number, size), name=name, replace=True)
            elif choice < 0.6:
                store.delete(name)
            elif choice < 0.8:
                pins.append(store.get(name))
                assert_stamped(pins[-1], number)
                if len(pins) > 10:
                    pins.pop(rng.randrange(10)).release()
            elif choice < 0.9:
                with store.create(size, name=name, replace=True) as writer:
                    memoryview(writer)[:] = stamped(number, size)
                    if rng.random() < 0.3:
                        writer.abort()
            else:
                ref = store.put({"a": np.full(size, number, "u1")})
                store.delete(ref)
        if turn % 10 == 0:
            hands.say(turn)


def stamped(number: int, size: int) -> bytes:
    """`size` bytes that tell which name they belong to."""
    return bytes([number + 1]) * size


def assert_stamped(buf: Any, number: int) -> None:
    assert bytes(buf) == stamped(number, len(buf))


def take_names(hands: Hands, count: int, mark: int) -> list[int]:
    """Try to be the first to publish each of many names; those won."""
    won = []
    for i in range(count):
        with contextlib.suppress(refstore.ObjectExistsError):
            hands.store.put(bytes([mark]), name=f"prize {i}")
            won.append(i)
    return won


def delete_all(hands: Hands, refs: list[Any]) -> int:
    """Delete what is still there; how many were this child's."""
    mine = 0
    for ref in refs:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            hands.store.delete(ref)
            mine += 1
    return mine


def open_many_times(hands: Hands, path: str, times: int, create: bool | None) -> list[str]:
    """Open a store as often as asked, as soon as told; what came of each."""
    outcomes = []
    for number in range(times):
        outcome = "exists"
        with (
            contextlib.suppress(FileExistsError),
            refstore.Store(f"{path}-{number}", capacity="1MiB", create=create) as store,
        ):
            store.put(b"%d" % os.getpid(), name=f"by {os.getpid()}")
            outcome = "opened"
        outcomes.append(outcome)
    return outcomes


def temporary(hands: Hands, folder: str) -> None:
    """Make a temporary store in that folder and keep it."""
    os.environ["REFSTORE_DIR"] = folder  # what the fork server knows is older than the test
    store = refstore.Store.temporary(capacity="1MiB")
    store["n"] = b"temporary"
    hands.adopt(store)


def pickled(hands: Hands) -> bytes:
    return pickle.dumps(hands.store)


def create_many_times(hands: Hands, path: str, times: int, backend: Any) -> list[str]:
    """Open or make a store of that engine as often as asked; what came of each."""
    outcomes = []
    for number in range(times):
        outcome = "refused"
        with contextlib.suppress(refstore.StoreVersionError):
            refstore.Store(f"{path}-{number}", capacity="1MiB", backend=backend).close()
            outcome = "opened"
        outcomes.append(outcome)
    return outcomes
