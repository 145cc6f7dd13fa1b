"""What a process does when it is killed, and what may have become of the objects then."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import refstore
from tests.native.crash import meetings
from tests.native.crash.contents import (
    CACHED,
    CACHED_3,
    CAPACITY,
    LARGE,
    NAMED,
    NEW,
    OLD,
    OWNED,
    PASSING,
    SCENARIO,
    SMALL,
)

Outcomes = dict[str, set[bytes | None]]  # by name; None: no such object


class Operation(NamedTuple):
    """`run` gets a path if it attaches by itself, else a store that is attached already."""

    name: str
    run: Callable[[refstore.Store], None] | Callable[[str], refstore.Store]
    outcomes: Outcomes
    attaches: bool = False
    is_timed: bool = False  # the clock says how often it passes a point, if at all


def attach(path: str) -> refstore.Store:
    """Recovers what dead processes held, too."""
    store = refstore.Store(path, create=False)
    recover(store)
    return store


def close(store: refstore.Store) -> None:
    store.put(SMALL)
    with contextlib.suppress(refstore.ObjectNotFoundError):
        store.get("large").release()
    store.close()


def put_small(store: refstore.Store) -> None:
    store.put(SMALL)
    store.put(bytes(700))


def put_large(store: refstore.Store) -> None:
    store.put(LARGE)


def put_nothing(store: refstore.Store) -> None:
    store.put(b"")


def put_many_sizes(store: refstore.Store) -> None:
    for size in (1, 700, 5000, 20000, 40000):
        store.put(bytes(size))


def put_named(store: refstore.Store) -> None:
    store.put(NEW, name="fresh")


def replace(store: refstore.Store) -> None:
    store.put(NEW, name="old", replace=True)


def replace_by_large(store: refstore.Store) -> None:
    store.put(LARGE, name="old", replace=True)


def put_arrays(store: refstore.Store) -> None:
    store.put(np.zeros((2, 3, 4)))
    store.put(np.zeros((2, 3, 4), "M8[s]").transpose(1, 2, 0))
    store.put(np.zeros(3, [(f"field {i}", "f4") for i in range(40)]))


def put_object(store: refstore.Store) -> None:
    store.put({"w": np.ones(100), "step": 1})


def delete_small(store: refstore.Store) -> None:
    store.delete("small")


def delete_and_reuse(store: refstore.Store) -> None:
    """What lay there is overwritten, if anybody lets it."""
    for name in ("small", "large"):
        store.delete(name)
    for data in (SMALL, LARGE):
        with store.get(store.put(data[::-1])) as buf:
            assert bytes(buf) == data[::-1]
            store.put(data[::-1])


def sweep_and_reuse(store: refstore.Store) -> None:
    """What others are about to free is freed and used again, and deleted again under a pin."""
    with contextlib.suppress(refstore.StoreFullError):
        store.put(bytes(CAPACITY))
    held = [(store.get(store.put(data)), data) for data in (SMALL[::-1], LARGE[::-1])]
    for buf, _ in held:
        store.delete(buf.ref)
    refs = [store.put(data) for data in (SMALL, LARGE)]
    for buf, data in held:
        assert bytes(buf) == data
        buf.release()
    for ref in refs:
        store.delete(ref)


def delete_large(store: refstore.Store) -> None:
    store.delete("large")


def delete_by_ref(store: refstore.Store) -> None:
    store.delete(store.ref("small"))


def delete_pinned(store: refstore.Store) -> None:
    with store.get("large"):
        store.delete("large")


def get(store: refstore.Store) -> None:
    with store.get("small") as by_name, store.get(by_name.ref) as by_ref:
        view = by_ref._private_view()
        assert bytes(by_name) == bytes(by_ref) == bytes(view) == SMALL


def get_by_ref(store: refstore.Store) -> None:
    """By refs that were there from the start; each object is what it was then, to the end."""
    held = []
    for raw, data in SCENARIO.items():
        with contextlib.suppress(refstore.ObjectNotFoundError):
            held.append((store.get(refstore.ObjectRef(raw)), data))
    for buf, data in held:
        assert bytes(buf) == data
        buf.release()


def put_owned(store: refstore.Store) -> None:
    """The second object comes to where the first one was, and is nobody's."""
    store.delete(store.put(SMALL, owned=True))
    store.put(SMALL)
    store.put(NEW, name="fresh", owned=True)


