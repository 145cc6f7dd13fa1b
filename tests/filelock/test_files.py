"""What the filelock engine leaves on the file system, and that it copies nothing needlessly."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
import helpers
import lock_files
import numpy as np
import pytest
import workers
from children import child_process

import refstore
from refstore import cli
from refstore._temporary import collect_temporary
from refstore.engines.filelock import liveness, transaction
from refstore.engines.filelock.file_locks import ChangeLock
from refstore.engines.filelock.membership import Membership
from tests.filelock.test_kills import stopped_in_a_change

MakeStore = Callable[..., refstore.Store]


def locks(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if helpers.is_lock_folder(entry)]


# -- locks ------------------------------------------------------------------------------------


def test_two_who_ask_for_a_lock_at_once_are_not_its_holders(
    folder: Path,
) -> None:
    path = str(folder / "some.lock")
    Path(path).touch()
    asking = liveness.LivenessLock()
    assert asking.probe(path)
    assert asking is not None
    assert not liveness.is_held(path)
    assert liveness.take(path) is None  # who wants it waits till both are through
    asking.give_back()
    held = liveness.take(path)
    assert held is not None
    assert liveness.is_held(path)
    held.give_back()
    assert not liveness.is_held(path)
    os.unlink(path)


def test_a_change_and_a_file_lock_wait_for_each_other(store: refstore.Store, path: str) -> None:
    file = str(lock_files.folder(path) / "change.lock")
    lock = filelock.FileLock(file, timeout=0)
    with stopped_in_a_change(path, lambda: store.put(b"x")), pytest.raises(filelock.Timeout):
        lock.acquire()
    with lock, pytest.raises(filelock.Timeout):
        ChangeLock(file, 0o600).acquire()


def test_a_lock_that_was_made_with_another_mode_gets_its_own(
    make_store: MakeStore, path: str
) -> None:
    store = make_store(mode=0o666)
    file = lock_files.folder(path) / "change.lock"
    file.chmod(0o644)  # as umask has it, when who made it died at once
    store.put(b"x")
    assert file.stat().st_mode & 0o777 == 0o666


def test_a_child_that_waits_for_its_parent_s_lock_opens_no_more_files(
    folder: Path,
) -> None:
    path = str(folder / "some.lock")
    lock = ChangeLock(path, 0o600)
    lock.acquire()

    def wait_for_it() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0.05, poll_interval=0.001)
        assert len(os.listdir("/proc/self/fd")) <= before
        lock.release()

    assert helpers.forked(wait_for_it) == 0
    with pytest.raises(filelock.Timeout):
        ChangeLock(path, None).acquire()  # the child gave back none of ours
    lock.release()
    os.unlink(path)


# -- folders of locks -------------------------------------------------------------------------


def test_a_store_has_one_folder_of_locks_beside_it(store: refstore.Store, folder: Path) -> None:
    store["n"] = b"x"
    (beside,) = locks(folder)
    assert beside == lock_files.folder(store.path)
    assert helpers.stores(folder) == ["store"]


def test_the_locks_of_an_unlinked_store_go_with_its_last_process(folder: Path, path: str) -> None:
    store = refstore.Store(path, capacity="1MiB")
    with child_process(path) as child:
        store.unlink()
        store["n"] = b"x"
        store.close()
        assert len(locks(folder)) == 1
        assert child.do(workers.read, "n") == b"x"
    assert list(folder.iterdir()) == []


def test_the_locks_of_an_unlinked_store_stay_for_a_view(folder: Path, path: str) -> None:
    store = refstore.Store(path, capacity="1MiB")
    view = memoryview(store.get(store.put(b"x" * 1000)))
    store.unlink()
    store.close()
    assert bytes(view) == b"x" * 1000
    del view
    assert list(folder.iterdir()) == []


def test_a_new_store_at_the_path_of_an_unlinked_one_has_other_locks(
    folder: Path, path: str
) -> None:
    with refstore.Store(path, capacity="1MiB") as first:
        first.unlink()
        with refstore.Store(path, capacity="1MiB", create=True) as second:
            assert len(locks(folder)) == 2
            first["n"], second["n"] = b"first", b"second"
            assert bytes(first["n"]) == b"first"
            second.unlink()
    assert list(folder.iterdir()) == []


def test_orphaned_locks_go_with_the_next_create_and_others_stay(folder: Path) -> None:
    for name in ("gone", "there"):
        refstore.Store(str(folder / name), capacity="1MiB").close()
    attached = refstore.Store(str(folder / "attached"), capacity="1MiB")
    for name in ("gone", "attached"):
        (folder / name).unlink()  # behind the engine's back
    assert len(locks(folder)) == 3
    with refstore.Store(str(folder / "new"), capacity="1MiB", create=True) as store:
        names = sorted(entry.name.split(".")[0] for entry in locks(folder))
        assert names == ["attached", "new", "there"]
        attached["n"] = b"x"
        store.unlink()
    attached.close()
    with refstore.Store(str(folder / "there"), create=False) as store:
        store.unlink()
    assert list(folder.iterdir()) == []


def test_orphaned_locks_go_by_the_command_gc(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    refstore.Store("gone", capacity="1MiB").close()
    (folder / "gone").unlink()
    assert cli.main(["gc"]) == 0
    assert capsys.readouterr().out == ""
    assert list(folder.iterdir()) == []


def test_strange_folders_that_look_like_locks_are_left_alone(folder: Path) -> None:
    mine = folder / "notes.locks"
    mine.mkdir()
    (mine / "text").write_text("not refstore's")
    with refstore.Store(str(folder / "s"), capacity="1MiB", create=True) as store:
        store.unlink()
    collect_temporary(str(folder))
    assert (mine / "text").read_text() == "not refstore's"
    (mine / "text").unlink()
    mine.rmdir()


def test_a_killed_creators_temporary_store_is_soon_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with child_process(None, "spawn") as child:
        child.do(workers.temporary, str(folder))
        assert len(locks(folder)) == 1
        child.kill()
    refstore.Store.temporary("1MiB").close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", ["temporary", "open"])
def test_locks_that_are_removed_while_they_are_made_are_made_anew(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    removed: list[Path] = []
    acquire = ChangeLock.acquire

    def remove_first(self: ChangeLock, *args: Any, **options: Any) -> None:
        if len(removed) < 2:
            removed.append(Path(self.lock_file).parent)
            shutil.rmtree(removed[-1])  # as who removes orphans does
        acquire(self, *args, **options)

    refstore.Store(path, capacity="1MiB", create=True).close()
    monkeypatch.setattr(ChangeLock, "acquire", remove_first)
    if make == "temporary":
        with refstore.Store.temporary("1MiB") as store:
            store["n"] = b"x"
    else:
        with refstore.Store(path, create=False) as store:
            store["n"] = b"x"
    monkeypatch.undo()
    assert len(removed) == 2
    helpers.remove(path)


def test_locks_are_as_private_as_the_file(make_store: MakeStore, folder: Path) -> None:
    make_store(mode=0o600)["n"] = b"x"
    (beside,) = locks(folder)
    for entry in (beside, *beside.iterdir()):
        assert entry.stat().st_mode & 0o077 == 0


# -- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "array", "object"])
def test_a_get_of_five_mebibytes_copies_nothing(
    store: refstore.Store, path: str, kind: str
) -> None:
    array = np.frombuffer(helpers.pattern(1, 5 << 20), "u1")
    put = {"bytes": array.tobytes(), "array": array, "object": {"a": array}}[kind]
    ref = store.put(put)
    store.get(ref).release()  # what is read once and kept does not count
    tracemalloc.start()
    with store.get(ref) as buf:
        view = buf.value["a"] if kind == "object" else helpers.flat(buf)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000
        assert view.nbytes == 5 << 20
        assert helpers.lies_in(path, helpers.address(view))
        assert np.array_equal(view, array)
        del view


def test_a_buffer_costs_no_descriptor(store: refstore.Store) -> None:
    refs = [store.put(i) for i in range(50)]
    before = len(os.listdir("/proc/self/fd"))
    held = [store.get(ref) for ref in refs]
    assert len(os.listdir("/proc/self/fd")) == before
    # Before 3.13 mmap keeps one for each mapping, hence for each private view.
    private = [store.get(ref, writable=True) for ref in refs]
    assert len(os.listdir("/proc/self/fd")) <= before + 50
    del held, private
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_lost_its_lock_file_and_lives_keeps_its_pins(store: refstore.Store, path: str) -> None:
    # as when a tidier of old files came by
    ref = store.put(b"A" * 1000)
    view = memoryview(store.get(ref))
    for entry in lock_files.folder(path).iterdir():
        entry.unlink()
    with child_process(path) as child:
        assert child.do(workers.recover).processes == 0
        child.do(workers.delete, ref)
        child.do(workers.put, b"B" * 1000)
    assert bytes(view) == b"A" * 1000


def test_a_store_that_was_removed_with_its_folder_is_not_made_anew(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir(mode=0o700)
    store = refstore.Store(str(inner / "store"), capacity="1MiB", create=True)
    with child_process(store.path) as child:
        child.do(workers.hold, store.put(b"A" * 1000))
        view = memoryview(store.get(store.put(b"B" * 1000)))
        shutil.rmtree(inner)
        with pytest.raises(FileNotFoundError, match="removed while it was in use"):
            store.put(b"C")
        assert bytes(view) == b"B" * 1000
        del view
        store.close()
    assert not inner.exists()


def test_a_folder_of_locks_that_was_removed_is_made_anew_as_it_was(
    store: refstore.Store, path: str
) -> None:
    locks = lock_files.folder(path)
    mode = locks.stat().st_mode
    shutil.rmtree(locks)
    assert store.get(store.put(b"A")).value == b"A"
    assert locks.stat().st_mode == mode


def test_a_store_left_amid_an_operation_on_another_leaves_no_locks(
    folder: Path, make_store: MakeStore
) -> None:
    """A finalizer's turn comes there, and the row can be given back only afterwards."""
    kept: Any = make_store()._attachment
    left = [refstore.Store(str(folder / "left"))]
    left[0].unlink()
    kept.run_locked("a test", lambda change: left.clear())
    assert [entry.name for entry in locks(folder)] == [Path(kept.folder).name]


