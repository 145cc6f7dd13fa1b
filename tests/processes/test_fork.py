"""fork: what the child inherits stays valid by pins of its own, and the parent's stay its own."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import engines
import helpers
import numpy as np
import pytest
import workers
from children import Session, child_process, clear_up_after_the_dead
from helpers import forked

import refstore

MakeStore = Callable[..., refstore.Store]


class Gate:
    """Lets the parent hold the child at one point, and the child the parent."""

    def __init__(self) -> None:
        self._here = os.pipe()
        self._there = os.pipe()

    def arrive(self) -> None:
        """In the child: say so, and wait until the parent opens."""
        os.write(self._here[1], b"x")
        assert os.read(self._there[0], 1) == b"x"

    def wait(self) -> None:
        """In the parent: wait until the child has arrived."""
        assert os.read(self._here[0], 1) == b"x"

    def open(self) -> None:
        os.write(self._there[1], b"x")

    def close(self) -> None:
        for end in (*self._here, *self._there):
            os.close(end)


class Child:
    """A forked child that runs `before`, waits at the gate, runs `after` and ends."""

    def __init__(self, before: Callable[[], object], after: Callable[[], object]) -> None:
        self.gate = Gate()
        with helpers.forking_on_purpose():
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                before()
                self.gate.arrive()
                after()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def __enter__(self) -> Child:
        self.gate.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self.gate.open()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.gate.close()
        assert status == 0


def nothing() -> None:
    """Before or after the gate, in a child that has nothing to do there."""


@pytest.mark.parametrize("size", [100, 5000, 1_000_000])
def test_an_inherited_buffer_outlives_the_parents_release_and_delete(
    store: refstore.Store, size: int
) -> None:
    data = helpers.pattern(size, size)
    ref = store.put(data)
    buf = store.get(ref)

    def read() -> None:
        for _ in range(20):
            assert bytes(buf) == data

    with Child(nothing, read):
        buf.release()
        store.delete(ref)
        helpers.fill_with_junk(store)
        assert store.stats().condemned == 1
    helpers.assert_full_capacity_fits(store)
    assert store.stats().condemned == 0


def test_the_child_reads_while_the_parent_churns(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    data = helpers.pattern(1, 200_000)
    ref = store.put(data)
    views = [np.asarray(store.get(ref))]

    def read() -> None:
        for _ in range(300):
            assert views[0].tobytes() == data

    child = Child(nothing, read)
    child.gate.wait()
    child.gate.open()  # from here on both run
    views.clear()
    store.delete(ref)
    for _ in range(30):
        helpers.fill_with_junk(store)
    child.__exit__()
    helpers.assert_full_capacity_fits(store)


def test_the_child_has_a_pin_of_its_own(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 100)
    buf = store.get(ref)
    assert store.refcount(ref) == 2
    with Child(nothing, nothing):
        assert store.refcount(ref) == 3
        assert store.stats().processes == 2
        buf.release()
        assert store.refcount(ref) == 2
    assert store.stats().processes == 1
    clear_up_after_the_dead(path)
    assert store.refcount(ref) == 1


def test_the_childs_release_leaves_the_parents_pin(store: refstore.Store) -> None:
    data = helpers.pattern(1, 100_000)
    ref = store.put(data)
    with store.get(ref) as buf:

        def let_go() -> None:
            buf.release()
            assert buf.closed
            store.delete(ref)
            helpers.fill_with_junk(store)

        with Child(let_go, nothing):
            assert not buf.closed
            assert bytes(buf) == data
            assert store.stats().condemned == 1
        helpers.fill_with_junk(store)
        assert bytes(buf) == data
    helpers.assert_full_capacity_fits(store)


def test_several_pins_of_several_objects_are_inherited(store: refstore.Store) -> None:
    refs = [store.put(helpers.pattern(i, 500 * i)) for i in range(20)]
    held = [store.get(ref) for ref in refs for _ in range(3)]

    def read_and_drop() -> None:
        for number, buf in enumerate(held):
            assert bytes(buf) == helpers.pattern(number // 3, 500 * (number // 3))
        del buf
        held.clear()
        for ref in refs:
            assert store.refcount(ref) == 4, "the parent's three pins and the store's"

    with Child(nothing, read_and_drop):
        assert [store.refcount(ref) for ref in refs] == [7] * 20
    assert [store.refcount(ref) for ref in refs] == [4] * 20
    held.clear()
    assert [store.refcount(ref) for ref in refs] == [1] * 20


def test_views_of_every_sort_are_inherited(store: refstore.Store) -> None:
    ref = store.put(np.arange(1000))
    tree = store.put({"a": np.arange(5000)})
    with store.get(ref) as buf, store.get(tree) as other:
        views = [memoryview(buf), buf.array[3:], np.from_dlpack(buf), other.value["a"]]
    expected = [view.tobytes() for view in views]

    def read() -> None:
        assert [view.tobytes() for view in views] == expected
        views.clear()

    with Child(nothing, read):
        views.clear()
        store.delete(ref)
        store.delete(tree)
        helpers.fill_with_junk(store)
        assert store.stats().condemned == 2
    helpers.assert_full_capacity_fits(store)
    assert store.stats().condemned == 0


@pytest.mark.parametrize("size", [100, 300_000])
def test_a_private_view_stays_private_to_each(store: refstore.Store, path: str, size: int) -> None:
    ref = store.put(b"x" * size)
    held = [helpers.flat(store.get(ref, writable=True))]
    held[0][: size // 2] = ord("p")

    def write() -> None:
        view = held[0]
        assert (view[: size // 2] == ord("p")).all()
        assert (view[size // 2 :] == ord("x")).all()
        view[:] = ord("c")
        with store.get(ref) as again:
            assert bytes(again) == b"x" * size

    with Child(write, nothing):
        assert (held[0][: size // 2] == ord("p")).all()
        assert (held[0][size // 2 :] == ord("x")).all()
    with store.get(ref) as again:
        assert bytes(again) == b"x" * size
    held.clear()
    clear_up_after_the_dead(path)
    assert store.refcount(ref) == 1


def test_the_child_puts_and_gets_on_the_inherited_store(store: refstore.Store) -> None:
    store["from the parent"] = b"p"

    def work() -> None:
        assert bytes(store["from the parent"]) == b"p"
        store["from the child"] = helpers.pattern(3, 50_000)
        workers.churn(Session(store), 5, 300)
        assert store.check() == []

    assert forked(work) == 0
    assert bytes(store["from the child"]) == helpers.pattern(3, 50_000)
    assert store.stats().processes == 1
    assert store.check() == []


def test_parent_and_child_churn_side_by_side(store: refstore.Store) -> None:
    turns = engines.rounds(1500)
    children = [
        Child(nothing, lambda seed=seed: workers.churn(Session(store), seed, turns, 0.15))  # type: ignore[misc]
        for seed in (1, 2)
    ]
    for child in children:
        child.gate.wait()
    for child in children:
        child.gate.open()
    workers.churn(Session(store), 3, turns, 0.15)
    for child in children:
        child.__exit__()
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


def test_the_child_closing_leaves_the_parent_attached(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    with store.get(ref) as buf:
        assert forked(store.close) == 0
        assert bytes(buf) == b"x" * 1000
        clear_up_after_the_dead(path)
        assert store.refcount(ref) == 2
        assert bytes(store.get(ref)) == b"x" * 1000


def test_the_parent_closing_leaves_the_child_attached(store: refstore.Store, path: str) -> None:
    ref = store.put(b"x" * 1000)
    held = [store.get(ref)]

    def work() -> None:
        assert bytes(held[0]) == b"x" * 1000
        with store.get(ref) as again:
            assert bytes(again) == b"x" * 1000
        store["n"] = b"from the child"

    with Child(nothing, work):
        held.clear()
        store.close()
        assert helpers.mappings(path) == []
    with refstore.Store(path, create=False) as again:
        assert bytes(again["n"]) == b"from the child"


def test_a_grandchild_inherits_as_well(store: refstore.Store) -> None:
    data = helpers.pattern(1, 10_000)
    ref = store.put(data)
    buf = store.get(ref)

    def in_the_child() -> None:
        def in_the_grandchild() -> None:
            assert bytes(buf) == data
            buf.release()
            assert store.refcount(ref) == 3

        assert forked(in_the_grandchild) == 0
        assert store.refcount(ref) == 3
        buf.release()
        assert store.refcount(ref) == 2

    assert forked(in_the_child) == 0
    assert store.refcount(ref) == 2
    buf.release()
    assert store.refcount(ref) == 1


def test_a_killed_childs_pins_come_back(store: refstore.Store) -> None:
    ref = store.put(bytes(store.capacity))
    with store.get(ref), child_process(store, "fork") as child:
        assert store.refcount(ref) == 3
        child.kill()
    store.delete(ref)
    helpers.assert_full_capacity_fits(store)


def test_a_forked_writer_is_the_parents_alone(store: refstore.Store) -> None:
    writer = store.create(shape=(1000,), dtype="u4", name="n")
    writer.array[:] = np.arange(1000)

    def misuse() -> None:
        with pytest.raises(ValueError, match=r"(?i)fork|process"):
            writer.seal()

    assert forked(misuse) == 0
    assert "n" not in store
    ref = writer.seal()
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, np.arange(1000))


def test_a_child_that_drops_an_inherited_writer_aborts_nothing(store: refstore.Store) -> None:
    held = [store.create(shape=(1000,), dtype="u4", name="n")]
    held[0].array[:] = 7

    def drop() -> None:
        held.clear()
        store.put(bytes(4000))

    assert forked(drop) == 0
    held[0].seal()
    assert (store["n"].array == 7).all()


def test_views_of_a_killed_parents_writer_write_into_nobodys_block(store: refstore.Store) -> None:
    # The parent dies with its Writer open: its child can still write where that pointed.
    to_parent, to_grandchild, done = os.pipe(), os.pipe(), os.pipe()
    with helpers.forking_on_purpose():
        parent = os.fork()
    if parent == 0:
        writer = store.create(shape=(1000,), dtype="u4")
        array = writer.array
        if os.fork() == 0:
            os.write(to_parent[1], b"%d" % os.getpid())
            os.read(to_grandchild[0], 1)
            array[:] = 57005
            os.write(done[1], b"x")
            os._exit(0)
        signal.pause()
    grandchilds_end = os.pidfd_open(int(os.read(to_parent[0], 20)))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    with child_process(store):  # whoever attaches recovers the dead
        pass
    refs = [store.put(np.full(1000, i, "u4")) for i in range(3)]
    os.write(to_grandchild[1], b"x")
    assert os.read(done[0], 1) == b"x"
    assert [int(store.get(ref).array.max()) for ref in refs] == [0, 1, 2]
    assert wait([grandchilds_end], helpers.BUSY_TIMEOUT)
    for end in (grandchilds_end, *to_parent, *to_grandchild, *done):
        os.close(end)


def test_a_closed_store_does_not_trouble_a_fork(store: refstore.Store) -> None:
    store.close()

    def use() -> None:
        with pytest.raises(ValueError, match="closed"):
            store.get("n")

    assert forked(use) == 0


def test_views_of_a_closed_store_are_inherited(store: refstore.Store, path: str) -> None:
    data = helpers.pattern(1, 100_000)
    ref = store.put(data)
    views = [memoryview(store.get(ref))]
    store.close()

    def read() -> None:
        assert bytes(views[0]) == data
        views.clear()

    with Child(nothing, read), refstore.Store(path, create=False) as again:
        views.clear()
        again.delete(ref)
        helpers.fill_with_junk(again)
        assert again.stats().condemned == 1
    with refstore.Store(path, create=False) as again:
        assert again.stats().condemned == 0
        helpers.assert_full_capacity_fits(again)


def test_several_stores_are_inherited_at_once(make_store: MakeStore, folder: Path) -> None:
    stores = [make_store("1MiB", name=f"s{i}") for i in range(5)]
    refs = [one.put(helpers.pattern(i, 1000)) for i, one in enumerate(stores)]
    held = [one.get(ref) for one, ref in zip(stores, refs, strict=True)]

    def read() -> None:
        for i, buf in enumerate(held):
            assert bytes(buf) == helpers.pattern(i, 1000)
            assert bytes(stores[i].get(refs[i])) == helpers.pattern(i, 1000)

    with Child(nothing, read):
        held.clear()
        for one, ref in zip(stores, refs, strict=True):
            assert one.refcount(ref) == 2
    for i, one in enumerate(stores):
        clear_up_after_the_dead(folder / f"s{i}")
        assert one.refcount(refs[i]) == 1


MANY_FORKS = """
    import os, sys, refstore
    path, forks = sys.argv[1:]
    store = refstore.Store(path, create=False)
    ref = store.put(b"x" * 100, name="n")
    with store.get(ref) as buf:
        before = len(os.listdir("/proc/self/fd"))
        for turn in range(int(forks)):
            pid = os.fork()
            if pid == 0:
                assert bytes(buf) == b"x" * 100
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        assert len(os.listdir("/proc/self/fd")) == before
"""


def test_more_forks_than_there_are_rows_leave_nothing(store: refstore.Store, path: str) -> None:
    # in a small process, where a fork is cheap
    helpers.run_clean(MANY_FORKS, path, engines.rounds(1100, 4))
    clear_up_after_the_dead(path)
    assert store.refcount("n") == 1
    assert store.stats().processes == 1


FORK_FROM_A_THREAD = """
    import os, sys, threading, refstore
    store = refstore.Store(sys.argv[1], create=False)
    stop = threading.Event()

    def churn(number):
        data = bytes([number + 1]) * 30_000
        while not stop.is_set():
            ref = store.put(data)
            with store.get(ref) as buf:
                assert bytes(buf) == data
            store.delete(ref)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(int(sys.argv[2])):
        pid = os.fork()
        if pid == 0:
            ref = store.put(b"c" * 30_000)
            assert bytes(store.get(ref)) == b"c" * 30_000
            store.delete(ref)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert len(store) == 0, len(store)
    assert store.check() == []
"""


def test_a_fork_amid_busy_threads(store: refstore.Store, path: str) -> None:
    options = ("-W", "ignore::DeprecationWarning")
    helpers.run_clean(FORK_FROM_A_THREAD, path, engines.rounds(60, 4), options=options)
    clear_up_after_the_dead(path)
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


def test_a_program_started_meanwhile_inherits_nothing(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with store.get(ref):
        program = """
            import os
            print([os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}")])
        """
        assert "refstore-test" not in helpers.run_clean(program)
        assert store.refcount(ref) == 2
        assert store.stats().processes == 1