def leave(store: refstore.Store) -> None:
    """What is owned goes, though a view of it lives on; what is sealed too late goes at once."""
    store.put(NEW, name="fresh", owned=True)
    with store.get("fresh") as buf, store.create(100, owned=True) as writer:
        store.close()
        assert bytes(buf) == NEW
        memoryview(writer)[:] = SMALL


def put_many(store: refstore.Store) -> None:
    wide = [(f"field {i}", "f4") for i in range(40)]
    arrays = [np.zeros((2, 3)), np.zeros(3, [("a", "f4")]), np.zeros(3, wide)]
    store.put_many([SMALL, *arrays, {"w": np.ones(100)}])
    store.put_many([SMALL, b""], owned=True)
    store.put_many([NEW, LARGE], names=["fresh", "old"], replace=True)


def delete_many(store: refstore.Store) -> None:
    for buf in store.get_many(["small", "large"]):
        buf.release()
    store.delete_many(["small", "large", "small"])


def adopt(store: refstore.Store) -> None:
    for name in ("small", "owned", "old"):
        with contextlib.suppress(refstore.ObjectNotFoundError):
            store.adopt(name)


def disown(store: refstore.Store) -> None:
    store.disown(store.ref("owned"))


def put_and_label(store: refstore.Store) -> None:
    store.put(b"x")
    refstore.label("crew")


def churn(store: refstore.Store) -> None:
    """Objects that may go, where there is never room for all."""
    for k, data in enumerate(PASSING):
        store.put(data, name=f"passing {k % 3}", replace=True, evictable=True)
        with (
            contextlib.suppress(refstore.ObjectNotFoundError),
            store.get(f"passing {k // 3 % 3}") as buf,
        ):
            assert bytes(buf) in PASSING


def put_what_went(store: refstore.Store) -> None:
    """What was evicted lately comes back, and what was read since stays."""
    for k in range(4, 8):
        with contextlib.suppress(refstore.ObjectNotFoundError):
            store.get(f"cached {k}").release()
    for _ in range(3):
        store.put(LARGE[:60_000], evictable=True)
    with contextlib.suppress(refstore.ObjectExistsError):
        store.put(CACHED_3, name="cached 3", evictable=True)


def delete_cached(store: refstore.Store) -> None:
    for name in CACHED:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            store.delete(name)


def get_and_fork(store: refstore.Store) -> None:
    """A child reads on what its parent has let go of."""
    held = []
    for raw, data in SCENARIO.items():
        with contextlib.suppress(refstore.ObjectNotFoundError):
            held.append((store.get(refstore.ObjectRef(raw)), data))
    pipe = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(pipe[1])
        os.read(pipe[0], 1)
        os._exit(0 if all(bytes(buf) == data for buf, data in held) else 1)
    for buf, _ in held:
        buf.release()
    with contextlib.suppress(refstore.StoreFullError):
        put_small(store)
    os.close(pipe[0])
    os.close(pipe[1])
    while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
        os.kill(os.getpid(), signal.SIGSTOP)  # it was the one to stop: this one stops with it
        os.kill(child, signal.SIGCONT)
    if os.WIFSIGNALED(status):  # it was the one to die: this one goes with it
        os.kill(os.getpid(), signal.SIGKILL)
    assert status == 0


def write_and_seal(store: refstore.Store) -> None:
    with store.create(50000, name="fresh") as writer:
        memoryview(writer)[:] = bytes(50000)


def write_and_abort(store: refstore.Store) -> None:
    writer = store.create(50000)
    view = memoryview(writer)
    writer.abort()
    view.release()
    store.create(100).abort()


