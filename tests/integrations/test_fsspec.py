"""`refstore://STORE/NAME`: what is a file, what is copied, and when it is there."""

from __future__ import annotations

import gc
import gzip
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import byte_objects
import fsspecs
import helpers
import numpy as np
import pytest

import refstore

fsspec: Any = pytest.importorskip("fsspec")
ours: Any = pytest.importorskip("refstore.fsspec")

WRITING: dict[str, Callable[[str], Any]] = {  # ways to open a file for writing, by URL
    "fs.open": lambda url: of(url).open(url, "wb"),
    "fs.open, text": lambda url: of(url).open(url, "w"),
    "fs.open, gzip": lambda url: of(url).open(url, "wb", compression="gzip"),
    "fs.open, gzip, text": lambda url: of(url).open(url, "wt", compression="gzip"),
    "fsspec.open": lambda url: fsspec.open(url, "wb"),
    "fsspec.open, text": lambda url: fsspec.open(url, "wt"),
    "fsspec.open, gzip": lambda url: fsspec.open(url, "wb", compression="gzip"),
}


def of(url: str) -> Any:
    return fsspec.core.url_to_fs(url)[0]


@pytest.fixture
def fs(folder: Path) -> Iterator[Any]:
    with fsspecs.of_users_stores(folder) as fs:
        yield fs


@pytest.fixture
def url(store: refstore.Store, fs: Any) -> str:
    """Of a store, with a slash."""
    return f"refstore://{os.path.basename(store.path)}/"


# -- what is read


def test_a_file_is_the_object_itself(store: refstore.Store, fs: Any, url: str) -> None:
    data = helpers.pattern(1, 10_000)
    store.put(data, name="a/b")
    with fs.open(url + "a/b") as file:
        assert (file.size, file.path, file.info()["ref"]) == (
            10_000,
            "store/a/b",
            store.ref("a/b").hex(),
        )
        whole = file.getbuffer()
        file.seek(100)
        part = file.read_buffer(50)
        assert file.tell() == 150
        rest = file.read_buffer()
        assert file.read() == b""
        assert file.seek(9_990) + len(file.read_buffer(100)) == file.tell() == 10_000
        assert file.read_buffer(7) == b""
    for view, expected in ((whole, data), (part, data[100:150]), (rest, data[150:])):
        assert view == expected
        assert view.readonly
        assert helpers.lies_in(store.path, helpers.address(np.frombuffer(view, "u1")))


def test_it_stays_what_it_is_while_it_is_open(store: refstore.Store, fs: Any, url: str) -> None:
    store.put(b"old" * 10_000, name="a")
    file = fs.open(url + "a")
    store.put(b"new", name="a", replace=True)
    helpers.fill_with_junk(store)
    assert file.read() == b"old" * 10_000
    view = file.getbuffer()[:3]
    file.close()
    helpers.fill_with_junk(store)
    assert view == b"old"
    del view
    assert store.stats().condemned == 0
    for use in (file.getbuffer, file.read_buffer, file.read, file.tell):
        with pytest.raises(ValueError, match=r"closed"):
            use()


def test_it_is_a_file_like_any_other(store: refstore.Store, fs: Any, url: str) -> None:
    data = b"\n".join(helpers.pattern(i, 300) for i in range(100))
    store.put(data, name="a")
    model = io.BytesIO(data)
    with fs.open(url + "a") as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        for call, *arguments in (
            ("read", 10),
            ("readline",),
            ("seek", -700, os.SEEK_END),
            ("readline",),
            ("read",),
            ("seek", 12),
            ("seek", 3000, os.SEEK_CUR),
            ("readlines", 2000),
            ("read1", 50),
            ("tell",),
            ("seek", 10**9),
            ("read", 5),
            ("seek", 0),
            ("readinto", bytearray(20_000)),
            ("read", 20_000),
        ):
            asked = [bytearray(one) if type(one) is bytearray else one for one in arguments]
            assert getattr(file, call)(*arguments) == getattr(model, call)(*asked)
            assert arguments == asked
            assert file.tell() == model.tell()
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with fs.open(url + "a", "r", encoding="latin-1", newline="\n") as text:
        assert [line.encode("latin-1") for line in text] == io.BytesIO(data).readlines()


