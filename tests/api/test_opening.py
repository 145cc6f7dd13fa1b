"""Opening: create, attach, both; options that agree, disagree, or make no sense."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore import _paths
from refstore.engines.choice import load

MakeStore = Callable[..., refstore.Store]

MIB = 2**20


# -- create and attach ------------------------------------------------------------------------


def test_true_creates_and_then_refuses(make_store: MakeStore, path: str) -> None:
    make_store()["n"] = b"kept"
    with pytest.raises(FileExistsError, match="store"):
        refstore.Store(path, capacity="1MiB", create=True)
    with refstore.Store(path, create=False) as store:
        assert bytes(store["n"]) == b"kept"


def test_false_refuses_what_is_not_there(folder: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match="store"):
        refstore.Store(path, create=False)
    assert list(folder.iterdir()) == []


def test_none_creates_and_then_attaches(make_store: MakeStore, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as first:
        first["n"] = b"kept"
        with refstore.Store(path, capacity="1MiB") as second:
            assert bytes(second["n"]) == b"kept"
        with refstore.Store(path) as third:
            assert third.capacity == MIB
        first.unlink()


def test_a_store_has_a_name_and_what_tells_it_from_a_later_one(
    make_store: MakeStore, path: str
) -> None:
    store = make_store()
    assert store.name == os.path.basename(path)
    with refstore.Store(path) as same, refstore.Store.temporary("1MiB") as other:
        assert same.uuid == store.uuid != other.uuid
        assert len(store.uuid) == 16
    first = store.uuid
    store.unlink()
    store.close()
    with refstore.Store(path, capacity="1MiB") as later:
        assert later.uuid != first
        later.unlink()
    for what in ("name", "uuid"):
        with pytest.raises(ValueError, match="closed"):
            getattr(store, what)


def test_objects_stay_in_the_file_when_everyone_has_gone(make_store: MakeStore, path: str) -> None:
    store = make_store()
    ref = store.put(b"unnamed")
    store["n"] = helpers.pattern(1, 100_000)
    store.close()
    with refstore.Store(path, create=False) as again:
        assert bytes(again.get(ref)) == b"unnamed"
        assert bytes(again["n"]) == helpers.pattern(1, 100_000)
        assert again.stats().processes == 1


def test_a_store_on_a_disk_works(tmp_path: Path) -> None:
    with refstore.Store(str(tmp_path / "s"), capacity="4MiB") as store:
        store["n"] = helpers.pattern(1, 100_000)
        assert bytes(store["n"]) == helpers.pattern(1, 100_000)
        with store.get("n", writable=True) as buf:
            memoryview(buf)[:] = bytes(100_000)
        del store["n"]
        helpers.assert_full_capacity_fits(store)
        assert store.check() == []
        store.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_one_file_wherever_one_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    store = refstore.Store("./relative", capacity="1MiB")
    monkeypatch.chdir("/")
    store["n"] = b"x"
    with refstore.Store(str(folder / "relative"), create=False) as other:
        assert bytes(other["n"]) == b"x"
    store.unlink()
    store.close()
    assert list(folder.iterdir()) == []


@pytest.fixture
def plain_name() -> Iterator[str]:
    """A plain name that nobody uses, gone afterwards."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex}"
    yield name
    assert not (helpers.SHARED_MEMORY / f"refstore-{os.getuid()}" / name).exists()