def write_and_truncate(store: refstore.Store) -> None:
    """To a smaller block, to fewer pages, and to both beside bytes of the user's own."""
    for size, meta in ((10, b""), (40_000, b""), (10, b"m" * 100), (40_000, b"m" * 300)):
        with store.create(100_000, meta=meta) as writer:
            writer.write_at(0, SMALL)
            writer.truncate(size)
    with store.create(100_000, name="fresh", meta=b"m" * 300) as writer:
        view = memoryview(writer)
        view[:] = bytes(100_000)
        writer.truncate(50_000)
        view.release()


def write_by_header(store: refstore.Store) -> None:
    with (
        store.get("small") as buf,
        store.create(buf.nbytes, header=buf.header, name="fresh") as writer,
    ):
        writer.write_at(0, buf)


def put_meta(store: refstore.Store) -> None:
    store.put(SMALL, meta=b"m" * 100)
    store.put(NEW, name="fresh", meta=b"m" * 5000)


def write_and_keep_a_view(store: refstore.Store) -> None:
    with store.create(shape=100) as writer:
        array = writer.array
    store.delete(writer.ref)
    del array


def fill_up(store: refstore.Store) -> None:
    """Takes runs apart, since every byte is wanted."""
    refs = []
    with contextlib.suppress(refstore.StoreFullError):
        refs += [store.put(bytes(size)) for size in (100, 1000, 10000, 100000)]
    for ref in refs:
        store.delete(ref)
    for name in store.names():
        store.delete(name)
    store.delete(store.put(bytes(CAPACITY)))


def grow(store: refstore.Store) -> None:
    """More objects than the first step of the slot table has."""
    for _ in range(1100):
        store.put(b"")


def reuse_runs(store: refstore.Store) -> None:
    """Blocks that came free in runs that are no longer cut from."""
    refs = [store.put(bytes(300)) for _ in range(60)]
    for ref in refs[:50]:
        store.delete(ref)
    for _ in range(60):
        store.put(bytes(300))


def run_out_of_slots(store: refstore.Store) -> None:
    """Slots leave their blocks behind where they are needed, and the blocks find other slots."""
    refs: list[refstore.ObjectRef] = []
    empty = []
    with contextlib.suppress(refstore.StoreFullError):
        while len(refs) < 400:
            refs.append(store.put(bytes(64), evictable=False))
    for ref in refs[::2]:
        store.delete(ref)
    with contextlib.suppress(refstore.StoreFullError):
        while True:
            empty.append(store.put(b"", evictable=False))
    for ref in empty[:300]:
        store.delete(ref)
    for _ in range(100):
        store.put(bytes(64))


def last_generation(store: refstore.Store) -> None:
    """Slots that come to the end of their generations are never used again; their space is."""
    from refstore import _core

    for size in (100, 100_000):
        ref = store.put(bytes(size))
        slot = int.from_bytes(bytes(ref)[:4], "little")
        store.delete(ref)
        _core._set_generation(store, slot, (1 << 48) - 1)
        store.delete(store.put(bytes(size)))
    store.trim()