@pytest.mark.parametrize(("start", "end"), [(None, None), (3, None), (2, 5), (-4, -1), (5, 100)])
def test_a_range_is_that_of_a_slice(
    store: refstore.Store, fs: Any, url: str, start: int | None, end: int | None
) -> None:
    store.put(b"0123456789", name="a")
    assert fs.cat_file(url + "a", start, end) == b"0123456789"[start:end]
    assert fs.cat_ranges([url + "a"], start, end) == [b"0123456789"[start:end]]


# -- what is written


@pytest.mark.parametrize("way", WRITING)
def test_a_file_is_there_when_it_is_closed(
    store: refstore.Store, fs: Any, url: str, way: str
) -> None:
    store.put(b"old", name="a")
    with WRITING[way](url + "a") as file:
        file.write("new" if "text" in way else b"new")
        file.flush()
        assert store["a"].value == b"old"
    data = bytes(store["a"])
    assert (gzip.decompress(data) if "gzip" in way else data) == b"new"
    assert store.stats().objects == 1


@pytest.mark.parametrize("way", WRITING)
def test_an_exception_that_leaves_the_block_discards_it(
    store: refstore.Store, fs: Any, url: str, way: str
) -> None:
    store.put(b"old", name="a")
    before = helpers.usage(store)

    def write() -> None:
        with WRITING[way](url + "a") as file:
            file.write("x" * 100_000 if "text" in way else bytes(100_000))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert store["a"].value == b"old"
    assert helpers.usage(store) == before


def test_what_is_closed_while_an_exception_is_handled_is_there(
    store: refstore.Store, fs: Any, url: str
) -> None:
    kept = fs.open(url + "kept", "wb")
    try:
        with fsspec.open(url + "discarded", "wb"):
            raise KeyError
    except KeyError:
        kept.close()
        with fsspec.open(url + "report", "wb") as file:
            file.write(b"KeyError")
    assert sorted(store.names()) == ["kept", "report"]


def test_a_file_that_nobody_closes_is_there_when_it_is_collected(
    store: refstore.Store, fs: Any, url: str
) -> None:
    for way in ("fs.open", "fs.open, text", "fs.open, gzip", "fs.open, gzip, text"):
        WRITING[way](url + way).write("new" if "text" in way else b"new")
    gc.collect()
    assert sorted(store.names()) == [
        "fs.open",
        "fs.open, gzip",
        "fs.open, gzip, text",
        "fs.open, text",
    ]
    assert store["fs.open, text"].value == b"new"
    assert gzip.decompress(bytes(store["fs.open, gzip, text"])) == b"new"


def test_an_exception_of_another_file_is_none_of_its_own(
    store: refstore.Store, fs: Any, url: str
) -> None:
    class Closer(io.BytesIO):
        def close(self) -> None:
            if not inner.closed:
                inner.close()
            super().close()

    inner = fs.open(url + "inner", "wb")
    outer = fsspec.open(url + "outer", "wb")

    def fail() -> None:
        with outer:
            outer.fobjects.append(Closer())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.names() == ["inner"]


