"""At each point where Python may run in an operation, it does the worst that it may do."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import helpers
import numpy as np
import pytest

import refstore
from refstore import _core, payload
from tests.native.crash.failpoints import ROOT
from tests.native.crash.stopping import LOCKED, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="points are visited in debug builds")

Work = Callable[[refstore.Store], "refstore.ObjectRef | None"]
CAPACITY = 1 << 20
SOURCE = re.compile(r"(?:python_ran|look_for_signals)\([^\"\n]+, \"([^\"]+)\"\)")
DTYPE = np.dtype([("a", "f8"), ("b", "u1", 3)])


# -- operations, which reach all the points ----------------------------------------------------


def put_view(store: refstore.Store) -> refstore.ObjectRef:
    return store.put(memoryview(helpers.pattern(1, 2000))[::2])


def put_object(store: refstore.Store) -> refstore.ObjectRef:
    obj = {"a": np.arange(5000.0), "b": helpers.pattern(2, 70_000)}
    return store.put(obj, name="n", replace=True)


def create(store: refstore.Store) -> refstore.ObjectRef:
    with store.create(shape=(700, 3), dtype=DTYPE, name="n", replace=True) as writer:
        writer.array["a"] = 7.0
    return writer.ref


def write_at(store: refstore.Store) -> refstore.ObjectRef:
    with store.create(200_000, name="n", replace=True) as writer:
        writer.write_at(0, helpers.pattern(6, 100_000))
        writer.truncate(90_000)
    return writer.ref


def put_many(store: refstore.Store) -> refstore.ObjectRef:
    objs = [helpers.pattern(7, 70_000), np.ones(300, DTYPE), {"a": np.arange(5000.0)}]
    return store.put_many(objs, names=["n", "o", "p"], replace=True)[0]


def open_again(store: refstore.Store, path: str) -> refstore.Store:
    return refstore.Store(path, create=False) if store.closed else store


def get_and_delete_many(store: refstore.Store) -> refstore.ObjectRef:
    path = store.path
    store.get_many(["n", "n"])
    again = open_again(store, path)
    again.delete_many(["n"])
    return open_again(again, path).put(helpers.pattern(4, 100), name="n", replace=True)


def trim(store: refstore.Store) -> refstore.ObjectRef:
    path = store.path
    store.trim()
    return open_again(store, path).put(helpers.pattern(3, 5000))


def make_free_memory(store: refstore.Store) -> None:
    store.delete(store.put(bytes(600_000)))


def put_into_garbage(store: refstore.Store) -> refstore.ObjectRef:
    return store.put(helpers.pattern(3, 500_000))


def make_garbage(store: refstore.Store) -> None:
    """What is deleted takes most of the room, pinned by a cycle that nobody has collected yet."""
    gc.disable()
    buffers: list[Any] = [store.get(store.put(bytes(600_000)))]
    buffers.append(buffers)
    store.delete(buffers[0].ref)


def put_where_it_evicts(store: refstore.Store) -> refstore.ObjectRef:
    return store.put(helpers.pattern(3, 100_000))


def make_cache(store: refstore.Store) -> None:
    """It is full, and an eviction has yet to be told."""
    for number in itertools.count():
        store.put(bytes(100_000), name=f"cached {number}", evictable=True)
        if store.stats().evictions:
            return


BEFORE: dict[Work, Callable[[refstore.Store], None]] = {
    trim: make_free_memory,
    put_into_garbage: make_garbage,
    put_where_it_evicts: make_cache,
}


def waits_in_vain(call: Callable[[refstore.Store], object]) -> Work:
    def wait(store: refstore.Store) -> refstore.ObjectRef:
        path = store.path
        expected = refstore.GetTimeoutError, refstore.StoreFullError
        _core._set_nap(10_000)  # one, for all of its time
        try:
            with contextlib.suppress(*expected, ValueError):  # closed meanwhile
                call(store)
        finally:
            _core._set_nap(-1)
        again = refstore.Store(path, create=False) if store.closed else store
        return again.put(helpers.pattern(6, 100), name="n", replace=True)

    return wait


def make(store: refstore.Store) -> refstore.ObjectRef:
    path = store.path
    try:
        return store.get_or_put("m", lambda: helpers.pattern(7, 100)).ref
    except ValueError:  # closed by the factory
        assert store.closed
        return refstore.Store(path, create=False).put(b"x", name="m")


def make_in_a_factory(store: refstore.Store) -> refstore.ObjectRef:
    """One waits for a claim that is not let go meanwhile."""
    path = store.path
    with contextlib.suppress(refstore.ObjectExistsError), store.create(1, name="m", claim=True):
        here = refstore.Store(path, create=False) if store.closed else store
        waits_in_vain(lambda store: store.get_or_put("m", bytes, timeout=0.1))(here)
        raise refstore.ObjectExistsError("", key="m")  # the Writer aborts
    again = refstore.Store(path, create=False) if store.closed else store
    return again.ref("n")


def put_by_a_copy_of_ours(store: refstore.Store) -> refstore.ObjectRef:
    """The pieces of an object are copied in Python, as tests may have it."""

    def copy(target: Any, source: memoryview) -> None:
        target[:] = source

    with mock.patch.object(payload, "_copy", copy):
        return put_object(store)


OPERATIONS: dict[str, Work] = {
    "object by a copy of ours": put_by_a_copy_of_ours,
    "bytes": lambda store: store.put(helpers.pattern(4, 100_000), name="n", replace=True),
    "view": put_view,
    "array in Fortran's order": lambda store: store.put(np.ones((200, 100), order="F")),
    "array with gaps": lambda store: store.put(np.ones((200, 4, 100))[::2, :, ::3]),
    "array of records": lambda store: store.put(np.ones(3000, DTYPE)),
    "object": put_object,
    "create and seal": create,
    "write at and truncate": write_at,
    "many at once": put_many,
    "get and delete many": get_and_delete_many,
    "trim": trim,
    "put into garbage": put_into_garbage,
    "put where it evicts": put_where_it_evicts,
    "wait": waits_in_vain(lambda store: store.wait("nothing", timeout=0.1)),
    "wait for room": waits_in_vain(lambda store: store.put(bytes(CAPACITY), timeout=0.1)),
    "wait for room for many": waits_in_vain(
        lambda store: store.put_many([bytes(CAPACITY // 2)] * 2, timeout=0.1)
    ),
    "make": make,
    "make what others make": make_in_a_factory,
    "wait for many": waits_in_vain(lambda store: store.wait_any(["a", "b"], timeout=0.1)),
}


# -- what is done at a point ---------------------------------------------------------------------


class ActError(Exception):
    pass


class Maker:
    """The process whose operation is disturbed, and what it does there."""

    def __init__(self, store: refstore.Store, act: str) -> None:
        self.store = store
        self.path = store.path
        self.act = act
        self.pid = os.getpid()
        self.late = 0  # a child that is to go on after its parent
        self.pipe = os.pipe()

    def __call__(self) -> None:
        getattr(self, f"_{self.act}")()

    def _raise(self) -> None:
        raise ActError

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _use(self) -> None:
        use(self.store, "used")

    def _close(self) -> None:
        self.store.close()

    def _fork_and_exit(self) -> None:
        self.in_a_child(lambda: sys.exit(0))

    def _fork_and_end(self) -> None:
        self.in_a_child(lambda: os._exit(0))

    def _fork_and_raise(self) -> None:
        self.in_a_child(self._raise)

    def in_a_child(self, end: Callable[[], object]) -> None:
        with helpers.forking_on_purpose():
            pid = os.fork()
        if not pid:
            end()
        os.waitpid(pid, 0)
        # another process takes what the child may have given up
        assert helpers.forked(lambda: use(self.store, "rival")) == 0

    def _fork_and_return(self) -> None:
        with helpers.forking_on_purpose():
            self.late = os.fork()
        if not self.late:
            os.read(self.pipe[0], 1)

    def let_the_child_go_on(self) -> None:
        if self.late:
            os.write(self.pipe[1], b".")
            status = os.waitstatus_to_exitcode(os.waitpid(self.late, 0)[1])
            assert status == 0, "the child went on with what its parent was at"


ACTS = tuple(name[1:] for name in vars(Maker) if re.fullmatch("_[a-z]+(_and_[a-z]+)?", name))


def use(store: refstore.Store, name: str) -> None:
    """Objects of all kinds, some of which stay."""
    for size in (100, 1000, 20_000, 70_000):
        store.delete(store.put(helpers.pattern(size, size)))
        store.put(helpers.pattern(size, size), name=f"{name} {size}")
    store["n"] = {name: helpers.pattern(5, 3000)}


def play(store: refstore.Store, work: Work, act: str, number: int) -> None:
    """In a process of its own: `work`, with `act` at the point that is visited as the given one."""
    maker = Maker(store, act)
    if work in BEFORE:
        BEFORE[work](store)
    visited = 0

    def visit(name: str) -> None:
        nonlocal visited
        visited += 1
        if visited == number:
            maker()

    _core._visit_points(visit)
    error: BaseException | None = None
    ref = None
    try:
        ref = work(store)
    except BaseException as caught:
        error = caught
    _core._visit_points(None)
    if os.getpid() != maker.pid:
        # a child in the midst of its parent's call
        refused = isinstance(error, (refstore.RefstoreError, SystemExit, ActError))
        os._exit(0 if refused else 1)
    if act == "raise":
        assert isinstance(error, ActError), error
        return
    if act == "fork_and_return" and work is put_into_garbage and error is not None:
        assert isinstance(error, refstore.StoreFullError)  # the child has the garbage, too
        maker.let_the_child_go_on()
        return
    assert error is None, error
    assert ref is not None
    if store.closed:
        store = refstore.Store(maker.path, create=False)
    with store.get(ref) as buf:
        before = bytes(buf)
        store.delete(ref)
        use(store, "late")
        maker.let_the_child_go_on()
        assert bytes(buf) == before


# -- the test -----------------------------------------------------------------------------------


def names_in_the_source() -> set[str]:
    return {
        name
        for path in (ROOT / "refstore" / "engines" / "native").glob("*.p?[di]")
        for name in SOURCE.findall(path.read_text())
    }


def visited_by(store: refstore.Store, work: Work) -> list[str]:
    names: list[str] = []
    if work in BEFORE:
        BEFORE[work](store)
    _core._visit_points(names.append)
    try:
        work(store)
    finally:
        _core._visit_points(None)
        gc.enable()
    return names


@contextlib.contextmanager
def populated(path: str) -> Iterator[refstore.Store]:
    with refstore.Store(path, capacity=CAPACITY, max_objects=64, create=True) as store:
        store["kept"] = helpers.pattern(9, 5000)
        store["n"] = b"old"
        try:
            yield store
        finally:
            os.unlink(path)


def test_each_point_is_visited(folder: Path) -> None:
    visited: set[str] = set()
    for number, work in enumerate(OPERATIONS.values()):
        with populated(str(folder / f"s{number}")) as store:
            visited.update(visited_by(store, work))
    with populated(str(folder / "waits")) as store:
        visited.update(visited_while_waiting(store))
    assert visited == names_in_the_source()


def visited_while_waiting(store: refstore.Store) -> list[str]:
    names: list[str] = []

    def put(store: refstore.Store) -> refstore.ObjectRef:
        return store.put(bytes(100_000))

    _core._set_busy_timeout(50)
    _core._visit_points(names.append)
    try:
        with (
            stopped_at(LOCKED, lambda: put(store)),
            pytest.raises(refstore.StoreBusyError),
        ):
            put(store)
    finally:
        _core._visit_points(None)
        _core._set_busy_timeout(-1)
    return names


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_worst_is_done_at_each_point(folder: Path, operation: str, act: str) -> None:
    work = OPERATIONS[operation]
    path = str(folder / "store")
    with populated(path) as store:
        n = len(visited_by(store, work))
    assert n > 0
    for number in range(1, n + 1):
        with populated(path) as store:
            ended = helpers.forked(partial(play, store, work, act, number))
            assert ended == (-signal.SIGKILL if act == "kill" else 0), number
            store.recover()
            assert store.check() == []
            assert bytes(store["kept"]) == helpers.pattern(9, 5000)
            assert all(store[name].value is not None for name in store.names())
            named = {store.ref(name) for name in store.names()}
            assert set(store) == named, "an object without a name is left"
            for ref in named:
                store.delete(ref)
            helpers.assert_full_capacity_fits(store)