def trim(store: refstore.Store) -> None:
    store.delete(store.put(bytes(CAPACITY // 2)))
    store.trim()


def fork(store: refstore.Store) -> None:
    with store.get("large"), store.create(100) as writer:
        view = memoryview(writer)
        child = os.fork()
        if child == 0:
            os._exit(0)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):  # it was the one to die: this one goes with it
            os.kill(os.getpid(), signal.SIGKILL)
        view.release()


def recover(store: refstore.Store) -> None:
    while store.recover():
        pass


def _gone(*names: str) -> Outcomes:
    return {name: {NAMED[name], None} for name in names}


OPERATIONS = [
    Operation("attach", attach, {}, attaches=True),
    Operation("recover", recover, {}),
    Operation("close", close, {}),
    Operation("put_small", put_small, {}),
    Operation("put_large", put_large, {}),
    Operation("put_nothing", put_nothing, {}),
    Operation("put_many_sizes", put_many_sizes, {}),
    Operation("put_named", put_named, {"fresh": {None, NEW}}),
    Operation("replace", replace, {"old": {OLD, NEW}}),
    Operation("replace_by_large", replace_by_large, {"old": {OLD, LARGE}}),
    Operation("put_arrays", put_arrays, {}),
    Operation("put_object", put_object, {}),
    Operation("delete_small", delete_small, _gone("small")),
    Operation("delete_and_reuse", delete_and_reuse, _gone("small", "large")),
    Operation("sweep_and_reuse", sweep_and_reuse, {}),
    Operation("delete_large", delete_large, _gone("large")),
    Operation("delete_by_ref", delete_by_ref, _gone("small")),
    Operation("delete_pinned", delete_pinned, _gone("large")),
    Operation("get", get, {}),
    Operation("get_by_ref", get_by_ref, {}),
    Operation("put_many", put_many, {"fresh": {None, NEW}, "old": {OLD, LARGE}}),
    Operation("delete_many", delete_many, _gone("small", "large")),
    Operation("put_owned", put_owned, {"fresh": {None}}),
    Operation("leave", leave, {"fresh": {None}}),
    Operation("adopt", adopt, {**_gone("small", "old"), "owned": {None}}),
    Operation("disown", disown, {"owned": {OWNED}}),
    Operation("put_and_label", put_and_label, {}),
    Operation("churn", churn, {f"passing {k}": {None, *PASSING} for k in range(3)}),
    Operation("put_what_went", put_what_went, {"cached 3": {CACHED_3, None}}),
    Operation("delete_cached", delete_cached, {name: {None} for name in CACHED}),
    Operation("get_and_fork", get_and_fork, {}),
    Operation("write_and_seal", write_and_seal, {"fresh": {None, bytes(50000)}}),
    Operation("write_and_abort", write_and_abort, {}),
    Operation("write_and_truncate", write_and_truncate, {"fresh": {None, bytes(50000)}}),
    Operation("write_by_header", write_by_header, {"fresh": {None, SMALL}}),
    Operation("put_meta", put_meta, {"fresh": {None, NEW}}),
    Operation("write_and_keep_a_view", write_and_keep_a_view, {}),
    Operation("fill_up", fill_up, {**_gone(*NAMED), "owned": {OWNED, None}}),
    Operation("grow", grow, {}),
    Operation("reuse_runs", reuse_runs, {}),
    Operation("run_out_of_slots", run_out_of_slots, {}),
    Operation("last_generation", last_generation, {}),
    Operation("trim", trim, {}),
    Operation(
        "make_what_is_not_there",
        meetings.make_what_is_not_there,
        {"fresh": {None, NEW}, "taken": {None, SMALL, NEW}},
        is_timed=True,
    ),
    Operation(
        "make_in_the_last_slot",
        meetings.make_in_the_last_slot,
        {"fresh": {None, b"", SMALL, NEW}},
        is_timed=True,
    ),
    Operation(
        "make_from_others",
        meetings.make_from_others,
        {"fresh": {None, NEW}, "taken": {None, NEW}},
        is_timed=True,
    ),
    Operation("claim_and_seal", meetings.claim_and_seal, {"fresh": {None, bytes(50000)}}),
    Operation("claim_and_replace", meetings.claim_and_replace, {"old": {OLD, NEW}}),
    Operation("claim_and_abort", meetings.claim_and_abort, {}),
    Operation("wait_in_vain", meetings.wait_in_vain, {}, is_timed=True),
    Operation("wait_for_what_comes", meetings.wait_for_what_comes, {}, is_timed=True),
    Operation("wait_for_room", meetings.wait_for_room, _gone("small"), is_timed=True),
    Operation(
        "wait_for_room_for_many", meetings.wait_for_room_for_many, _gone("small"), is_timed=True
    ),
    Operation(
        "replace_what_is_waited_for",
        meetings.replace_what_is_waited_for,
        {"old": {OLD, NEW}, **_gone("small")},
        is_timed=True,
    ),
    Operation("fork", fork, {}),
]
BY_NAME = {operation.name: operation for operation in OPERATIONS}
