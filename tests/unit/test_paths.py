"""Names to paths, text to capacities, and who may own the folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refstore import _paths


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /dev/shm."""
    monkeypatch.delenv("REFSTORE_DIR", raising=False)
    monkeypatch.setattr(_paths, "_shared_memory", lambda: str(tmp_path))
    return tmp_path


def own(shared: Path) -> Path:
    return shared / f"refstore-{os.geteuid()}"


# --- sizes


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [
        (1, 1),
        (np.int64(4096), 4096),
        ("4096", 4096),
        ("1b", 1),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        (" 1GB ", 10**9),
        ("1.5 GiB", 3 << 29),
        ("0.3KiB", 307),
        ("1TiB", 1 << 40),
        (1 << 43, 1 << 43),
        ("8TiB", 1 << 43),
    ],
)
def test_a_size_is_read(value: Any, nbytes: int) -> None:
    assert _paths.parse_capacity(value) == nbytes


@pytest.mark.parametrize(
    "value",
    [0, -1, True, False, 1.5, None, b"1", "", "0", "-5", "1e9", "64M", "1 XB", "1.", "nan", "٣"],
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="capacity"):
        _paths.parse_capacity(value)


@pytest.mark.parametrize("value", [(1 << 43) + 1, (1 << 46) + 1, "9TiB", "65TiB", "9" * 30])
def test_a_size_past_the_format_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"too large: a store holds 8 TiB \(8796093022208 bytes\)"):
        _paths.parse_capacity(value)


def test_the_default_capacity_is_half_of_the_smallest_limit(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limits(*sizes: int) -> int:
        monkeypatch.setattr(_paths, "memory_limits", lambda: iter(sizes[:-1]))
        monkeypatch.setattr(_paths, "_file_system_size", lambda folder: iter(sizes[-1:]))
        return _paths.default_capacity(str(shared))

    assert limits(8 << 30, 4 << 30, 2 << 30) == 1 << 30
    assert limits(8 << 30, 1 << 30, 2 << 30) == 1 << 29
    assert limits((8 << 30) + 6000, 9 << 30) == 4 << 30  # whole pages
    assert limits(1 << 20, 1 << 30) == 64 << 20
    assert limits() == 64 << 20
    assert limits(1 << 60) == 1 << 43


def test_the_default_capacity_without_a_folder_is_of_memory() -> None:
    assert _paths.default_capacity("/nowhere/at all") >= 64 << 20


def test_a_file_system_without_a_size_sets_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paths, "memory_limits", lambda: iter([8 << 30]))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0))
    assert _paths.default_capacity(str(tmp_path)) == 4 << 30


def size_of_file(capacity: int, max_objects: int) -> int:
    return capacity + 4096 * max_objects


@pytest.mark.parametrize("space", [8 << 30, 1 << 30, 100 << 20, 40 << 20])
def test_the_default_size_fits_into_the_address_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int
) -> None:
    monkeypatch.setattr(_paths, "free_address_space", lambda: space)

    def file_nbytes(capacity: int | None, max_objects: int | None) -> int:
        made = _paths.default_size(str(tmp_path), capacity, max_objects, size_of_file)
        assert capacity in (None, made[0])
        assert max_objects in (None, made[1])
        return size_of_file(*made)

    assert 2 * file_nbytes(None, None) <= space
    assert 4 * file_nbytes(None, None) <= space or space < 1 << 30, "there is room for another"
    assert 2 * file_nbytes(None, 1000) <= space
    assert 2 * file_nbytes(space // 16, None) <= space
    assert 2 * file_nbytes(space // 4, None) <= space * 3 // 4 or space < 1 << 30, "some is left"
    assert file_nbytes(space, 2000) > space, "what was asked for stays"


def test_the_default_size_without_a_limit_is_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paths, "free_address_space", lambda: None)
    capacity = _paths.default_capacity(str(tmp_path))
    made = _paths.default_size(str(tmp_path), None, None, size_of_file)
    assert made == (capacity, _paths.default_max_objects(capacity))


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/a/b", {"a/b/memory.max": "2000", "a/memory.max": "1000"}, [2000, 1000]),
        ("0::/a/b", {"memory.max": "3000"}, [3000]),  # a container sees its own group as the root
        ("0::/a", {"a/memory.max": "max"}, []),
        ("0::/", {}, []),
        ("4:cpu,memory:/c", {"memory/c/memory.limit_in_bytes": "5000"}, [5000]),
        ("3:cpuset:/c", {"memory/c/memory.limit_in_bytes": "5000"}, []),
    ],
)
def test_limits_of_control_groups_are_honoured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    files: dict[str, str],
    expected: list[int],
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text(group + "\n")
    monkeypatch.setattr(_paths, "_OWN_GROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(_paths, "_GROUPS", str(tmp_path))
    _, *limits = _paths.memory_limits()  # the first is the RAM
    assert limits == expected


@pytest.mark.parametrize(
    ("capacity", "objects"), [(1, 4096), (1 << 26, 1 << 16), (1 << 30, 1 << 20), (1 << 43, 1 << 20)]
)
def test_the_default_number_of_objects_follows_the_capacity(capacity: int, objects: int) -> None:
    assert _paths.default_max_objects(capacity) == objects


# --- names


@pytest.mark.parametrize("name", ["a", "train", "with space", "ünïcode", "...", "x" * 200])
def test_a_plain_name_lies_in_the_users_folder(shared: Path, name: str) -> None:
    assert _paths.store_path(name) == str(own(shared) / name)
    assert own(shared).stat().st_mode & 0o777 == 0o700


def test_a_name_with_a_separator_is_a_path(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _paths.store_path("./here") == str(tmp_path / "here")
    assert _paths.store_path("/abs/../there") == "/there"
    assert _paths.store_path(Path("here")) == str(tmp_path / "here")
    assert not own(shared).exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "a/", "a/..", "/", "x" * 201, "é" * 101])
