"""holders(): exactly who keeps what in memory, dead or alive, live object or deleted one."""

from __future__ import annotations

import os
from collections.abc import Callable

import helpers
import pytest
import workers
from children import child_process, child_processes

import refstore
from refstore import _identity

ME = os.getpid()


def my_command() -> str:
    return " ".join(_identity.command().decode().split())


def test_nobody_holds_what_is_only_there(store: refstore.Store) -> None:
    assert store.holders() == []
    ref = store.put(b"x", name="n")
    store.put(b"y")
    assert store.holders() == store.holders(ref) == store.holders("n") == []
    assert store.refcount(ref) == 1


def test_ones_own_pins(store: refstore.Store) -> None:
    ref = store.put(bytes(100_000), name="n")
    nbytes = store.stats().used
    with store.get(ref), store.get("n") as buf:
        view = helpers.flat(buf)
        row = refstore.Holder(ME, my_command(), ref, "n", 2, nbytes, True)
        assert store.holders() == store.holders(ref) == store.holders("n") == [row]
    assert store.holders() == [row._replace(pins=1)]
    del view, buf
    assert store.holders() == []


def test_a_row_tells_by_name(store: refstore.Store) -> None:
    with store.get(store.put(b"x")) as buf:
        (row,) = store.holders()
        assert row._fields == ("pid", "command", "ref", "name", "pins", "bytes", "alive")
        assert (row.pid, row.ref, row.name, row.pins, row.bytes) == (ME, buf.ref, None, 1, 64)
        assert row.command
        assert row.alive is True


def test_other_processes_pins(store: refstore.Store, path: str) -> None:
    small, large = store.put(b"x", name="small"), store.put(bytes(100_000))
    with child_processes(2, path) as children:
        for child in children:
            child.do(workers.hold, small, "a")
            child.do(workers.hold_view, large)
        children[0].do(workers.hold, small, "b")
        seen = {(row.pid, row.ref): row for row in store.holders()}
        assert len(seen) == len(store.holders()) == 4
        for child, pins in zip(children, (2, 1), strict=True):
            row = seen[child.pid, small]
            assert (row.command, row.name, row.pins) == (child.do(workers.command), "small", pins)
            assert (seen[child.pid, large].name, seen[child.pid, large].pins) == (None, 1)
        assert {row.pid for row in store.holders("small")} == {child.pid for child in children}
        assert {row.ref for row in store.holders(large)} == {large}


def test_the_largest_come_first_and_then_the_lower_pids(store: refstore.Store, path: str) -> None:
    sizes = (100, 50_000, 9_000)
    refs = [store.put(bytes(size)) for size in sizes]
    with child_processes(3, path) as children:
        for child in children:
            for number, ref in enumerate(refs):
                child.do(workers.hold, ref, str(number))
        pids = sorted(child.pid for child in children)
        order = [(pid, refs[number]) for number in (1, 2, 0) for pid in pids]
        assert [(row.pid, row.ref) for row in store.holders()] == order


def test_what_the_dead_hold_is_theirs_till_it_is_given_back(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"x", name="n")
    with child_processes(2, path) as (dead, alive):
        for child in (dead, alive):
            child.do(workers.hold, ref)
        dead.do(workers.begin, 5000)
        dead.kill()
        rows = {(row.pid, row.ref): row.alive for row in store.holders()}
        assert rows == {(dead.pid, ref): False, (dead.pid, None): False, (alive.pid, ref): True}
        store.recover()
        assert [(row.pid, row.alive) for row in store.holders()] == [(alive.pid, True)]


def test_a_deleted_object_is_found_by_its_ref_as_long_as_it_is_pinned(
    store: refstore.Store, path: str
) -> None:
    ref = store.put(b"old", name="n")
    with child_process(path) as child:
        child.do(workers.hold, ref)
        store["n"] = b"new"
        assert store.holders("n") == []
        assert [(row.pid, row.ref, row.name) for row in store.holders(ref)] == [
            (child.pid, ref, "n")
        ]
        assert store.holders() == store.holders(ref)
        with store["n"] as buf:
            assert [(row.pid, row.ref) for row in store.holders("n")] == [(ME, buf.ref)]
            assert len(store.holders()) == 2
        child.do(workers.drop)
        with pytest.raises(refstore.ObjectNotFoundError):
            store.holders(ref)
    assert store.holders() == []