@pytest.mark.skipif(not helpers.SHARED_MEMORY.is_dir(), reason="needs /dev/shm")
def test_a_plain_name_lies_in_the_users_folder(plain_name: str) -> None:
    home = helpers.SHARED_MEMORY / f"refstore-{os.getuid()}"
    with refstore.Store(plain_name, capacity="1MiB", create=True) as store:
        try:
            assert (home / plain_name).is_file()
            assert stat.S_IMODE(home.stat().st_mode) == 0o700
            store["n"] = b"x"
            with refstore.Store(plain_name, create=False) as other:
                assert bytes(other["n"]) == b"x"
        finally:
            store.unlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_the_mode_is_the_files_whatever_the_umask(
    make_store: MakeStore, path: str, mode: int
) -> None:
    old = os.umask(0o077)
    try:
        make_store(mode=mode)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_the_default_mode_is_private(store: refstore.Store, path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_large_capacity_costs_nothing_until_used(make_store: MakeStore, path: str) -> None:
    store = make_store("1TiB", max_objects=4096)
    assert store.capacity == 2**40
    assert os.stat(path).st_blocks * 512 < 16 * MIB
    store["n"] = b"x" * 1000
    assert bytes(store["n"]) == b"x" * 1000
    assert os.stat(path).st_blocks * 512 < 32 * MIB


def test_the_default_capacity_is_free_to_have(folder: Path, path: str) -> None:
    with refstore.Store(path) as store:
        assert store.capacity > MIB
        assert os.stat(path).st_blocks * 512 < 256 * MIB
        store["n"] = b"x"
        store.unlink()


def test_unlink_takes_the_name_and_leaves_the_store_usable(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as store:
        store["n"] = b"x"
        store.unlink()
        assert helpers.stores(folder) == []
        assert bytes(store["n"]) == b"x"
        store["m"] = b"y" * 100_000
        assert bytes(store["m"]) == b"y" * 100_000
        assert store.check() == []


def test_unlink_spares_a_store_that_took_the_place(folder: Path, path: str) -> None:
    with refstore.Store(path, capacity="1MiB") as first:
        helpers.remove(path)
        with refstore.Store(path, capacity="1MiB", create=True) as second:
            second["n"] = b"second"
            with pytest.raises((FileNotFoundError, refstore.RefstoreError)):
                first.unlink()
            assert os.path.exists(path)
            second.unlink()
    assert list(folder.iterdir()) == []


# -- capacity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("100B", 100),
        ("3KiB", 3072),
        ("2MiB", 2 * MIB),
        ("1GiB", 2**30),
        ("1TiB", 2**40),
        ("5kB", 5000),
        ("5KB", 5000),
        ("7MB", 7_000_000),
        ("1GB", 10**9),
        ("2 MiB", 2 * MIB),
        ("2mib", 2 * MIB),
        ("1.5MiB", 3 * MIB // 2),
    ],
)
def test_a_capacity_can_be_text(make_store: MakeStore, text: str, size: int) -> None:
    assert make_store(text, max_objects=64).capacity == size


@pytest.mark.parametrize(
    "capacity",
    [0, -1, -(2**40), "0", "0MiB", "-1MiB", "", "MiB", "12XB", "many", "1MiBs", "1 2MiB", "nan"],
)
def test_a_capacity_that_is_none_is_a_value_error(
    folder: Path, path: str, capacity: int | str
) -> None:
    with pytest.raises(ValueError, match="capacity"):
        refstore.Store(path, capacity=capacity)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("capacity", [1.5, b"1MiB", [1], object()])
def test_a_capacity_of_another_type_is_refused(folder: Path, path: str, capacity: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="capacity"):
        refstore.Store(path, capacity=capacity)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("capacity", [2**62, 2**63 - 1, 2**63, 2**64, 2**100, "999999999TiB"])
def test_an_absurd_capacity_is_refused(folder: Path, path: str, capacity: int | str) -> None:
    with pytest.raises((ValueError, OSError)):
        refstore.Store(path, capacity=capacity, max_objects=64)
    assert list(folder.iterdir()) == []


# -- other options ----------------------------------------------------------------------------


@pytest.mark.parametrize("max_objects", [0, -1, -(2**40)])
def test_max_objects_below_one_is_a_value_error(folder: Path, path: str, max_objects: int) -> None:
    with pytest.raises(ValueError, match="max_objects"):
        refstore.Store(path, capacity="1MiB", max_objects=max_objects)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("max_objects", [2**32, 2**33, 2**60, 2**64, 2**100])
def test_an_absurd_max_objects_is_refused(folder: Path, path: str, max_objects: int) -> None:
    with pytest.raises((ValueError, OSError)):
        refstore.Store(path, capacity="1MiB", max_objects=max_objects)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("options", [{"backend": "postgres"}, {"evict": "random"}], ids=str)
def test_an_unknown_option_is_a_value_error(
    folder: Path, path: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        refstore.Store(path, capacity="1MiB", **options)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [-1, 0, 0o400, 0o200, 0o066, 0o1600, 0o4700, 1 << 20, 1 << 70])
def test_a_mode_that_keeps_its_owner_out_is_a_value_error(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with pytest.raises(ValueError, match=r"mode is .*: .* as with 0o600"):
        refstore.Store(path, capacity="1MiB", mode=mode)
    with pytest.raises(ValueError, match=r"mode is .*: .* as with 0o600"):
        refstore.Store.temporary("1MiB", mode=mode)
    assert list(folder.iterdir()) == []


NO_NUMBERS: list[Any] = ["600", 6.0, b"5", [5], True]


@pytest.mark.parametrize("what", ["mode", "max_objects"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_a_type_error(
    folder: Path, path: str, what: str, value: object
) -> None:
    options: dict[str, Any] = {what: value}
    with pytest.raises(TypeError, match=f"{what} is .*: give an int such as") as caught:
        refstore.Store(path, capacity="1MiB", **options)
    assert type(value).__name__ in str(caught.value)
    assert list(folder.iterdir()) == []


def test_numbers_of_numpy_are_numbers(path: str) -> None:
    options: dict[str, Any] = {
        "capacity": np.int64(500_000),
        "max_objects": np.int64(5),
        "mode": np.uint16(0o640),
    }
    with refstore.Store(path, **options) as store:
        assert (store.capacity, store.max_objects) == (500_000, 5)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        refstore.Store(path, **options).close()
        with pytest.raises(ValueError, match="has max_objects 5, and 6 was asked for"):
            refstore.Store(path, max_objects=np.int64(6))
        store.unlink()


def test_the_largest_capacity_is_the_engines(
    path: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refstore.Store(path, capacity="8TiB", max_objects=10) as store:
        assert store.capacity == _paths.MAX_CAPACITY
        store.unlink()
    with pytest.raises(ValueError, match="a store holds 8 TiB"):
        refstore.Store(path, capacity=_paths.MAX_CAPACITY + 1)
    with pytest.raises(ValueError, match="capacity is"):
        load(engine).make_file(path, _paths.MAX_CAPACITY + 1, 10, 0o600, False, None)


def test_a_backend_can_be_asked_for(make_store: MakeStore, path: str, engine: str) -> None:
    make_store(backend=engine)["n"] = b"x"
    backends: list[Any] = ["auto", engine]
    for backend in backends:
        with refstore.Store(path, create=False, backend=backend) as store:
            assert bytes(store["n"]) == b"x"


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "x" * 256, "/", "./"])
def test_a_bad_store_name_is_a_value_error(name: str) -> None:
    with pytest.raises((ValueError, IsADirectoryError)):
        refstore.Store(name, capacity="1MiB")


@pytest.mark.parametrize("name", [5, None, b"bytes", ["x"]])
def test_a_store_name_of_another_type_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError):
        refstore.Store(name, capacity="1MiB")


def test_a_folder_that_is_not_there_is_not_made(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        refstore.Store(str(folder / "none" / "s"), capacity="1MiB")
    assert list(folder.iterdir()) == []


# -- attaching with options -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 16 * MIB},
        {"capacity": "16MiB"},
        {"max_objects": 500},
        {"capacity": "16MiB", "max_objects": 500, "evict": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("shared", [True, False], ids=["attached", "alone"])
def test_options_that_agree_attach(
    make_store: MakeStore, path: str, options: dict[str, Any], shared: bool
) -> None:
    first = make_store(max_objects=500)
    if not shared:
        first.close()
    with refstore.Store(path, **options) as store:
        assert (store.capacity, store.max_objects, store.evict) == (16 * MIB, 500, None)


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 16 * MIB + 1},
        {"capacity": "1MiB"},
        {"max_objects": 499},
        {"capacity": "16MiB", "max_objects": 501},
        {"evict": "lru"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shared", [True, False], ids=["attached", "alone"])
def test_options_that_differ_are_a_value_error(
    make_store: MakeStore, path: str, options: dict[str, Any], shared: bool
) -> None:
    first = make_store(max_objects=500)
    first["n"] = b"kept"
    if not shared:
        first.close()
    differing = "evict" if "evict" in options else next(reversed(options))
    with pytest.raises(ValueError, match=differing):
        refstore.Store(path, **options)
    with refstore.Store(path, create=False) as store:
        assert bytes(store["n"]) == b"kept"


# -- several stores in one process ------------------------------------------------------------


def test_several_stores_on_one_file_share_an_attachment(make_store: MakeStore, path: str) -> None:
    first = make_store()
    maps = len(helpers.mappings(path))
    others = [refstore.Store(path, create=False) for _ in range(10)]
    assert first.stats().processes == 1
    assert len(helpers.mappings(path)) == maps
    ref = others[3].put(b"x" * 1000)
    with first.get(ref), others[5].get(ref):
        assert others[9].refcount(ref) == 3
    first.close()
    assert bytes(others[0].get(ref)) == b"x" * 1000
    for other in others:
        other.close()
    assert helpers.mappings(path) == []


def test_closing_one_store_does_not_close_another(make_store: MakeStore, path: str) -> None:
    first = make_store()
    with refstore.Store(path, create=False) as second:
        second["n"] = b"x"
    assert bytes(first["n"]) == b"x"
    with pytest.raises(ValueError, match="closed"):
        second.get("n")


def test_another_path_to_the_file_is_the_same_store(make_store: MakeStore, folder: Path) -> None:
    store = make_store()
    os.link(folder / "store", folder / "link")
    try:
        with refstore.Store(str(folder / "link"), create=False) as other:
            other["n"] = b"x"
            assert bytes(store["n"]) == b"x"
            assert store.stats().processes == 1
    finally:
        os.unlink(folder / "link")


def test_stores_on_different_files_are_apart(make_store: MakeStore) -> None:
    one, two = make_store(name="one"), make_store(name="two")
    one["n"] = b"one"
    assert "n" not in two
    two["n"] = b"two"
    assert (bytes(one["n"]), bytes(two["n"])) == (b"one", b"two")


def test_opening_and_closing_leaks_nothing(folder: Path, path: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(50):
        with refstore.Store(path, capacity="1MiB", create=True) as store:
            store["n"] = b"x"
            store.unlink()
    assert descriptors() == before
    assert helpers.mappings(folder) == []


def test_a_failed_open_leaks_nothing(folder: Path, path: str) -> None:
    (folder / "store").write_bytes(b"no store" * 10_000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(refstore.StoreCorruptedError):
            refstore.Store(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert helpers.mappings(folder) == []
    os.unlink(path)


def test_a_dropped_store_detaches(folder: Path, path: str) -> None:
    store = refstore.Store(path, capacity="1MiB")
    store.unlink()
    del store
    assert helpers.mappings(folder) == []
