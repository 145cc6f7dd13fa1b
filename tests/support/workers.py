"""What the children of a test do: commands for `children.ChildProcess`, for any start method."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import helpers
import numpy as np
from children import Session

import refstore
from refstore import _identity, aio
from refstore.mapping import StoreMapping


def nothing(session: Session) -> None:
    """Answer: the child is there and has done all that came before."""


def call(session: Session, function: Callable[..., Any], *args: Any) -> Any:
    """Call any function that can be imported."""
    return function(*args)


def attach(session: Session, path: str, options: dict[str, Any]) -> None:
    """Open a store and make it the child's."""
    session.adopt(refstore.Store(path, **options))


def close(session: Session) -> None:
    session.store.close()


def put(session: Session, obj: Any, name: str | None = None, replace: bool = False) -> Any:
    return session.store.put(obj, name=name, replace=replace)


def put_batches(session: Session, number: int, batches: int) -> list[Any]:
    """Put the number again and again, ten objects at a time; the refs of all."""
    data = [b"%d" % number] * 10
    return [ref for _ in range(batches) for ref in session.store.put_many(data)]


def read(session: Session, key: Any) -> bytes:
    with session.store.get(key) as buf:
        return bytes(buf)


def meta_of(session: Session, key: Any) -> bytes:
    with session.store.get(key) as buf:
        return buf.meta


def wait(session: Session, name: str) -> bytes:
    """Say so, and wait for a name; the bytes that come."""
    session.say("waiting")
    with session.store.wait(name) as buf:
        return bytes(buf)


def make(session: Session, name: str, value: Any) -> bytes:
    """Get an object or make it. The factory says so, and hears before it is through."""

    def factory() -> Any:
        session.say("making")
        session.hear()
        return value

    with session.store.get_or_put(name, factory) as buf:
        return bytes(buf)


def get_or_put(session: Session, name: str, value: Any) -> bytes:
    """Say so, and get an object or make it at once."""
    session.say("asking")
    with session.store.get_or_put(name, lambda: value) as buf:
        return bytes(buf)


