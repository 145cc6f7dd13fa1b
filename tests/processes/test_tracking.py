"""Store(track=True): holders() tells which lines put objects and pin them, in every process."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workers
from children import child_process

import refstore
from refstore import _sites
from refstore._looking import Look


@pytest.fixture
def tracked(path: str) -> Iterator[refstore.Store]:
    """A store whose calls are noted."""
    with refstore.Store(path, capacity="16MiB", create=True, track=True) as store:
        yield store
        gc.collect()
        assert store.check() == []
        store.unlink()


def here(offset: int = 0) -> str:
    """The line of the caller, as it is told."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    caller = frame.f_back
    path = caller.f_code.co_filename
    path = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    return f"{path}:{caller.f_lineno + offset} in {caller.f_code.co_name}"


def only(store: refstore.Store, key: refstore.ObjectRef | str | None = None) -> refstore.Holder:
    (holder,) = store.holders(key)
    return holder


def test_the_lines_of_a_put_and_of_each_pin_are_told(tracked: refstore.Store) -> None:
    ref, put_at = tracked.put(b"x", name="n"), here()
    first, first_at = tracked.get(ref), here()
    second, second_at = tracked["n"], here()
    row = only(tracked, ref)
    assert (row.pins, row.pinned_at, row.put_at) == (2, (first_at, second_at), put_at)
    assert row._fields == refstore.Holder._fields
    first.release()
    assert only(tracked).pinned_at == (second_at,)
    del second
    assert tracked.holders() == []


def test_each_call_that_puts_or_pins_is_noted(tracked: refstore.Store) -> None:
    held, sites = [], []
    with tracked.create(10, name="created") as writer:
        sites.append(here(-1))
        memoryview(writer)[:] = b"0123456789"
    held += [tracked.wait("created")]
    first, second = tracked.put_many([b"a", b"b"], names=["a", "b"])
    many_at = here(-1)
    held += tracked.get_many(["a", "b"])
    got_at = here(-1)
    held += [tracked.get_or_put("made", lambda: b"made")]
    made_at = here(-1)
    held += [tracked.get_or_put("made", lambda: b"never")]
    again_at = here(-1)
    assert only(tracked, "created").put_at == sites[0]
    assert only(tracked, first).put_at == only(tracked, second).put_at == many_at
    assert only(tracked, first).pinned_at == only(tracked, second).pinned_at == (got_at,)
    assert only(tracked, "made").put_at == made_at
    assert only(tracked, "made").pinned_at == (made_at, again_at)
    assert len(held) == 5


def test_a_pin_that_a_view_keeps_is_told_by_where_its_buffer_was_got(
    tracked: refstore.Store,
) -> None:
    ref = tracked.put(np.arange(10))
    with tracked.get(ref) as buf:
        got_at = here(-1)
        view = buf.array
    del buf
    for _ in range(3 * _sites.SWEEP):
        tracked.get(ref).release()
    assert only(tracked).pinned_at == (got_at,)
    tracked.delete(ref)
    assert only(tracked).pinned_at == (got_at,)
    del view
    assert tracked.holders() == []


def test_what_is_over_takes_no_room(tracked: refstore.Store) -> None:
    ref = tracked.put(b"x")
    tracker = _sites.tracker_of(tracked._attachment)
    for _ in range(10 * _sites.SWEEP):
        tracked.get(ref).release()
    assert os.fstat(tracker.file.fileno()).st_size <= 3 * _sites.SWEEP * _sites.ENTRY.size


def test_only_the_last_puts_are_remembered(
    tracked: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sites, "PUTS_KEPT", 5)
    refs = [tracked.put(b"x") for _ in range(7)]
    held = [tracked.get(ref) for ref in refs]
    told = [only(tracked, ref).put_at is not None for ref in refs]
    assert told == [False] * 2 + [True] * 5
    assert len(held) == 7


