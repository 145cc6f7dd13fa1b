"""A pickled store is a note of where it is: it attaches to that store or to none."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import helpers
import pytest

import refstore


def test_a_pickled_store_attaches_to_the_same_store(store: refstore.Store, path: str) -> None:
    store["n"] = b"x"
    maps = len(helpers.mappings(path))
    with pickle.loads(pickle.dumps(store)) as other:
        assert bytes(other["n"]) == b"x"
        assert other.stats().processes == 1
        assert len(helpers.mappings(path)) == maps
    assert bytes(store["n"]) == b"x"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_serves(store: refstore.Store, protocol: int) -> None:
    dumped = pickle.dumps(store, protocol)
    assert len(dumped) < 1000
    with pickle.loads(dumped) as other:
        assert other.capacity == store.capacity


def test_a_copy_is_another_handle(store: refstore.Store) -> None:
    with copy.copy(store) as other:
        other["n"] = b"x"
    assert bytes(store["n"]) == b"x"


def test_the_path_is_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with refstore.Store("./here", capacity="1MiB") as store:
        store["n"] = b"x"
        dumped = pickle.dumps(store)
    monkeypatch.chdir("/")
    with pickle.loads(dumped) as other:
        assert bytes(other["n"]) == b"x"
        other.unlink()


def test_a_store_that_is_gone_is_not_found(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as store:
        dumped = pickle.dumps(store)
        store.unlink()
    with pytest.raises(FileNotFoundError, match="store"):
        pickle.loads(dumped)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("attached", [False, True])
def test_another_store_in_its_place_is_refused(folder: Path, path: str, attached: bool) -> None:
    with refstore.Store(path, capacity="1MiB") as store:
        dumped = pickle.dumps(store)
        store.unlink()
    with refstore.Store(path, capacity="1MiB") as second:
        if not attached:
            second.close()
        with pytest.raises(refstore.StoreVersionError):
            pickle.loads(dumped)
    helpers.remove(path)


def test_a_store_within_an_object_is_stored_as_its_note(store: refstore.Store) -> None:
    with store.get(store.put({"store": store, "n": 1})) as buf, buf.value["store"] as other:
        assert other.capacity == store.capacity


@pytest.mark.once("opens no store")
def test_nothing_is_left_to_import_when_something_is_pickled() -> None:
    """Pickle would import it, and make another error of what a signal raises meanwhile."""
    assert (
        helpers.run_clean("import sys, refstore; print('refstore._unpickle' in sys.modules)")
        == "True"
    )