def claim(session: Session, nbytes: int, name: str, replace: bool = False) -> None:
    """Create with a claim, half written."""
    writer = session.store.create(nbytes, name=name, claim=True, replace=replace)
    memoryview(writer)[: nbytes // 2] = b"\xbb" * (nbytes // 2)
    session.held["writer"] = writer


def put_own(session: Session, obj: Any, name: str | None = None) -> Any:
    return session.store.put(obj, name=name, owned=True)


def adopt(session: Session, key: Any) -> None:
    session.store.adopt(key)


def put_patiently(session: Session, obj: Any, name: str | None = None) -> Any:
    """Say so, and wait for room."""
    session.say("waiting")
    return session.store.put(obj, name=name, timeout=helpers.BUSY_TIMEOUT)


def delete(session: Session, key: Any) -> None:
    session.store.delete(key)


def hold(session: Session, key: Any, label: str = "buffer") -> None:
    """Pin an object until `drop`."""
    session.held[label] = session.store.get(key)


def hold_view(session: Session, key: Any, label: str = "view") -> None:
    """Pin an object by a view alone."""
    with session.store.get(key) as buf:
        session.held[label] = helpers.flat(buf)


def hold_writable(session: Session, key: Any, byte: int) -> None:
    """Overwrite a private copy-on-write view and keep it."""
    buf = session.store.get(key, writable=True)
    view = helpers.flat(buf)
    view[:] = byte
    session.held["view"] = view


def drop(session: Session, label: str = "buffer") -> None:
    del session.held[label]


def show(session: Session, label: str = "buffer") -> bytes:
    """The bytes of what is held."""
    return bytes(session.held[label])


def begin(session: Session, nbytes: int, name: str | None = None, replace: bool = False) -> None:
    """Create without sealing, half written."""
    writer = session.store.create(nbytes, name=name, replace=replace)
    memoryview(writer)[: nbytes // 2] = b"\xbb" * (nbytes // 2)
    session.held["writer"] = writer


def seal(session: Session) -> Any:
    return session.held.pop("writer").seal()


def names(session: Session) -> list[str]:
    return sorted(session.store.names())


def refcount(session: Session, key: Any) -> int:
    return session.store.refcount(key)


def processes(session: Session) -> int:
    return session.store.stats().processes


def command(session: Session) -> str:
    """How the child is named to people."""
    return _identity.command().decode()


def set_label(session: Session, text: str) -> None:
    refstore.label(text)


def await_name(session: Session, name: str) -> bytes:
    """As wait(), in a coroutine."""

    async def main() -> bytes:
        session.say("waiting")
        with await aio.wait(session.store, name) as buf:
            return bytes(buf)

    return asyncio.run(main())


def recover(session: Session) -> refstore.Recovery:
    return session.store.recover()


def problems(session: Session) -> list[Any]:
    return list(session.store.check())


def unpickle_store(session: Session, dumped: bytes) -> int:
    """Attach by a pickled store from another folder; the number of objects there."""
    os.chdir("/")
    with pickle.loads(dumped) as store:
        return len(store)


def read_when_told(pipe: Connection, buffer: refstore.PinnedBuffer) -> None:
    """The whole of a process: read what it was handed, when the word comes."""
    pipe.recv()
    pipe.send(bytes(buffer))


def give_back(session: Session, value: Any) -> Any:
    return value


# -- longer work, which says how far it is ----------------------------------------------------


def publish(session: Session, name: str, versions: int, size: int) -> None:
    """Replace one name again and again; version v is the byte v % 251, `size` + v times."""
    for version in range(1, versions + 1):
        session.store.put(bytes([version % 251]) * (size + version), name=name, replace=True)


def follow(session: Session, name: str, last: int, size: int) -> int:
    """Read a name until its last version: it always resolves, whole, and never goes back."""
    seen = reads = 0
    while seen < last:
        with session.store.get(name) as buf:
            version = buf.nbytes - size
            assert version >= seen, f"version {version} after {seen}"
            assert bytes(buf) == bytes([version % 251]) * buf.nbytes
            seen = version
            reads += 1
    return reads


def churn(session: Session, seed: int, turns: int, share: float = 0.4) -> int:
    """Mixed operations on objects of one's own, every byte verified; all deleted at the end."""
    store, rng = session.store, random.Random(seed)
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


def churn_for_ever(session: Session, seed: int) -> None:
    """Mixed operations with names, pins and writers until killed; says so after every tenth."""
    store, rng = session.store, random.Random(seed)
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
            session.say(turn)


def use_as_cache(session: Session, seed: int, turns: int, keys: int) -> tuple[int, int]:
    """Get each of many names, or put it; every byte verified, also of what is held for a while.

    How many were there, and how many were not put, since all of the store was held.
    """
    store, rng = session.store, random.Random(seed)
    held: list[tuple[Any, int]] = []
    hits = refused = 0
    for turn in range(turns):
        number = int(keys * rng.random() ** 3)
        try:
            buf = store.get(f"key {number}")
        except refstore.ObjectNotFoundError:
            size = 1000 + 997 * number % 20_000
            try:
                store.put(stamped(number, size), name=f"key {number}", replace=True)
            except refstore.StoreFullError:
                refused += 1
        else:
            hits += 1
            held.append((buf, number))
        if len(held) > 5:
            kept, its = held.pop(rng.randrange(5))
            assert_stamped(kept, its)
            kept.release()
        if turn % 10 == 0:
            session.say(turn)
    for kept, its in held:
        assert_stamped(kept, its)
        kept.release()
    return hits, refused


def stamped(number: int, size: int) -> bytes:
    """`size` bytes that tell which name they belong to."""
    return bytes([number + 1]) * size


def assert_stamped(buf: Any, number: int) -> None:
    assert bytes(buf) == stamped(number, len(buf))


def take_names(session: Session, count: int, mark: int) -> list[int]:
    """Try to be the first to publish each of many names; those won."""
    won = []
    for i in range(count):
        with contextlib.suppress(refstore.ObjectExistsError):
            session.store.put(bytes([mark]), name=f"prize {i}")
            won.append(i)
    return won


def delete_all(session: Session, refs: list[Any]) -> int:
    """Delete what is still there; how many were this child's."""
    mine = 0
    for ref in refs:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            session.store.delete(ref)
            mine += 1
    return mine


def open_many_times(session: Session, path: str, times: int, create: bool | None) -> list[str]:
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


def temporary(session: Session, folder: str) -> None:
    """Make a temporary store in that folder and keep it."""
    os.environ["REFSTORE_DIR"] = folder  # what the fork server knows is older than the test
    store = refstore.Store.temporary(capacity="1MiB")
    store["n"] = b"temporary"
    session.adopt(store)


def pickled(session: Session) -> bytes:
    return pickle.dumps(session.store)


def create_many_times(session: Session, path: str, times: int, backend: Any) -> list[str]:
    """Open or make a store of that engine as often as asked; what came of each."""
    outcomes = []
    for number in range(times):
        outcome = "refused"
        with contextlib.suppress(refstore.StoreVersionError):
            refstore.Store(f"{path}-{number}", capacity="1MiB", backend=backend).close()
            outcome = "opened"
        outcomes.append(outcome)
    return outcomes


def pop_all(session: Session, prefix: str, keys: list[str]) -> list[str]:
    """Take what is there of some keys; those that were this child's to take."""
    mapping = StoreMapping(session.store, prefix)
    return [key for key in keys if mapping.pop(key, None) is not None]


def items_of(session: Session, handle: Any) -> list[Any]:
    """What a SharedList or SharedDict has, of which this child has the handle."""
    with handle:
        return list(handle.items() if isinstance(handle, Mapping) else handle)


# -- waiting for each other ---------------------------------------------------------------------


def follow_newer(session: Session, name: str, known: Any, last: int) -> int:
    """Wait for newer versions up to the last one, none of which is older than the one before."""
    seen = looks = 0
    while seen < last:
        with session.store.wait(name, newer_than=known) as buf:
            version = int(bytes(buf))
            assert version > seen, f"version {version} after {seen}"
            seen, known = version, buf.ref
            looks += 1
    return looks


def make_from(session: Session, name: str, other: str) -> bytes:
    """Make an object from another, which another makes from this one."""

    def factory() -> bytes:
        session.say("making")
        session.hear()
        return bytes(session.store.get_or_put(other, lambda: factory_of_other()))

    def factory_of_other() -> bytes:
        return bytes(session.store.get_or_put(name, lambda: b"never"))

    return bytes(session.store.get_or_put(name, factory))


def churn_patiently(session: Session, size: int) -> int:
    """Hold an object nearly always, each for a moment, until the parent says so; how many."""
    store, count = session.store, 1
    ref = store.put(bytes(size), timeout=helpers.BUSY_TIMEOUT)
    session.say("holding")
    while not session.is_called(0.02):
        store.delete(ref)
        ref = store.put(bytes(size), timeout=helpers.BUSY_TIMEOUT)
        count += 1
    session.hear()
    store.delete(ref)
    return count


def make_by_tasks(session: Session, name: str, value: Any, tasks: int) -> int:
    """Many tasks of one loop get an object or make it; how many factories ran.

    A factory says so, and goes on when the loop hears of it.
    """
    made: list[Any] = []

    async def factory() -> Any:
        made.append(value)
        session.say("making")
        await asyncio.get_running_loop().run_in_executor(None, session.hear)
        return value

    async def main() -> None:
        calls = (aio.get_or_put(session.store, name, factory) for _ in range(tasks))
        for buf in await asyncio.gather(*calls):
            buf.release()

    asyncio.run(main())
    return len(made)


def fork_and_outlive(session: Session, count: int) -> list[int]:
    """The pids of so many children, one after the other, that end without a word."""
    pids = []
    for _ in range(count):
        pids.append(os.fork())
        if pids[-1] == 0:
            os._exit(0)
        os.waitpid(pids[-1], 0)
    return pids


def fork_a_reader(session: Session) -> None:
    """Fork a child that reads `held["buffer"]` when `read_by_reader` says so; let go of it here."""
    told, tell = os.pipe()
    answer, say = os.pipe()
    with helpers.forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        os.close(tell)
        os.read(told, 1)
        os.write(say, bytes(session.held["buffer"])[:100])
        os._exit(0)
    session.held["reader"] = (pid, tell, answer)
    session.held.pop("buffer").release()


def read_by_reader(session: Session) -> bytes:
    """The first bytes that the child still sees."""
    pid, tell, answer = session.held.pop("reader")
    os.write(tell, b".")
    found = os.read(answer, 100)
    os.waitpid(pid, 0)
    return found