class Kept(dict[int, object]):
    """Of what no entry goes: so it is when an interrupt comes just before."""

    def pop(self, *_: Any) -> None:
        pass


def test_an_operation_that_was_interrupted_is_not_taken_for_the_next(
    folder: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would leave what a finalizer defers in that one to nobody."""
    monkeypatch.setattr(transaction, "_busy", Kept())
    kept: Any = make_store()._attachment
    for _ in range(20):
        left = [refstore.Store(str(folder / "left"))]
        left[0].unlink()
        kept.run_locked("a test", lambda change, left=left: left.clear())
        assert [entry.name for entry in locks(folder)] == [Path(kept.folder).name]


def test_a_folder_that_only_looks_like_one_of_locks_is_left_alone(
    folder: Path, make_store: MakeStore
) -> None:
    other = folder / "notes.12345678.locks"
    other.mkdir()
    (other / "letter").write_bytes(b"dear")
    refstore.Store.temporary(capacity="1MiB").close()
    assert (other / "letter").read_bytes() == b"dear"
    assert [entry.name for entry in other.iterdir()] == ["letter"]
    (other / "letter").unlink()
    other.rmdir()


# -- the row ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["put", "get"])
def test_a_call_that_meets_the_exit_takes_a_row_again(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A daemon thread's, at the interpreter's exit."""
    att: Any = store._attachment
    store["n"] = b"x"
    run_locked = att.run_locked

    def leave_first(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        att.leave_at_exit()
        assert att.row is None
        return run_locked(*args, **options)

    monkeypatch.setattr(att, "run_locked", leave_first)
    if call == "put":
        store["n"] = b"y"
    with store.get("n") as buf:
        assert bytes(buf) == (b"y" if call == "put" else b"x")
        assert store.stats().processes == 1


def test_a_store_that_is_replaced_while_one_attaches_is_attached_to(path: str) -> None:
    join, replaced = Membership.join, list[Membership]()

    def replace_first(self: Membership) -> None:
        if not replaced:
            replaced.append(self)
            with refstore.Store(path, create=False) as store:
                store.unlink()
            refstore.Store(path, capacity="2MiB").close()
        join(self)

    refstore.Store(path, capacity="1MiB").close()
    for create in (None, False):
        replaced.clear()
        patched = mock.patch.object(Membership, "join", replace_first)
        with patched, refstore.Store(path, create=create) as store:
            assert store.capacity == 2 << 20
            assert store.check() == []
    helpers.remove(path)