def test_what_can_name_no_store_is_refused(shared: Path, name: str) -> None:
    with pytest.raises(ValueError, match="store"):
        _paths.store_path(name)


@pytest.mark.parametrize("character", [*"\n\r\t\x01\x1b\x7f\x85\u2028\u2029"], ids=ascii)
def test_a_name_that_would_break_a_line_is_refused(shared: Path, character: str) -> None:
    for name in (f"a{character}b", f"./a{character}", f"/tmp/{character}"):
        with pytest.raises(ValueError, match="control characters") as caught:
            _paths.store_path(name)
        assert character not in str(caught.value)
    folder = f"/tmp/a{character}b"  # which is its user's own affair
    assert _paths.store_path(f"{folder}/store") == f"{folder}/store"


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        _paths.check_name("\ud800")


@pytest.mark.parametrize("name", [3, None, b"bytes", ["list"]])
def test_a_name_of_another_type_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="str"):
        _paths.check_name(name)


def test_temporary_names_differ_and_are_good_names() -> None:
    names = {_paths.temporary_name() for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.startswith(_paths.TEMPORARY_PREFIX)
        assert _paths.check_name(name) == name


# --- the folder


def test_a_folder_that_is_not_wanted_is_not_made(shared: Path) -> None:
    assert _paths.store_folder(create=False) == str(own(shared))
    assert not own(shared).exists()


def test_a_folder_open_to_others_is_refused(shared: Path) -> None:
    own(shared).mkdir()
    own(shared).chmod(0o755)
    with pytest.raises(PermissionError, match="chmod 700"):
        _paths.store_path("a")


def test_a_link_in_place_of_the_folder_is_refused(shared: Path) -> None:
    (shared / "elsewhere").mkdir(mode=0o700)
    own(shared).symlink_to(shared / "elsewhere")
    with pytest.raises(PermissionError, match="not a directory"):
        _paths.store_path("a")


def test_a_file_in_place_of_the_folder_is_refused(shared: Path) -> None:
    own(shared).touch()
    with pytest.raises(PermissionError, match="not a directory"):
        _paths.store_path("a")


def test_a_folder_of_another_user_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(_paths.store_folder())
    someone = os.geteuid() + 1
    monkeypatch.setattr(_paths, "_own_folder", lambda: folder.name)
    monkeypatch.setattr(_paths, "_uid", lambda: someone)
    with pytest.raises(PermissionError, match=f"not to you \\({someone}\\)"):
        _paths.store_path("a")


def test_the_folder_can_be_chosen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = shared / "chosen"
    monkeypatch.setenv("REFSTORE_DIR", str(chosen))
    assert _paths.store_path("a") == str(chosen / "a")
    assert chosen.stat().st_mode & 0o777 == 0o700
    chosen.chmod(0o755)
    assert _paths.store_path("a") == str(chosen / "a")
    chosen.chmod(0o1777)  # as /tmp
    assert _paths.store_path("a") == str(chosen / "a")
    chosen.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod 700"):
        _paths.store_path("a")


@pytest.mark.parametrize("writable", [True, False])
def test_without_shared_memory_the_next_best_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(_paths, "_SHARED_MEMORY", str(tmp_path / "absent"))
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    assert _paths._shared_memory() == (str(tmp_path) if writable else tempfile.gettempdir())


def test_a_system_without_user_numbers_uses_the_users_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REFSTORE_DIR", raising=False)
    monkeypatch.setattr(_paths, "_shared_memory", lambda: str(tmp_path))
    monkeypatch.delattr(os, "geteuid")
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    assert _paths.store_path("a") == str(tmp_path / "refstore-anna" / "a")
