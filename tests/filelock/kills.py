"""Kill a process at a bytecode of each operation of the filelock engine, and see what is left.

    python -m tests.filelock.kills --trials 2000    --depth 2 kills the one who clears up

A trial is a small store, a child that is killed at a random bytecode of one operation, and a look
at what a survivor finds: every object whole, a replaced name old or new, all room back.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engines
import helpers
import numpy as np

import refstore
from tests.filelock import opcodes

CAPACITY = 300_000
SMALL, LARGE, OLD, NEW, KEPT = (
    helpers.pattern(seed, size) for seed, size in enumerate((100, 40_000, 5000, 6000, 700))
)
HUGE = bytes(260_000)
KNOWN = (SMALL, LARGE, OLD, NEW, KEPT, HUGE)
META = b"m" * 1000
PR_SET_CHILD_SUBREAPER = 36

Work = Callable[[refstore.Store], object]
Play = Callable[..., Any]  # calls a function in another process


@dataclass(frozen=True)
class Operation:
    """What is done until the kill comes."""

    work: Work
    deletes: bool = False  # the object "n"; else it is there, old or new, whenever the kill comes
    in_steps: bool = False  # what is done stays, though what comes after it is interrupted
    evicts: bool = False  # the one object that may go
    after_a_death: bool = False


def write(store: refstore.Store, end: str) -> None:
    writer = store.create(len(NEW), name="n", replace=True)
    memoryview(writer)[:] = NEW
    if end == "seal":
        writer.seal()
    elif end == "abort":
        writer.abort()
    else:
        view = memoryview(writer)
        writer.abort()
        view.release()


def truncate(store: refstore.Store) -> None:
    writer = store.create(10 * len(NEW), name="n", replace=True, meta=META)
    writer.write_at(0, NEW)
    writer.truncate(len(NEW))
    writer.seal()


def get_many(store: refstore.Store) -> None:
    for buf in store.get_many(["n", "kept", "n"]):
        buf.release()


def delete_pinned(store: refstore.Store) -> None:
    with store.get("n") as buf:
        view = memoryview(buf)
        store.delete("n")
        view.release()


def fork(store: refstore.Store) -> None:
    with store.get("n") as buf, helpers.forking_on_purpose():
        pid = os.fork()
        if pid == 0:
            opcodes.stop()
            os._exit(bytes(buf) not in KNOWN)
        assert os.waitpid(pid, 0)[1] == 0


def give_up_waiting(wait: Work) -> Work:
    """Wait for what does not come."""

    def work(store: refstore.Store) -> None:
        with contextlib.suppress(refstore.GetTimeoutError, refstore.StoreFullError):
            wait(store)

    return work


def claim(store: refstore.Store, end: str) -> None:
    writer = store.create(len(NEW), name="n", replace=True, claim=True)
    memoryview(writer)[:] = NEW
    if end == "seal":
        writer.seal()
    else:
        writer.abort()


def own_and_leave(store: refstore.Store) -> None:
    store.put(SMALL, name="owned", owned=True)
    store.put(LARGE, owned=True)
    store.close()


def make_from_another(store: refstore.Store) -> None:
    def make() -> bytes:
        store.put(SMALL, name="new")  # over our own claim
        with store.get_or_put("another", lambda: SMALL) as buf:
            return bytes(buf)

    store.get_or_put("new", make).release()


def come_and_go(store: refstore.Store) -> None:
    path = store.path
    store.close()
    refstore.Store(path, create=False).close()


OPERATIONS = {
    "put": Operation(lambda store: store.put(SMALL)),
    "put large": Operation(lambda store: store.put(LARGE)),
    "put named": Operation(lambda store: store.put(SMALL, name="new")),
    "put an object": Operation(lambda store: store.put({"a": np.zeros(1000)})),
    "replace": Operation(lambda store: store.put(NEW, name="n", replace=True)),
    "put with meta": Operation(lambda store: store.put(NEW, name="n", replace=True, meta=META)),
    "put many": Operation(lambda store: store.put_many([SMALL, LARGE, NEW])),
    "put many named": Operation(
        lambda store: store.put_many([NEW, SMALL], names=["n", "new"], replace=True)
    ),
    "evict": Operation(lambda store: store.put(HUGE), evicts=True),
    "evict for many": Operation(lambda store: store.put_many([HUGE, SMALL]), evicts=True),
    "truncate": Operation(truncate),
    "create and seal": Operation(lambda store: write(store, "seal")),
    "create and abort": Operation(lambda store: write(store, "abort")),
    "abort with a view": Operation(lambda store: write(store, "view")),
    "get": Operation(lambda store: store.get("n").release()),
    "get writable": Operation(lambda store: store.get("n", writable=True).release()),
    "get many": Operation(get_many),
    "delete": Operation(lambda store: store.delete("n"), deletes=True),
    "delete many": Operation(lambda store: store.delete_many(["n", "gone"]), deletes=True),
    "delete what is pinned": Operation(delete_pinned, deletes=True),
    "get or put what is there": Operation(lambda store: store.get_or_put("n", list).release()),
    "get or put": Operation(
        lambda store: store.get_or_put("new", lambda: SMALL).release(), in_steps=True
    ),
    "get or put large": Operation(
        lambda store: store.get_or_put("new", lambda: LARGE).release(), in_steps=True
    ),
    "get or put from another": Operation(make_from_another, in_steps=True),
    "wait": Operation(give_up_waiting(lambda store: store.wait("new", timeout=0.001))),
    "wait for room": Operation(
        give_up_waiting(lambda store: store.put(bytes(299_000), timeout=0.001))
    ),
    "wait to write": Operation(
        give_up_waiting(lambda store: store.create(299_000, name="new", claim=True, timeout=0.001))
    ),
    "claim and seal": Operation(lambda store: claim(store, "seal")),
    "claim and abort": Operation(lambda store: claim(store, "abort")),
    "own and leave": Operation(own_and_leave),
    "adopt": Operation(lambda store: store.adopt("n"), deletes=True),
    "disown": Operation(lambda store: store.disown("n")),
    "trim": Operation(lambda store: store.trim()),
    "fork": Operation(fork),
    "come and go": Operation(come_and_go),
    "recover": Operation(lambda store: store.recover(), after_a_death=True),
    "come after a death": Operation(come_and_go, after_a_death=True),
    "delete what the dead pin": Operation(
        lambda store: store.delete("n"), deletes=True, after_a_death=True
    ),
    "get or put what the dead was making": Operation(
        lambda store: store.get_or_put("making", lambda: SMALL).release(),
        in_steps=True,
        after_a_death=True,
    ),
    "put what the dead had claimed": Operation(
        lambda store: store.put(SMALL, name="claimed"), after_a_death=True
    ),
    "put into the room of the dead": Operation(
        lambda store: store.put(HUGE), after_a_death=True, evicts=True
    ),
}


def in_child(work: Callable[[], object]) -> int:
    """Run it in a forked child, whose own forked ones end first; its exit status."""
    before = helpers.children()
    status = helpers.forked(work)
    for orphan in helpers.children() - before:
        os.waitpid(orphan.pid, 0)
    return status


def killed_at(number: int | None, work: Callable[[], object]) -> int:
    """Run it in a child that is killed at that bytecode; how many there were if it ended."""
    ours, theirs = os.pipe()
    reached = 0

    def step(now: int) -> None:
        nonlocal reached
        reached = now
        if now == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def live() -> None:
        with opcodes.each(step):
            work()
        os.write(theirs, reached.to_bytes(8, "little"))

    try:
        status = in_child(live)
        if status == -signal.SIGKILL and number is not None:
            return number
        assert status == 0, f"it ended with {status} by itself"
        return int.from_bytes(os.read(ours, 8), "little")
    finally:
        os.close(ours)
        os.close(theirs)


@contextlib.contextmanager
def scenario(operation: Operation) -> Iterator[str]:
    """The path of a store with three objects; afterwards nothing may be left of it."""
    where = helpers.SHARED_MEMORY if helpers.SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="refstore-test-", dir=where))
    path = str(folder / "store")
    try:
        furnish(path)
        if operation.after_a_death:
            status = in_child(lambda: die_with_much_in_hand(path))
            assert status == -signal.SIGKILL
        yield path
        left = [str(entry.relative_to(folder)) for entry in folder.rglob("*")]
        assert not left, left  # in words: a child's traceback shows no values
    finally:
        shutil.rmtree(folder)


def furnish(path: str) -> None:
    options: dict[str, Any] = {"capacity": CAPACITY, "max_objects": 16, "evict": "s3fifo"}
    with refstore.Store(path, create=True, **options) as store:
        store.put(KEPT, name="kept", evictable=False)
        store.put(OLD, name="n", evictable=False)
        store.delete(store.put(SMALL))
        store.put(LARGE)  # which may go


def die_with_much_in_hand(path: str) -> None:
    store = refstore.Store(path, create=False)
    held: list[Any] = [store.get("n"), store.get("kept"), store.get(store.put(LARGE))]
    store.delete(held[2].ref)
    writer = store.create(150_000)
    memoryview(writer)[:100] = bytes(100)
    held += [store.create(1000, name="claimed", claim=True)]
    store.put(SMALL, name="owned", owned=True)
    store.get_or_put("making", lambda: os.kill(os.getpid(), signal.SIGKILL))


def run(operation: Operation, path: str, number: int | None, is_attached: bool) -> int:
    """The operation in a child, on a store that it inherits or opens, killed at that bytecode."""
    if is_attached:
        with refstore.Store(path, create=False) as store:
            return killed_at(number, lambda: operation.work(store))

    def alone() -> None:
        operation.work(refstore.Store(path, create=False))

    return killed_at(number, alone)


def require_sound(path: str, operation: Operation) -> None:
    """What a survivor must find; leaves no store."""
    with refstore.Store(path, create=False) as store:
        require_nothing_wrong(store)
        store.recover()
        require_nothing_wrong(store)
        with store["kept"] as buf:
            assert bytes(buf) == KEPT
        left = [info for info in store.objects() if info.owned or info.state != "live"]
        assert left == [], left
        if not operation.deletes:
            assert "n" in store, "the object is lost"
        for name in store.names():
            with store[name] as buf:
                assert bytes(buf) in KNOWN, f"{name} is not whole"
        for ref in list(store):
            with store.get(ref) as buf:
                assert buf.kind == "object" or bytes(buf) in KNOWN
                assert buf.meta in (b"", META)
            store.delete(ref)
        stats = store.stats()
        assert (stats.used, stats.pinned, stats.condemned, stats.processes) == (0, 0, 0, 1), stats
        helpers.assert_full_capacity_fits(store)
        require_nothing_wrong(store)
        store.unlink()


def require_nothing_wrong(store: refstore.Store) -> None:
    problems = store.check()
    assert problems == [], problems


def length_of(name: str, is_attached: bool) -> int:
    """How many bytecodes an operation has."""
    operation = OPERATIONS[name]
    with scenario(operation) as path:
        length = run(operation, path, None, is_attached)
        require_sound(path, operation)
    return length


def trial(name: str, number: int, is_attached: bool, second: int | None = None) -> None:
    """One kill, and a second one of whoever comes to clear up after the first."""
    operation = OPERATIONS[name]
    with scenario(operation) as path:
        run(operation, path, number, is_attached)
        if second is not None:
            killed_at(second, lambda: refstore.Store(path, create=False))
        require_sound(path, operation)


def adopt(wanted: bool = True) -> None:
    """Children of a killed child become ours, so that their end can be waited for."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def get_ready() -> None:
    """In a process that plays trials for pytest."""
    adopt()
    warnings.simplefilter("error")
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    adopt()
    try:
        yield
    finally:
        adopt(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--depth", type=int, choices=(1, 2), default=1)
    parser.add_argument("--only", default="", help="operations whose names have that in them")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    os.environ[engines.VARIABLE] = "filelock"
    dice = random.Random(options.seed)
    chosen = [name for name in OPERATIONS if options.only in name]
    print(f"seed {options.seed}, {options.trials} trials", flush=True)
    lengths: dict[tuple[str, bool], int] = {}
    with adopting():
        for number in range(options.trials):
            name, is_attached = dice.choice(chosen), dice.random() < 0.5
            if (name, is_attached) not in lengths:
                lengths[name, is_attached] = length_of(name, is_attached)
            first = dice.randint(1, lengths[name, is_attached])
            second = dice.randint(1, 25_000) if options.depth == 2 else None
            try:
                trial(name, first, is_attached, second)
            except BaseException:
                print(
                    f"FAULT in trial {number}: {name!r}, attached {is_attached}, killed at "
                    f"bytecode {first}, then {second}",
                    file=sys.stderr,
                )
                raise
    print(f"{options.trials} trials, no fault; bytecodes: {lengths}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