def test_other_processes_lines_are_told(
    tracked: refstore.Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, put_at = tracked.put(b"x"), here()
    with child_process(None) as child:
        child.do(workers.attach, path, {"track": True})
        child.do(workers.hold, ref)
        theirs = child.do(workers.put, b"y", "theirs")
        row = only(tracked, ref)
        (pinned_at,) = row.pinned_at
        assert pinned_at.endswith(" in hold")
        assert "workers.py:" in pinned_at
        assert row.put_at == put_at
        with tracked.get(theirs):
            row = only(tracked, theirs)
            assert row.put_at is not None
            assert row.put_at.endswith(" in put")
            with Look(path) as look:
                seen = {(one.ref, one.pinned_at, one.put_at) for one in look.holders()}
            assert seen == {(one.ref, one.pinned_at, one.put_at) for one in tracked.holders()}
        child.kill()
        assert only(tracked, ref).pinned_at == ()


def test_a_forked_child_tells_of_what_it_inherited(tracked: refstore.Store) -> None:
    ref = tracked.put(b"x")
    buf, got_at = tracked.get(ref), here()
    with child_process(tracked, "fork") as child:
        assert [row.pinned_at for row in tracked.holders(ref)] == [(got_at,)] * 2
        buf.release()
        (row,) = tracked.holders(ref)
        assert (row.pid, row.pinned_at) == (child.pid, (got_at,))


def test_the_environment_has_all_stores_track(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTORE_TRACK", "1")
    with refstore.Store.temporary("1MiB") as store, store.get(store.put(b"x")):
        assert only(store).pinned_at == (here(-1),)
    monkeypatch.setenv("REFSTORE_TRACK", "0")
    with refstore.Store.temporary("1MiB") as store, store.get(store.put(b"x")):
        assert only(store).pinned_at == ()


def test_a_store_that_does_not_track_notes_nothing(store: refstore.Store) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with store.get(store.put(b"x")):
        row = only(store)
        assert (row.pinned_at, row.put_at) == ((), None)
        assert type(store).get.__module__ != "refstore.engines.tracking"
        assert set(os.listdir("/proc/self/fd")) == before


def test_the_table_goes_with_the_store() -> None:
    def tables() -> list[str]:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(entry))
        return [one for one in found if "refstore-sites" in one]

    with refstore.Store.temporary("1MiB", track=True) as store:
        store.put(b"x")
        assert len(tables()) == 1
    gc.collect()
    assert tables() == []


def test_a_table_that_the_program_closed_is_no_error(tracked: refstore.Store) -> None:
    os.close(_sites.tracker_of(tracked._attachment).file.fileno())
    with tracked.get(tracked.put(b"x")):
        assert only(tracked).pinned_at == ()


def test_a_subclass_with_its_own_methods_is_tracked_too(path: str) -> None:
    class Mine(refstore.Store):
        def get(self, *args: Any, **options: Any) -> refstore.PinnedBuffer:
            return super().get(*args, **options)

    with Mine(path, capacity="1MiB", track=True) as store:
        with store.get(store.put(b"x")):
            (site,) = only(store).pinned_at
            assert site.endswith("in get")
        store.unlink()


class Opening(refstore.Store):
    def __init__(self, path: str) -> None:
        super().__init__(path, capacity="1MiB", track=True)


def test_a_subclass_that_opens_by_itself_is_told_how_to_track(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(refstore.RefstoreError, match="REFSTORE_TRACK=1"):
        Opening(path)
    monkeypatch.setenv("REFSTORE_TRACK", "1")
    with Opening(path) as store, store.get(store.put(b"x")):
        assert len(only(store).pinned_at) == 1
        store.unlink()


def test_a_full_store_is_told_with_the_lines_that_fill_it(tracked: refstore.Store) -> None:
    for number in range(6):
        tracked.put(bytes(2 << 20), name=f"batch-{number}")
    put_at = here(-1)
    with pytest.raises(refstore.StoreFullError) as raised:
        tracked.put(bytes(8 << 20))
    nbytes = sum(one.block_nbytes for one in tracked.objects())
    assert str(raised.value).endswith(f". By line: {nbytes} bytes put at {put_at}")
    held = [tracked["batch-0"], tracked["batch-1"]]
    got_at = here(-1)
    other = tracked["batch-2"]
    other_at = here(-1)
    for full in (
        lambda: tracked.put(bytes(8 << 20)),
        lambda: tracked.create(8 << 20),
        lambda: tracked.put_many([bytes(8 << 20)]),
        lambda: tracked.get_or_put("more", lambda: bytes(8 << 20), timeout=0),
    ):
        with pytest.raises(refstore.StoreFullError) as raised:
            full()
        said, nbytes = str(raised.value), sum(buf.nbytes for buf in held)
        assert f" this process {os.getpid()} (" in said
        lines = said.rpartition(". By line: ")[2].split(", ")
        assert lines == [
            f"{nbytes} bytes pinned at {got_at}",
            f"{nbytes // 2} bytes pinned at {other_at}",
        ]
    other.release()


def test_errors_are_those_of_any_store(tracked: refstore.Store) -> None:
    with pytest.raises(refstore.ObjectNotFoundError):
        tracked.get("absent")
    with pytest.raises(TypeError):
        tracked.get_or_put("n", None)  # type: ignore[arg-type]
    with pytest.raises(refstore.StoreFullError):
        tracked.put(bytes(tracked.capacity + 1))
    assert tracked.holders() == []


def test_a_helper_of_this_package_is_passed_over(tracked: refstore.Store) -> None:
    from refstore.mapping import StoreMapping

    mapping = StoreMapping(tracked)
    mapping["n"] = np.arange(3)
    put_at = here(-1)
    with tracked.get("n"):
        assert only(tracked).put_at == put_at
