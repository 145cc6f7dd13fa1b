"""Which engine a store gets: what is asked, what the file says, what is there; and the warning."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import helpers
import libraries
import other_locks
import pytest
import workers
from children import child_processes

import refstore
from refstore import cli

MAGIC = 0x65726F7473666572
NUMBERS = {"native": 1, "filelock": 2}
pytestmark = libraries.needed("refstore._core")

OTHER = {"native": "filelock", "filelock": "native"}

both = pytest.mark.parametrize("owner", engines.ENGINES)


def header(path: str) -> tuple[int, int, int]:
    """Magic number, version and engine of a store's file."""
    with open(path, "rb") as file:
        magic, version, number = struct.unpack("=QII", file.read(16))
    return magic, version, number


@pytest.fixture
def owned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], refstore.Store]:
    """Make a store of a given engine, with nothing said by the environment."""
    monkeypatch.delenv(engines.VARIABLE)
    return lambda owner: refstore.Store(
        str(folder / owner), capacity="1MiB", create=True, backend=owner
    )


@both
def test_the_header_names_the_engine(owned: Callable[[str], refstore.Store], owner: str) -> None:
    with owned(owner) as store:
        assert header(store.path)[::2] == (MAGIC, NUMBERS[owner])
        store.unlink()


@both
@pytest.mark.parametrize("create", [None, False])
@pytest.mark.parametrize("said_by", ["argument", "environment"])
def test_the_other_engine_refuses_it_and_names_both(
    owned: Callable[[str], refstore.Store],
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    create: bool | None,
    said_by: str,
) -> None:
    with owned(owner) as store:
        store["n"] = b"kept"
        other = OTHER[owner]
        if said_by == "environment":
            monkeypatch.setenv(engines.VARIABLE, other)
        backend: Any = other if said_by == "argument" else "auto"
        with pytest.raises(refstore.StoreVersionError) as caught:
            refstore.Store(store.path, create=create, backend=backend)
        assert store.path in str(caught.value)
        assert "native" in str(caught.value)
        assert "filelock" in str(caught.value)
        assert f"backend='{owner}'" in str(caught.value)
        assert f"REFSTORE_BACKEND={owner} " in str(caught.value)
        with pytest.raises(FileExistsError):
            refstore.Store(store.path, create=True, backend=backend)
        assert bytes(store["n"]) == b"kept"
        assert store.check() == []
        store.unlink()


@both
@pytest.mark.parametrize("create", [None, False])
def test_auto_attaches_to_whatever_is_there(
    owned: Callable[[str], refstore.Store], owner: str, create: bool | None
) -> None:
    with owned(owner) as store, refstore.Store(store.path, create=create) as again:
        again["n"] = b"x"
        assert bytes(store["n"]) == b"x"
        assert store.stats().processes == 1, "one attachment for both"
        store.unlink()


@both
def test_a_pickled_store_is_found_whatever_its_engine(
    owned: Callable[[str], refstore.Store], monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    with owned(owner) as store:
        store["n"] = b"x"
        monkeypatch.setenv(engines.VARIABLE, OTHER[owner])
        said = helpers.run_clean(
            """
            import pickle, sys
            with pickle.loads(bytes.fromhex(sys.argv[1])) as store:
                print(bytes(store["n"]).decode())
            """,
            pickle.dumps(store).hex(),
        )
        assert said == "x"
        store.unlink()


def test_auto_takes_the_native_engine_and_says_nothing(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(engines.VARIABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refstore.Store(path, capacity="1MiB") as store:
            assert header(path)[2] == NUMBERS["native"]
            store.unlink()


@pytest.mark.parametrize("name", engines.ENGINES)
def test_the_environment_decides_for_auto_and_says_nothing(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(engines.VARIABLE, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refstore.Store(path, capacity="1MiB") as store:
            assert header(path)[2] == NUMBERS[name]
            store.unlink()
        with refstore.Store.temporary("1MiB") as store:
            assert header(store.path)[2] == NUMBERS[name]


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_argument_wins_over_the_environment(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    monkeypatch.setenv(engines.VARIABLE, OTHER[name])
    with refstore.Store(path, capacity="1MiB", backend=name) as store:
        assert header(path)[2] == NUMBERS[name]
        store.unlink()
    with refstore.Store.temporary("1MiB", backend=name) as store:
        assert header(store.path)[2] == NUMBERS[name]


def test_an_environment_that_names_no_engine_is_a_value_error(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engines.VARIABLE, "postgres")
    with pytest.raises(ValueError, match=engines.VARIABLE):
        refstore.Store(path, capacity="1MiB")
    assert list(folder.iterdir()) == []


def test_creators_of_both_engines_at_once_make_one_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, times = str(folder / "s"), 20
    with child_processes(4, None) as children:
        for number, child in enumerate(children):
            backend = engines.ENGINES[number % 2]
            child.tell(workers.create_many_times, path, times, backend)
        outcomes = [child.answer() for child in children]
    monkeypatch.delenv(engines.VARIABLE)
    for number in range(times):
        with refstore.Store(f"{path}-{number}", create=False) as store:
            assert store.check() == []
            owner = engines.ENGINES[header(store.path)[2] - 1]
            store.unlink()
        came = [one[number] for one in outcomes]
        expected = {"opened": 2, "refused": 2}
        assert {word: came.count(word) for word in set(came)} == expected
        ours = [came[n] for n in range(4) if engines.ENGINES[n % 2] == owner]
        assert ours == ["opened"] * 2


# -- the native engine cannot be --------------------------------------------------------------

WARNED = """
    import sys, warnings, refstore
    folder, backend = sys.argv[1:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stores = [
            refstore.Store(f"{folder}/{number}", capacity="1MiB", create=True, backend=backend)
            for number in range(3)
        ]
    for store in stores:
        store["n"] = b"x"
        assert bytes(store["n"]) == b"x"
        assert open(store.path, "rb").read(16)[12] == 2, "the filelock engine"
        store.unlink()
        store.close()
    for warning in caught:
        assert warning.category is refstore.RefstoreWarning, warning
        assert warning.filename == "<string>", "it points at who opened the store"
        print(warning.message)
"""


@pytest.fixture
def without_locks(tmp_path: Path) -> dict[str, str]:
    """An environment in which no file system has the locks of the native engine."""
    return other_locks.environment(tmp_path, "unknown") | {engines.VARIABLE: ""}


def test_a_folder_for_no_native_store_gets_the_other_with_warning(
    folder: Path, without_locks: dict[str, str]
) -> None:
    result = helpers.run_script(WARNED, folder, "auto", env=without_locks)
    assert (result.returncode, result.stderr) == (0, "")
    (warning,) = result.stdout.splitlines()
    assert str(folder) in warning
    assert "locks" in warning
    assert list(folder.iterdir()) == []


def test_who_asks_for_the_filelock_engine_is_not_warned(
    folder: Path, without_locks: dict[str, str]
) -> None:
    result = helpers.run_script(WARNED, folder, "filelock", env=without_locks)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


def test_who_asks_for_the_native_engine_gets_it_or_an_error(
    folder: Path, without_locks: dict[str, str]
) -> None:
    result = helpers.run_script(WARNED, folder, "native", env=without_locks)
    assert result.returncode == 1
    assert "locks do not hold" in result.stderr
    assert list(folder.iterdir()) == []


@both
def test_pickled_stores_and_the_command_follow_the_file(
    owned: Callable[[str], refstore.Store], monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    with owned(owner) as store:
        monkeypatch.setenv(engines.VARIABLE, OTHER[owner])
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.backend == owner
        assert cli.main(["check", store.path]) == 0
        store.unlink()
