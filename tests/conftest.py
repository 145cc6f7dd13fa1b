"""Fixtures: the engine, stores in a folder of their own, a guard against what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import engines
import helpers
import libraries
import pytest
from command import Command

import refstore

# Last: the package under test comes first, wherever it is; tests/ and stress/ are found here.
sys.path.append(str(Path(__file__).resolve().parents[1]))

# For the children: OpenBLAS starts a thread for each processor when numpy is imported, and these
# spin for a while before they sleep, which took a third of the time of an import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

LET_GO = 10.0  # seconds in which threads of other libraries let go of what they have done
MakeStore = Callable[..., refstore.Store]


def pytest_configure(config: pytest.Config) -> None:
    """From 3.12 on, Python warns of a fork while other threads run: pytest-xdist has one."""
    if hasattr(config, "workerinput"):
        config.addinivalue_line("filterwarnings", "ignore:.*use of fork.*:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that import large libraries last, as a process that has them forks slowly.

    Those that take long are first: nobody is to be at work on one while the others have nothing.
    """
    items.sort(key=lambda item: (libraries.are_needed_by(item), not is_long(item)))


def is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def pytest_collection_finish() -> None:
    leave_out_of_collections()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        leave_out_of_collections()


def leave_out_of_collections() -> None:
    """What imports and pytest keep is no garbage: the many gc.collect() of tests need not look."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return engines.is_said_by_release(collection_path) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let each test run on the engines that it is for; see `engines`."""
    test = metafunc.definition
    if test.get_closest_marker("once"):
        return
    meant: Sequence[str] = [one for one in engines.ENGINES if test.get_closest_marker(one)]
    if not meant:
        alone = test.originalname in engines.NATIVE_ALONE
        meant = ["native"] if alone else engines.of_folder(test.path.parent)
    if not meant:
        return
    metafunc.parametrize(
        "engine", [one for one in engines.available() if one in meant], indirect=True
    )


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of every store that the test, its children or the command make."""
    if why := engines.missing_here(request.node.originalname):
        pytest.skip(why)
    name: str = getattr(request, "param", engines.available()[0])
    monkeypatch.setenv(engines.VARIABLE, name)
    return name


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """A test that leaves a child, running or unreaped, fails."""
    before = helpers.children()
    yield
    left = helpers.children() - before
    assert not left, f"child processes left behind: {left}"


def is_unmapped(path: Path) -> bool:
    gc.collect()
    return not helpers.mappings(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder in shared memory; no file, mapping or descriptor may be left in it."""
    where = helpers.SHARED_MEMORY if helpers.SHARED_MEMORY.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="refstore-test-", dir=where))
    try:
        yield path
        if helpers.mappings(path):  # cycles may be to blame, or threads of a library
            helpers.eventually(lambda: is_unmapped(path), LET_GO)
            assert helpers.mappings(path) == []
        assert helpers.open_files(path) == []
        assert sorted(entry.name for entry in path.iterdir()) == []
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def torch_in_children() -> None:
    """Children of the fork server have torch, which takes each of them a second to import."""
    helpers.preload("torch_workers")


@pytest.fixture
def path(folder: Path) -> str:
    """Where the `store` fixture's file is."""
    return str(folder / "store")


@pytest.fixture
def make_store(folder: Path) -> Iterator[MakeStore]:
    """Make stores in `folder`: `make_store(capacity=..., name="store")`; each ends sound."""
    made: list[tuple[refstore.Store, Path]] = []

    def make(capacity: int | str = "16MiB", name: str = "store", **options: Any) -> refstore.Store:
        file = folder / name
        store = refstore.Store(str(file), capacity=capacity, create=True, **options)
        made.append((store, file))
        return store

    yield make
    for store, file in made:
        if file.exists():
            with refstore.Store(str(file), create=False) as again:
                problems = again.check()
                again.unlink()
            assert problems == []
        with contextlib.suppress(ValueError):
            store.close()


@pytest.fixture
def store(make_store: MakeStore) -> refstore.Store:
    """A fresh store of 16 MiB."""
    return make_store()


# -- of the command


@pytest.fixture
def run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """The command, where `folder` is the one that holds the user's stores."""
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    return Command(capsys)


@pytest.fixture
def train(run: Command) -> Any:
    """A store called "train" with two objects."""
    with refstore.Store("train", capacity="4MiB") as store:
        store.put(b"x" * 100_000, name="weights")
        store.put(b"y")
        yield store
        assert store.check() == []
        if os.path.exists(store.path):
            store.unlink()
