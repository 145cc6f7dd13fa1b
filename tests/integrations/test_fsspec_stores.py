"""`refstore://`: how stores are found, who may die when, and what other libraries make of it."""

from __future__ import annotations

import importlib.metadata
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documented
import fsspecs
import helpers
import numpy as np
import page_blocks
import pytest
import zarrs
from children import child_process, clear_up_after_the_dead
from libraries import Late, needed

import refstore

fsspec: Any = pytest.importorskip("fsspec")
ours: Any = pytest.importorskip("refstore.fsspec")
pandas: Any = Late("pandas")
pyarrow: Any = Late("pyarrow")
zarr: Any = Late("zarr")


@pytest.fixture
def fs(folder: Path) -> Iterator[Any]:
    with fsspecs.of_users_stores(folder) as fs:
        yield fs


# -- stores


def test_a_url_is_enough(store: refstore.Store, fs: Any) -> None:
    (found,) = importlib.metadata.entry_points(group="fsspec.specs", name="refstore")
    assert found.load() is type(fs) is ours.RefstoreFileSystem
    with fsspec.open("refstore://store/a", "w") as file:
        file.write("text")
    assert store["a"].value == b"text"
    assert fsspec.filesystem("refstore") is fs
    assert fs.unstrip_protocol("store/a") == "refstore://store/a"


def test_stores_of_another_directory(
    store: refstore.Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(tmp_path))
    store.put(b"abc", name="a")
    fs = fsspec.filesystem("refstore", directory=folder, skip_instance_cache=True)
    assert fs.cat("refstore://store/a") == b"abc"
    assert not fsspec.filesystem("refstore").exists("refstore://store/a")


@pytest.mark.parametrize("name", ["absent", "..", "\n", "x" * 250])
def test_the_store_must_be_there(fs: Any, folder: Path, name: str) -> None:
    path = f"refstore://{name}/a"
    assert not fs.exists(path)
    for use in (fs.cat, fs.open, fs.info, fs.ls, fs.mkdir, fs.rm, lambda p: fs.pipe(p, b"")):
        with pytest.raises(FileNotFoundError):
            use(path)
    with pytest.raises(FileNotFoundError), fsspec.open(path, "wb"):
        pass
    assert helpers.stores(folder) == []


def test_without_a_store_a_path_names_no_file(fs: Any) -> None:
    assert fs.isdir("refstore://")
    for use in (fs.ls, fs.cat):
        with pytest.raises(FileNotFoundError, match="refstore://STORE/NAME"):
            use("refstore://")
    with pytest.raises(FileNotFoundError, match="refstore://STORE/NAME"):
        fs.cat("refstore:///a")


def test_a_store_in_the_place_of_another_one_is_seen(make_store: Any, fs: Any) -> None:
    first = make_store()
    first.put(b"1", name="a")
    file = fs.open("refstore://store/a")
    first.unlink()
    assert not fs.exists("refstore://store/a")
    second = make_store()
    assert not fs.exists("refstore://store/a")
    second.put(b"2", name="a")
    assert fs.cat("refstore://store/a") == b"2"
    assert file.read() == b"1", "what is open is what was opened"
    file.close()