def test_it_has_all_that_was_written_as_it_was(store: refstore.Store, fs: Any, url: str) -> None:
    pieces = [b"x", helpers.pattern(1, 70_000), b"y" * 10, helpers.pattern(2, 65_536), b""]
    changing = bytearray(b"z" * 80_000)
    array: Any = np.arange(10.0)
    with fs.open(url + "a", "wb") as file:
        assert [file.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
        assert file.write(changing) == 80_000
        changing[:] = bytes(80_000)
        assert file.write(memoryview(array)) == 80
        assert file.tell() == sum(map(len, pieces)) + 80_080
        assert not file.seekable()
        with pytest.raises(io.UnsupportedOperation):
            file.read()
    assert bytes(store["a"]) == b"".join(pieces) + b"z" * 80_000 + array.tobytes()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")


def test_it_is_made_by_one_if_that_was_asked_for(store: refstore.Store, fs: Any, url: str) -> None:
    def write(name: str) -> None:
        with fs.open(url + name, "xb") as file:
            store.put(b"of another process", name=name)
            file.write(b"ours")

    with pytest.raises(FileExistsError):
        write("a")
    assert store["a"].value == b"of another process"
    with pytest.raises(FileExistsError):
        fs.open(url + "a", "xt")
    with pytest.raises(FileExistsError):
        fs.put_file(__file__, url + "a", mode="create")
    assert len(store) == 1


def test_what_is_appended_comes_after_what_was_there(
    store: refstore.Store, fs: Any, url: str
) -> None:
    for _ in range(2):
        with fs.open(url + "log", "a") as file:
            file.write("line\n")
    assert store["log"].value == b"line\nline\n"
    assert store.stats().used == store.info("log").block_nbytes


def test_a_transaction_publishes_all_or_nothing(store: refstore.Store, fs: Any, url: str) -> None:
    with fs.transaction:
        fs.pipe(url + "a", b"1")
        fs.put_file(__file__, url + "b")
        with fs.open(url + "c", "wb") as file:
            file.write(b"3")
        with pytest.raises(KeyError), fs.open(url + "d", "wb"):
            raise KeyError
        assert len(store) == 0
    assert sorted(store.names()) == ["a", "b", "c"]

    def fail() -> None:
        with fs.transaction:
            fs.pipe(url + "a", b"2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store["a"].value == b"1"


def test_a_file_that_does_not_fit_leaves_the_old_one(
    store: refstore.Store, fs: Any, url: str
) -> None:
    store.put(b"old", name="a")
    before = helpers.usage(store)
    file = fs.open(url + "a", "wb")
    file.write(bytes(store.capacity))
    with pytest.raises(refstore.StoreFullError):
        file.close()
    assert file.closed
    with pytest.raises(refstore.StoreFullError):
        fs.pipe(url + "a", bytes(store.capacity))
    assert helpers.usage(store) == before
    assert store["a"].value == b"old"


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128])
def test_a_name_that_no_object_can_have_is_refused_at_once(fs: Any, url: str, name: str) -> None:
    assert not fs.exists(url + name)
    with pytest.raises(FileNotFoundError):
        fs.open(url + name)
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        fs.open(url + name, "wb")
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        fs.pipe(url + name, b"")
    with pytest.raises(ValueError, match="the mode r, w, x or a"):
        fs.open(url + "a", "r+b")


