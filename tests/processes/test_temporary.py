"""Temporary stores: gone with their creator, however it goes."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from multiprocessing.connection import wait
from pathlib import Path

import helpers
import pytest
import workers
from children import child_process

import refstore
from refstore._temporary import collect_temporary


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


@pytest.mark.parametrize("ending", ["", "store.close()"], ids=["at exit", "closed"])
def test_finalizers_of_others_may_run_before_its_own(folder: Path, ending: str) -> None:
    """What comes first at the exit is what was asked for last."""
    helpers.run_clean(
        f"""
        import weakref
        weakref.finalize(weakref, print).atexit = False
        import refstore
        store = refstore.Store.temporary(capacity="1MiB")
        store["n"] = b"x"
        {ending}
        """
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["temporary", "create", "attach"])
def test_one_whose_creator_was_killed_goes_at_the_next_opening(folder: Path, how: str) -> None:
    refstore.Store(str(folder / "there"), capacity="1MiB").close()
    with child_process(None, "spawn") as child:
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
    with child_process(None) as child:
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
    with child_process(None, "spawn") as child:
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
            with child_process(store, method) as child:
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
    with child_process(store) as child:
        store.close()
        assert helpers.stores(folder) == []
        assert child.do(workers.read, ref) == b"x" * 1000
        child.do(workers.put, b"y", "still working")
    # Children of multiprocessing end without a word: what only they could clear away is unowned.
    collect_temporary(str(folder))


def test_a_killed_user_takes_nothing_away(folder: Path) -> None:
    with refstore.Store.temporary(capacity="1MiB") as store:
        with child_process(store, "fork") as child:
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
        creator.wait(helpers.BUSY_TIMEOUT)
        refstore.Store.temporary(capacity="1MiB").close()
        assert helpers.stores(folder) == []
        end = os.pidfd_open(int(said))
    assert wait([end], helpers.BUSY_TIMEOUT)  # by the end of its stdin
    os.close(end)
    collect_temporary(str(folder))


def test_a_temporary_store_may_not_be_given_a_bad_capacity(folder: Path) -> None:
    with pytest.raises(ValueError, match="capacity"):
        refstore.Store.temporary(capacity=0)
    assert helpers.stores(folder) == []


DAEMON = """
    import os, subprocess, sys, refstore
    folder, program = sys.argv[1:3]
    store = refstore.Store.temporary(capacity="1MiB")
    path = os.path.join(folder, *(f for f in os.listdir(folder) if not f.endswith(".locks")))
    store["n"] = b"x" * 1000
    os.closerange(3, 256)
    own = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(sys.argv[3]))]
    subprocess.run([sys.executable, "-c", program], check=True)
    assert os.path.exists(path), "it was removed while its creator lives"
    assert bytes(store["n"]) == b"x" * 1000
    assert store.check() == []
    with refstore.Store(path, create=False) as other:
        assert bytes(other["n"]) == b"x" * 1000
    store.close()
    assert store.closed
    assert not os.path.exists(path), "it is still there"
    for number in own:
        os.fstat(number)
"""


BYSTANDERS = {
    "temporary": "import refstore; refstore.Store.temporary('1MiB').close()",
    "create": "import refstore; refstore.Store('other', capacity='1MiB').unlink()",
}


@pytest.mark.parametrize("bystander", BYSTANDERS.values(), ids=BYSTANDERS)
def test_a_creator_that_closes_all_its_descriptors_lives(folder: Path, bystander: str) -> None:
    """As whoever makes itself a daemon does."""
    helpers.run_clean(DAEMON, folder, bystander, 0)
    assert helpers.stores(folder) == []


@pytest.mark.parametrize("bystander", BYSTANDERS.values(), ids=BYSTANDERS)
def test_files_that_get_the_numbers_of_closed_descriptors_stay_open(
    folder: Path, bystander: str, engine: str
) -> None:
    if engine == "filelock" and sys.version_info < (3, 13):
        pytest.skip("Python's mmap has a descriptor, and closes it, whosever the number is by then")
    helpers.run_clean(DAEMON, folder, bystander, 40)
    assert helpers.stores(folder) == []


FORKED_BEHIND_PYTHONS_BACK = """
    import ctypes, os, sys, refstore
    store = refstore.Store.temporary(capacity="1MiB")
    if ctypes.PyDLL(None).fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    os.wait()
"""


@pytest.mark.native("a fork behind Python's back runs no hook of Python's")
def test_a_killed_creator_is_dead_whoever_forked_its_child(folder: Path) -> None:
    with helpers.script(FORKED_BEHIND_PYTHONS_BACK) as creator:
        end = os.pidfd_open(int(helpers.line(creator)))
        creator.kill()
        creator.wait(helpers.BUSY_TIMEOUT)
        assert len(helpers.stores(folder)) == 1
        assert wait([end], 0) == [], "the child has not outlived it"
        refstore.Store.temporary(capacity="1MiB").close()
        assert helpers.stores(folder) == []
    assert wait([end], helpers.BUSY_TIMEOUT)  # by the end of its stdin
    os.close(end)
    collect_temporary(str(folder))


@pytest.mark.parametrize("how", ["temporary", "create"])
def test_what_an_interrupted_creator_left_goes_at_the_next(folder: Path, how: str) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(refstore._store, "own", interrupted)
        refstore.Store.temporary(capacity="1MiB")
        raise AssertionError("it was not interrupted")
    (left,) = helpers.stores(folder)
    if how == "temporary":
        with refstore.Store.temporary(capacity="1MiB"):
            assert left not in helpers.stores(folder)
    else:
        with refstore.Store("other", capacity="1MiB") as store:
            assert helpers.stores(folder) == ["other"]
            store.unlink()