def test_a_store_that_is_replaced_as_it_is_attached_to(
    make_store: Any, fs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, identity = make_store(), ours._identity

    def replaced(path: str) -> tuple[int, int]:
        found: tuple[int, int] = identity(path)
        monkeypatch.setattr(ours, "_identity", identity)
        first.unlink()
        make_store().put(b"2", name="a")
        return found

    monkeypatch.setattr(ours, "_identity", replaced)
    assert fs.cat("refstore://store/a") == b"2"
    assert fs.cat("refstore://store/a") == b"2"


def test_it_lets_go_of_stores(make_store: Any, fs: Any, folder: Path) -> None:
    make_store().put(b"1", name="a")
    make_store(name="other").close()
    view = fs.open("refstore://store/a").getbuffer()
    fs.ls("refstore://other")
    fs.invalidate_cache("refstore://other/a")
    assert any(one.path.endswith("other") for one in helpers.mappings(folder))
    fs.invalidate_cache()
    assert not any(one.path.endswith("other") for one in helpers.mappings(folder))
    assert view == b"1"
    assert fs.cat("refstore://store/a") == b"1"


# -- processes


def test_it_pickles_with_its_open_files(store: refstore.Store, folder: Path) -> None:
    fs = fsspec.filesystem("refstore", directory=str(folder), skip_instance_cache=True)
    fs.pipe("store/a", b"0123456789")
    with child_process(None) as child, fs.open("store/a") as file:
        assert child.do(fsspecs.read_with, fs, "store/a") == b"0123456789"
        file.seek(7)
        assert child.do(fsspecs.read_rest, file) == b"789"
    with fs.open("store/b", "wb") as writing, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(writing)


def test_a_forked_child_reads_and_writes(store: refstore.Store, fs: Any) -> None:
    fs.pipe("store/a", b"of the parent")
    reading = fs.open("store/a")

    def work() -> None:
        assert reading.read() == b"of the parent"
        fs.pipe("store/b", fs.cat("store/a"))
        again = fsspec.filesystem("refstore")
        assert again is not fs
        assert again.cat("store/b") == b"of the parent"

    assert helpers.forked(work) == 0
    assert reading.read() == b"of the parent"
    assert store["b"].value == b"of the parent"
    reading.close()


def test_a_child_does_not_publish_what_its_parent_writes(store: refstore.Store, fs: Any) -> None:
    with fs.open("store/a", "wb") as file:
        file.write(b"one half, ")
        assert helpers.forked(file.close) == 0
        assert "a" not in store
        file.write(b"and the other")
    assert store["a"].value == b"one half, and the other"


def test_a_killed_writer_was_never_there(store: refstore.Store, fs: Any, path: str) -> None:
    fs.pipe("store/a", b"old")
    before = helpers.usage(store)
    with child_process(store) as child:
        child.do(fsspecs.begin, "a")
        child.kill()
    clear_up_after_the_dead(path)
    assert fs.cat("store/a") == b"old"
    assert helpers.usage(store) == before


def test_a_killed_reader_leaves_nothing_pinned(store: refstore.Store, fs: Any, path: str) -> None:
    fs.pipe("store/a", bytes(100_000))
    with child_process(store) as child:
        assert child.do(fsspecs.hold, "a") == 100_000
        fs.rm("store/a")
        assert store.stats().condemned == 1
        child.kill()
    clear_up_after_the_dead(path)
    assert store.stats().used == 0


# -- other libraries


def table() -> Any:
    return pandas.DataFrame({"n": np.arange(1000), "text": [f"row {i}" for i in range(1000)]})


@needed("pandas", "pyarrow")
def test_pandas_writes_and_reads_tables(store: refstore.Store, fs: Any) -> None:
    table().to_parquet("refstore://store/t/table.parquet")
    table().to_csv("refstore://store/t/table.csv.gz", index=False)
    for again in (
        pandas.read_parquet("refstore://store/t/table.parquet"),
        pandas.read_csv("refstore://store/t/table.csv.gz"),
    ):
        pandas.testing.assert_frame_equal(again, table(), check_dtype=False)
    table().assign(part=table().n % 3).to_parquet("refstore://store/parts", partition_cols=["part"])
    assert sorted(fs.ls("store/parts", detail=False)) == [f"store/parts/part={i}" for i in range(3)]
    assert len(pandas.read_parquet("refstore://store/parts")) == 1000
    assert helpers.eventually(lambda: helpers.is_unpinned(store))


@needed("pyarrow")
def test_arrow_reads_without_a_copy(store: refstore.Store, fs: Any) -> None:
    ipc = importlib.import_module("pyarrow.ipc")
    data = pyarrow.table({"n": np.arange(10_000)})
    with fs.open("store/t.arrow", "wb") as file, ipc.new_file(file, data.schema) as writer:
        writer.write_table(data)
    with fs.open("store/t.arrow") as file:
        again = ipc.open_file(file).read_all()
    fs.rm("store/t.arrow")
    helpers.fill_with_junk(store)
    assert again.equals(data)
    (column,) = again["n"].chunks
    assert helpers.lies_in(store.path, column.buffers()[1].address)
    del again, column
    assert store.stats().used == 0


@needed("zarr")
def test_zarr_opens_it_by_its_url(store: refstore.Store, fs: Any, folder: Path) -> None:
    options = {"directory": str(folder)}
    array = zarr.create_array(
        "refstore://store/a.zarr", shape=100, chunks=30, dtype="i4", storage_options=options
    )
    array[:] = np.arange(100)
    again = zarr.open_array("refstore://store/a.zarr", mode="r", storage_options=options)
    assert np.array_equal(again[:], np.arange(100))
    assert np.array_equal(zarrs.opened(store, "a.zarr")[:], np.arange(100))
    array.store.fs.sync_fs.invalidate_cache()
    again.store.fs.sync_fs.invalidate_cache()
    zarrs.end_threads()


def test_numpy_saves_and_loads(store: refstore.Store, fs: Any) -> None:
    data = np.arange(50_000.0).reshape(100, 500)
    with fsspec.open("refstore://store/a.npy", "wb") as file:
        np.save(file, data)
    with fsspec.open("refstore://store/a.npy", "rb") as file:
        assert np.array_equal(np.load(file), data)
    with fsspec.open("refstore://store/a.npz", "wb") as file:
        np.savez(file, data=data)
    with fsspec.open("refstore://store/a.npz", "rb") as file:
        assert np.array_equal(np.load(file)["data"], data)


# -- the module


@needed("pandas", "pyarrow")
def test_the_page_works_as_shown(fs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert page_blocks.run("integrations/fsspec.md") == capsys.readouterr().out.splitlines()


def test_the_example_runs(store: refstore.Store) -> None:
    documented.run_examples("RefstoreFileSystem", ours.RefstoreFileSystem, store)
    ours.RefstoreFileSystem.clear_instance_cache()