def test_a_local_file_is_read_into_the_store(
    store: refstore.Store, fs: Any, url: str, tmp_path: Path
) -> None:
    data = helpers.pattern(1, 9 << 20)
    (tmp_path / "local").write_bytes(data)
    fs.put(str(tmp_path / "local"), url + "a/b")
    assert bytes(store["a/b"]) == data
    fs.get(url + "a/b", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == data
    assert helpers.eventually(lambda: helpers.is_unpinned(store))


def test_a_local_file_that_becomes_shorter_is_what_is_left(
    store: refstore.Store, fs: Any, url: str, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x" * 100)

    class Callback(fsspec.callbacks.Callback):  # type: ignore[misc]
        def set_size(self, size: int) -> None:
            os.truncate(local, 30)

    fs.put_file(str(local), url + "a", callback=Callback())
    assert store["a"].value == b"x" * 30


# -- what is there


def test_folders_are_what_names_have_before_a_slash(
    store: refstore.Store, fs: Any, url: str
) -> None:
    names = ["top", "a/1", "a/b/2", "a/b/3", "ab/4", "odd//5", "no file/"]
    store.put_many([b"xy"] * len(names), names=names)
    assert sorted(fs.ls(url, detail=False)) == [
        *("store/a", "store/ab", "store/no file", "store/odd", "store/top"),
    ]
    assert fs.ls(url + "a", detail=False) == ["store/a/1", "store/a/b"]
    assert fs.ls(url + "odd", detail=False) == ["store/odd//5"]
    assert fs.ls(url + "top", detail=False) == ["store/top"]
    assert fs.ls(url + "no file") == []
    assert fs.find(url + "a", withdirs=True) == [
        *("store/a", "store/a/1", "store/a/b", "store/a/b/2", "store/a/b/3"),
    ]
    assert fs.find(url, maxdepth=1) == ["store/top"]
    assert fs.find(url + "top") == ["store/top"]
    assert fs.find(url + "absent") == []
    assert fs.glob(url + "a/**/[23]") == ["store/a/b/2", "store/a/b/3"]
    assert [folder for folder, _, _ in fs.walk(url + "a")] == ["store/a", "store/a/b"]
    assert fs.du(url + "a") == 6
    assert fs.cat(url + "odd//5") == b"xy"
    assert fs.isdir(url)
    assert fs.isdir(url + "a")
    assert not fs.isfile(url + "no file/")
    with pytest.raises(ValueError, match="at least 1"):
        fs.find(url, maxdepth=0)


def test_objects_of_other_kinds_are_no_files(store: refstore.Store, fs: Any, url: str) -> None:
    store.put(np.ones(3), name="a/array")
    with store.create(3, name="a/claimed", claim=True) as writer:
        assert fs.find(url) == []
        assert fs.ls(url) == []
        assert not fs.exists(url + "a")
        writer.abort()
    for use in (fs.info, fs.cat, fs.open, fs.rm_file, fs.ls):
        with pytest.raises(FileNotFoundError, match="kind 'bytes'"):
            use(url + "a/array")
    fs.rm(url, recursive=True)
    assert store.names() == ["a/array"]


def test_a_description_tells_one_version_from_another(
    store: refstore.Store, fs: Any, url: str
) -> None:
    fs.pipe(url + "a", b"abc")
    info, key, checksum = fs.info(url + "a"), fs.ukey(url + "a"), fs.checksum(url + "a")
    assert info == {
        "name": "store/a",
        "size": 3,
        "type": "file",
        "created": store.info("a").created,
        "mtime": store.info("a").created,
        "ref": store.ref("a").hex(),
    }
    assert fs.ls(url + "a") == fs.ls(url) == [info]
    assert abs(fs.modified(url + "a").timestamp() - time.time()) < helpers.BUSY_TIMEOUT
    assert fs.created(url + "a").tzinfo is not None
    fs.touch(url + "a", truncate=False)
    assert fs.cat(url + "a") == b"abc"
    assert fs.ukey(url + "a") != key
    assert fs.checksum(url + "a") != checksum
    fs.touch(url + "a")
    assert fs.size(url + "a") == 0
    with pytest.raises(IsADirectoryError):
        fs.ukey(url)


def test_files_are_moved_and_deleted(store: refstore.Store, fs: Any, url: str) -> None:
    store.put_many([b"1", b"2", b"3"], names=["a/1", "a/b/2", "c"])
    fs.mv(url + "c", "store/c")
    fs.mv(url + "a", url + "d", recursive=True)
    assert sorted(store.names()) == ["c", "d/1", "d/b/2"]
    with pytest.raises(IsADirectoryError, match="recursive=True"):
        fs.rm(url + "d")
    with pytest.raises(FileNotFoundError):
        fs.rm(url + "absent")
    with pytest.raises(OSError, match="files below"):
        fs.rmdir(url + "d")
    fs.rm(url + "d", recursive=True, maxdepth=1)
    assert sorted(store.names()) == ["c", "d/b/2"]
    fs.rm([url + "c", url + "d"], recursive=True)
    assert store.names() == []


def test_folders_need_not_be_made(fs: Any, url: str) -> None:
    fs.mkdir(url + "a")
    fs.makedirs(url + "a/b", exist_ok=True)
    fs.rmdir(url + "a")
    assert not fs.exists(url + "a")
    fs.pipe(url + "a/b", b"")
    fs.makedirs(url + "a", exist_ok=True)
    for make, name, options in (
        (fs.mkdir, "a", {}),
        (fs.makedirs, "a", {}),
        (fs.makedirs, "a/b", {"exist_ok": True}),
    ):
        with pytest.raises(FileExistsError):
            make(url + name, **options)
    for write, argument in ((fs.pipe, b""), (fs.open, "wb")):
        with pytest.raises(IsADirectoryError, match="refstore://STORE/NAME"):
            write("store", argument)


def test_a_file_that_is_written_meanwhile_is_not_deleted(
    store: refstore.Store, fs: Any, url: str
) -> None:
    store.put(b"old", name="a")
    with byte_objects.replaced_when_found(b"new"):
        fs.rm_file(url + "a")
    assert store["a"].value == b"new"
