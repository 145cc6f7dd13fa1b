"""Many processes open one name at once: one makes the store, all others attach to that very one."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import engines
import helpers
import pytest
import workers
from children import child_process, child_processes

import refstore


def test_creating_at_once_makes_one_store(folder: Path) -> None:
    path, times = str(folder / "s"), engines.rounds(40, 4)
    with child_processes(4, None) as children:
        for child in children:
            child.tell(workers.open_many_times, path, times, None)
        assert [child.answer() for child in children] == [["opened"] * times] * 4
        pids = {child.pid for child in children}
    for number in range(times):
        with refstore.Store(f"{path}-{number}", create=False) as store:
            assert set(store.names()) == {f"by {pid}" for pid in pids}
            assert store.check() == []
            store.unlink()


def test_creating_exclusively_has_one_winner(folder: Path) -> None:
    path, times = str(folder / "s"), engines.rounds(40, 4)
    with child_processes(4, None) as children:
        for child in children:
            child.tell(workers.open_many_times, path, times, True)
        outcomes = [child.answer() for child in children]
    for number in range(times):
        assert sorted(one[number] for one in outcomes) == ["exists"] * 3 + ["opened"]
        with refstore.Store(f"{path}-{number}", create=False) as store:
            assert len(store) == 1
            store.unlink()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_options_of_an_attached_store_are_its_files(folder: Path, path: str, method: str) -> None:
    with child_processes(1, None, method) as (child,):
        child.do(workers.attach, path, {"capacity": 1_234_567, "max_objects": 321})
        with refstore.Store(path) as store:
            assert (store.capacity, store.max_objects) == (1_234_567, 321)
            with pytest.raises(ValueError, match="capacity"):
                refstore.Store(path, capacity=1_234_568)
            store.unlink()


KILLED_CREATOR = """
    import os, signal, sys, refstore
    path, point, when = sys.argv[1:]
    call = getattr(os, point)

    def fatal(*args, **options):
        if when == "after":
            call(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, point, fatal)
    refstore.Store(path, capacity="4MiB", create=True, backend="native")
"""


def create_and_die(path: str, point: str, when: str) -> None:
    """A creator that is killed before or after its first call of a function of `os`."""
    died = helpers.run_script(KILLED_CREATOR, path, point, when)
    assert (died.returncode, died.stderr) == (-signal.SIGKILL, "")


@pytest.mark.native("names the calls of os that it makes; tests/filelock has its like")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", ["open", "fchmod", "ftruncate", "pwrite", "fsencode"])
def test_a_creator_killed_half_way_leaves_nothing(
    folder: Path, path: str, point: str, when: str
) -> None:
    create_and_die(path, point, when)
    assert list(folder.iterdir()) == []
    with refstore.Store(path, capacity="1MiB", create=True) as store:
        helpers.assert_full_capacity_fits(store)
        assert store.check() == []
        store.unlink()


@pytest.mark.native("names the calls of os that it makes; tests/filelock has its like")
@pytest.mark.parametrize("point", ["pread"])
def test_a_creator_killed_before_it_joins_leaves_a_whole_store(
    folder: Path, path: str, point: str
) -> None:
    create_and_die(path, point, "before")
    with refstore.Store(path, create=False) as store:
        assert store.check() == []
        helpers.assert_full_capacity_fits(store)
        store.unlink()


@pytest.mark.parametrize("create", [True, None])
def test_a_creator_that_cannot_attach_leaves_what_others_have_put(
    folder: Path, path: str, create: bool | None
) -> None:
    attach = refstore.Store._attach

    def fail_once_it_is_there(store: refstore.Store, where: str, *options: Any) -> None:
        if not os.path.exists(where):
            attach(store, where, *options)
        with child_process(where) as other:
            other.do(workers.put, b"x" * 1000, "precious")
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refstore.Store, "_attach", fail_once_it_is_there)
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EMFILE))):
            refstore.Store(path, capacity="1MiB", create=create)
    with refstore.Store(path, create=False) as store:
        assert bytes(store["precious"]) == b"x" * 1000
        assert store.check() == []
        store.unlink()


@pytest.mark.parametrize("again", [False, True], ids=["removed", "replaced"])
@pytest.mark.parametrize("create", [True, None])
def test_a_store_that_others_remove_while_it_is_made_is_made_again(
    folder: Path, path: str, create: bool | None, again: bool
) -> None:
    attach, removed = refstore.Store._attach, list[str]()

    def remove_first(store: refstore.Store, where: str, *options: Any) -> None:
        if os.path.exists(where) and not removed:
            removed.append(where)
            refstore.Store(where, create=False).unlink()
            if again and create is None:
                refstore.Store(where, capacity="2MiB").close()
        attach(store, where, *options)

    patched = mock.patch.object(refstore.Store, "_attach", remove_first)
    with patched, refstore.Store(path, capacity="1MiB", create=create) as store:
        assert store.path == path
        assert store.capacity == (2 << 20 if again and create is None else 1 << 20)
        assert store.check() == []
        store.unlink()
    assert removed
    assert list(folder.iterdir()) == []
