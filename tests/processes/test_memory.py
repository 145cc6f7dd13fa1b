"""Memory for what is put: others run meanwhile, signals come through, refusals cost nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import helpers
import numpy as np
import pytest
import refusing_kernel
import signals
import workers
from children import child_process

import refstore
from stress.huge_pages import refusal

MakeStore = Callable[..., refstore.Store]
MIB = 1 << 20
HUGE = 2 * MIB
LARGE = 64 * MIB

needs_filters = pytest.mark.skipif(
    not refusing_kernel.can_refuse(), reason="needs filters of system calls"
)
native = pytest.mark.native("the other one asks Python to commit memory")


class Interrupt(Exception):
    pass


def interrupt(*_: object) -> None:
    raise Interrupt


# -- other threads, signals ---------------------------------------------------------------------


def test_other_threads_run_while_memory_is_committed(make_store: MakeStore) -> None:
    store = make_store(2 * LARGE)
    with signals.only_who_waits_lets_others_run():
        while not another_ran(lambda: store.create(LARGE).abort()):
            store.trim()  # the thread may need more than one occasion on a busy machine


def another_ran(call: Callable[[], object]) -> bool:
    ran: list[str] = []
    go = threading.Lock()
    go.acquire()

    def run() -> None:
        with go:
            ran.append("meanwhile")

    thread = threading.Thread(target=run)
    thread.start()
    go.release()
    call()
    found = bool(ran)
    thread.join()
    return found


def amid_a_signal(call: Callable[[], Any]) -> Any:
    """The signal is there before the call begins, and no bytecode runs in between."""
    send = partial(getattr(ctypes.CDLL(None), "raise"), int(signal.SIGUSR1))
    return list(map(partial.__call__, (send, partial(call))))[1]


@native
@pytest.mark.parametrize("size", [70_000, LARGE])
def test_an_interrupt_while_memory_is_committed_leaves_nothing(
    make_store: MakeStore, size: int
) -> None:
    store = make_store(LARGE, max_objects=16)
    store["n"] = b"old"
    before = helpers.usage(store)
    calls: list[Callable[[], object]] = [
        lambda: store.create(size),
        lambda: store.create(size, name="n", replace=True),
        lambda: store.create(shape=size // 8, dtype="f8"),
    ]
    for call in 7 * calls:
        with signals.handler(signal.SIGUSR1, interrupt), pytest.raises(Interrupt):
            amid_a_signal(call)
        assert helpers.usage(store) == before
        store.trim()
    assert store["n"].value == b"old"
    del store["n"]
    helpers.assert_full_capacity_fits(store)


@native
def test_a_handler_that_returns_lets_it_go_on(make_store: MakeStore) -> None:
    store = make_store(LARGE)
    handled = []
    with signals.handler(signal.SIGUSR1, lambda *_: handled.append(len(store))):
        writer = amid_a_signal(partial(store.create, LARGE))
    assert handled == [0]
    writer.abort()


@native
def test_a_handler_may_close_the_store(make_store: MakeStore, path: str) -> None:
    store = make_store(LARGE)
    with signals.handler(signal.SIGUSR1, lambda *_: store.close()):
        writer = amid_a_signal(partial(store.create, LARGE // 2))
    memoryview(writer)[-1:] = b"x"
    ref = writer.seal()
    with refstore.Store(path, create=False) as again, again.get(ref) as buf:
        assert bytes(memoryview(buf)[-1:]) == b"x"


# -- a kernel that refuses ------------------------------------------------------------------------


def refused(
    store: refstore.Store, work: Callable[[refstore.Store], object], refuse: Callable[[], None]
) -> refstore.Store:
    """`work` in a process that comes anew and is refused things by its kernel; the store again."""
    path = store.path
    store.close()

    def run() -> None:
        refuse()
        with refstore.Store(path, create=False) as store:
            work(store)

    with child_process(path) as other:
        other.do(workers.nothing)  # it is there, and has the row whose pins have memory
        assert helpers.forked(run) == 0
    return refstore.Store(path, create=False)


@needs_filters
@native
def test_calls_that_signals_interrupt_are_asked_for_in_smaller_pieces(
    make_store: MakeStore,
) -> None:
    store = make_store(LARGE)

    def work(store: refstore.Store) -> None:
        store.put(helpers.pattern(1, 9 * MIB), name="large")
        for size in (10, 5000, 30_000):
            store.put(helpers.pattern(size, size), name=f"{size}")

    store = refused(store, work, partial(refusing_kernel.refuse_memory, errno.EINTR, 4096))
    assert bytes(store["large"]) == helpers.pattern(1, 9 * MIB)
    for size in (10, 5000, 30_000):
        assert bytes(store[f"{size}"]) == helpers.pattern(size, size)


WAITS: dict[str, Callable[[refstore.Store], object]] = {
    "a large block": lambda store: store.create(LARGE // 2),
    "small objects": lambda store: [store.put(bytes(3000)) for _ in range(300)],
    "an object without bytes": lambda store: [store.put(b"") for _ in range(3000)],
    "a pin": lambda store: store.get("there"),
}


@needs_filters
@native
@pytest.mark.parametrize("call", WAITS)
def test_calls_that_are_interrupted_for_ever_end_by_a_handler(
    make_store: MakeStore, call: str
) -> None:
    store = make_store(LARGE, max_objects=4096)
    store["there"] = b"there"

    def work(store: refstore.Store) -> None:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupt):
            WAITS[call](store)

    store = refused(store, work, partial(refusing_kernel.refuse_memory, errno.EINTR))
    assert bytes(store["there"]) == b"there"
    del store["there"]
    for ref in store:
        store.delete(ref)
    assert store.stats().used == 0
    helpers.assert_full_capacity_fits(store)


@needs_filters
def test_who_comes_without_a_page_left_sees_all_and_deletes(make_store: MakeStore) -> None:
    store = make_store(LARGE, max_objects=4096)
    names = {f"n{i}": store.put(helpers.pattern(i, 100 * i), name=f"n{i}") for i in range(40)}
    unnamed = [store.put(b"") for _ in range(3000)]

    def work(store: refstore.Store) -> None:
        assert set(store.names()) == set(names)
        assert all(name in store and store.ref(name) == ref for name, ref in names.items())
        assert all(ref in store and store.refcount(ref) == 1 for ref in unnamed)
        assert "other" not in store
        assert len(store) == len(list(store)) == 3040
        for name in list(names)[::2]:
            store.delete(name)
        for ref in unnamed[::2]:
            store.delete(ref)
        assert store.check() == []

    store = refused(store, work, partial(refusing_kernel.refuse_memory, errno.ENOSPC))
    assert set(store.names()) == set(list(names)[1::2])
    assert len(store) == 1520


@needs_filters
@native
def test_a_put_that_memory_is_refused_to_half_way_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store(LARGE)
    before = helpers.usage(store)

    def work(store: refstore.Store) -> None:
        with pytest.raises(refstore.StoreFullError):
            store.create(20 * MIB)

    store = refused(store, work, partial(refusing_kernel.refuse_memory, errno.ENOSPC, MIB))
    assert helpers.usage(store) == before
    helpers.assert_full_capacity_fits(store)


# -- huge pages -----------------------------------------------------------------------------------


def needs_huge_pages() -> None:
    if refusal():
        pytest.skip(f"the kernel makes no huge pages: {os.strerror(refusal())}")


def mapped_huge(path: str) -> int:
    """Bytes of a store that this process has mapped by huge pages."""
    found, is_of = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            if line[0] in "0123456789abcdef" and not line.split()[0].endswith(":"):
                is_of = line.rstrip().endswith(path)
            elif is_of and line.startswith("ShmemPmdMapped:"):
                found += int(line.split()[1]) * 1024
    return found


@native
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_large_objects_lie_in_huge_pages(make_store: MakeStore, path: str, before: int) -> None:
    needs_huge_pages()
    store = make_store(LARGE)
    store.put(bytes(before))
    data = helpers.pattern(1, 9 * MIB + 5)
    ref = store.put(data)

    def work(store: refstore.Store) -> None:
        with store.get(ref) as buf:
            assert bytes(buf) == data
        assert mapped_huge(path) >= 6 * MIB

    refused(store, work, lambda: None).close()


@native
def test_a_forked_child_reads_by_huge_pages(make_store: MakeStore, path: str) -> None:
    needs_huge_pages()
    store = make_store(LARGE)
    ref = store.put(bytes(8 * MIB))

    def read() -> None:
        with store.get(ref) as buf:
            helpers.flat(buf).sum()
        assert mapped_huge(path) >= 8 * MIB

    assert helpers.forked(read) == 0


@needs_filters
@native
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOMEM, errno.EAGAIN, errno.EBUSY])
def test_without_huge_pages_nothing_is_lost(make_store: MakeStore, path: str, error: int) -> None:
    store = make_store(LARGE)

    def work(store: refstore.Store) -> None:
        for i in range(5):
            store.put(helpers.pattern(i, 5 * MIB), name=f"n{i}")
        assert mapped_huge(path) == 0

    store = refused(store, work, partial(refusing_kernel.refuse_huge_pages, error))
    for i in range(5):
        assert bytes(store[f"n{i}"]) == helpers.pattern(i, 5 * MIB)


# -- what a store takes of the file system ------------------------------------------------------


def taken(path: str) -> int:
    return os.stat(path).st_blocks * 512


@native
@pytest.mark.parametrize("size", [1000, 100_000, 5 * MIB, LARGE // 2])
def test_a_store_takes_what_is_put_and_little_more(
    make_store: MakeStore, path: str, size: int
) -> None:
    store = make_store(LARGE)
    store.put(b"x")
    tables = taken(path)
    data = np.ones(size, "u1")
    for _ in range(LARGE // 2 // size):
        store.put(data)
    objects = LARGE // 2 // size
    assert taken(path) - tables <= objects * size * 1.08 + objects * 256 + HUGE


@native
def test_trim_gives_huge_pages_back(make_store: MakeStore, path: str) -> None:
    store = make_store(LARGE)
    kept = [store.put(helpers.pattern(i, 3 * MIB + 4096 * i)) for i in range(2)]
    before = taken(path)
    refs = [store.put(bytes(7 * MIB + 100)) for _ in range(5)]
    for ref in refs:
        store.delete(ref)
    assert store.trim() >= 34 * MIB
    assert taken(path) - before <= 1 * MIB
    with child_process(path) as reader:
        for i, ref in enumerate(kept):
            assert reader.do(workers.read, ref) == helpers.pattern(i, 3 * MIB + 4096 * i)
            store.delete(ref)
    store.trim()
    assert taken(path) < before - 5 * MIB
    helpers.assert_full_capacity_fits(store)
