"""Temporary stores: gone with their creator, however it goes."""

from __future__ import annotations

import os
import pickle
from multiprocessing.connection import wait
from pathlib import Path

import helpers
import pytest
import workers
from helpers import peer

import refstore
from refstore.temporary import collect_temporary


@pytest.fixture(autouse=True)
def own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain names, and so temporary stores, lie in the test's folder."""
    monkeypatch.setenv("REFSTORE_DIR", str(folder))


def test_a_temporary_store_works_and_goes_at_its_close(folder: Path) -> None:
    with refstore.Store.temporary(capacity="1MiB", max_objects=100) as store:
        assert len(helpers.stores(folder)) == 1
        assert (store.capacity, store.max_objects) == (2**20, 100)
        store["n"] = b"x"
        assert bytes(store["n"]) == b"x"
        assert store.check() == []
    assert helpers.stores(folder) == []


def test_each_has_a_name_of_its_own(folder: Path) -> None:
    stores = [refstore.Store.temporary(capacity="1MiB") for _ in range(5)]
    assert len(helpers.stores(folder)) == 5
    stores[0]["n"] = b"x"
    assert "n" not in stores[1]
    for store in stores:
        store.close()
    assert helpers.stores(folder) == []


def test_dropping_it_closes_it(folder: Path) -> None:
    store = refstore.Store.temporary(capacity="1MiB")
    assert len(helpers.stores(folder)) == 1
    del store
    assert helpers.stores(folder) == []


def test_views_outlive_it(folder: Path) -> None:
    with refstore.Store.temporary(capacity="1MiB") as store:
        view = memoryview(store.get(store.put(b"x" * 1000)))
    assert helpers.stores(folder) == []
    assert bytes(view) == b"x" * 1000


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "store.close()",
        "view = memoryview(store['n'])",
        "sys.exit(3)",
        "1 / 0",
        "store.unlink()",
    ],
    ids=["at exit", "closed", "with a view", "sys.exit", "an error", "unlinked"],
)
def test_it_goes_with_its_creator(folder: Path, ending: str) -> None:
    helpers.run_script(
        f"""
        import sys, refstore
        store = refstore.Store.temporary(capacity="1MiB")
        store["n"] = b"x"
        {ending}
        """
    )
    assert helpers.stores(folder) == []


@pytest.mark.parametrize("how", ["temporary", "create", "attach"])
def test_one_whose_creator_was_killed_goes_at_the_next_opening(folder: Path, how: str) -> None:
    refstore.Store(str(folder / "there"), capacity="1MiB").close()
    with peer(None, "spawn") as child:
        child.do(workers.temporary, str(folder))
        assert len(helpers.stores(folder)) == 2
        child.kill()
    if how == "temporary":
        refstore.Store.temporary(capacity="1MiB").close()
    elif how == "create":
        with refstore.Store(str(folder / "new"), capacity="1MiB") as store:
            store.unlink()
    else:
        refstore.Store(str(folder / "there"), create=False).close()
    assert helpers.stores(folder) == ["there"]
    helpers.remove(folder / "there")


def test_one_whose_creator_lives_is_left_alone(folder: Path) -> None:
    with peer(None) as child:
        child.do(workers.temporary, str(folder))
        (name,) = helpers.stores(folder)
        for _ in range(3):
            with refstore.Store.temporary(capacity="1MiB"):
                assert name in helpers.stores(folder)
        assert helpers.stores(folder) == [name]
        with pickle.loads(child.do(workers.pickled)) as store:
            assert bytes(store["n"]) == b"temporary"
        assert helpers.stores(folder) == [name]
    assert helpers.stores(folder) == []


def test_an_ordinary_store_of_a_killed_process_stays(folder: Path) -> None:
    with peer(None, "spawn") as child:
        child.do(workers.attach, "ordinary", {"capacity": "1MiB"})
        child.do(workers.put, b"x", "n")
        child.kill()
    refstore.Store.temporary(capacity="1MiB").close()
    with refstore.Store("ordinary", create=False) as store:
        assert bytes(store["n"]) == b"x"
        store.unlink()


def test_others_that_attach_do_not_remove_it(folder: Path) -> None:
    with refstore.Store.temporary(capacity="1MiB") as store:
        store["n"] = b"x" * 1000
        for method in helpers.START_METHODS:
            with peer(store, method) as child:
                assert child.do(workers.read, "n") == b"x" * 1000
                child.do(workers.close)
            assert len(helpers.stores(folder)) == 1
        with pickle.loads(pickle.dumps(store)) as other:
            assert bytes(other["n"]) == b"x" * 1000
        assert len(helpers.stores(folder)) == 1
    assert helpers.stores(folder) == []


def test_those_attached_go_on_when_the_creator_has_gone(folder: Path) -> None:
    store = refstore.Store.temporary(capacity="1MiB")
    ref = store.put(b"x" * 1000)
    with peer(store) as child:
        store.close()
        assert helpers.stores(folder) == []
        assert child.do(workers.read, ref) == b"x" * 1000
        child.do(workers.put, b"y", "still working")
    # Children of multiprocessing end without a word: what only they could clear away is orphaned.
    collect_temporary(str(folder))


def test_a_killed_user_takes_nothing_away(folder: Path) -> None:
    with refstore.Store.temporary(capacity="1MiB") as store:
        with peer(store, "fork") as child:
            child.do(workers.put, b"x", "n")
            child.kill()
        refstore.Store.temporary(capacity="1MiB").close()
        assert len(helpers.stores(folder)) == 1
        assert bytes(store["n"]) == b"x"


def test_a_creator_killed_with_a_child_attached_is_dead_all_the_same(folder: Path) -> None:
    """The forked child inherits the creator's mapping but not its part."""
    with helpers.script(
        """
        import os, sys, refstore
        store = refstore.Store.temporary(capacity="1MiB")
        pid = os.fork()
        if pid == 0:
            store["n"] = b"x"
            print(os.getpid(), flush=True)
            sys.stdin.read()
            os._exit(0)
        os.waitpid(pid, 0)
        """
    ) as creator:
        said = helpers.line(creator)
        assert int(said) != creator.pid
        assert len(helpers.stores(folder)) == 1
        creator.kill()
        creator.wait(helpers.PATIENCE)
        refstore.Store.temporary(capacity="1MiB").close()
        assert helpers.stores(folder) == []
        end = os.pidfd_open(int(said))
    assert wait([end], helpers.PATIENCE)  # by the end of its stdin
    os.close(end)
    collect_temporary(str(folder))


def test_a_temporary_store_may_not_be_given_a_bad_capacity(folder: Path) -> None:
    with pytest.raises(ValueError, match="capacity"):
        refstore.Store.temporary(capacity=0)
    assert helpers.stores(folder) == []