def test_what_is_not_there_is_not_found(
    store: refstore.Store, make_store: Callable[..., refstore.Store]
) -> None:
    gone = store.put(b"x", name="gone")
    store.delete(gone)
    foreign = make_store("1MiB", name="other").put(b"x")
    beyond = refstore.ObjectRef(b"\xff\xff\xff\x7f" + bytes(gone)[4:])
    for key in (gone, "gone", "never", foreign, beyond):
        with pytest.raises(refstore.ObjectNotFoundError):
            store.holders(key)
    with store.get(store.put(b"y")) as buf:  # in the place of the other
        assert bytes(buf.ref)[:4] == bytes(gone)[:4]
        with pytest.raises(refstore.ObjectNotFoundError):
            store.holders(gone)
    for bad in (5, b"n"):
        with pytest.raises(TypeError):
            store.holders(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 255"):
        store.holders("")


def test_what_is_being_written_has_no_ref_yet(store: refstore.Store, path: str) -> None:
    with child_process(path) as child, store.create(9000, name="mine") as writer:
        child.do(workers.begin, 100_000, "theirs")
        theirs, mine = store.holders()
        assert (theirs.pid, theirs.ref, theirs.name, theirs.pins) == (child.pid, None, None, 0)
        assert (mine.pid, mine.ref, mine.name, mine.pins) == (ME, None, None, 0)
        assert theirs.bytes + mine.bytes == store.stats().used
        assert theirs.bytes >= 100_000
        view = memoryview(writer)
        writer.seal()
        (sealed,) = store.holders("mine")
        assert (sealed.pid, sealed.name, sealed.pins) == (ME, "mine", 1)
        view.release()
        assert store.holders("mine") == []


def test_a_forked_child_holds_what_it_inherited(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with store.get(ref) as buf, child_process(store, "fork") as child:
        rows = [(row.pid, row.command, row.pins, row.alive) for row in store.holders(ref)]
        assert rows == [(pid, my_command(), 1, True) for pid in sorted((ME, child.pid))]
        buf.release()
        assert [row.pid for row in store.holders(ref)] == [child.pid]


def test_no_name_of_an_earlier_object_is_shown(store: refstore.Store) -> None:
    earlier = store.put(b"x", name="earlier")
    store.delete(earlier)
    with store.get(store.put(b"y")) as buf:
        assert bytes(buf.ref)[:4] == bytes(earlier)[:4]  # the same slot
        assert [row.name for row in store.holders()] == [None]


@pytest.mark.parametrize("name", ["ä" * 127, "x" * 255, "two\nlines", "\0"])
def test_names_are_shown_as_they_are(store: refstore.Store, name: str) -> None:
    store[name] = b"x"
    with store[name]:
        assert [row.name for row in store.holders()] == [name]


def test_on_a_busy_store_every_row_makes_sense(
    make_store: Callable[..., refstore.Store], path: str
) -> None:
    store = make_store("4MiB", max_objects=200)
    seen = 0
    with child_processes(2, path) as children:
        for number, child in enumerate(children):
            child.tell(workers.churn_for_ever, number)
        for _ in range(15):
            assert children[0].receive()[0] == "said"
            for _ in range(20):
                for row in store.holders():
                    seen += 1
                    assert row.pid in [child.pid for child in children]
                    assert row.alive
                    assert row.pins > 0 or row.ref is None
                    assert row.name is None or row.name.startswith("shared ")
                    assert 0 <= row.bytes <= store.capacity
        for child in children:
            child.kill()
    assert seen > 100
    assert store.recover().processes in (1, 2)  # the second may have come upon the first
    assert store.holders() == []
