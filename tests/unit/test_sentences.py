"""The sentences of errors that need no store to be said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refstore import _full_messages, _limits, _messages

NOBODY_HOLDS = _full_messages.Room(100, 50, 40, 0, 0, 0)


@pytest.mark.parametrize("number", sorted(_messages._OF_PATHS))
def test_each_sentence_keeps_the_number_and_the_path(number: int) -> None:
    told = _messages.of_path("/no/such", OSError(number, os.strerror(number), "/no"))
    assert (told.errno, told.filename) == (number, "/no/such")
    assert type(told) is type(OSError(number, ""))
    assert len(str(told.strerror).split()) > 5


def test_a_file_system_without_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = _limits.FileSystem(8 << 20, 4096)
    monkeypatch.setattr(_limits, "_file_system", lambda where: on_disk)
    with open(tmp_path / "file", "wb") as file:
        fd = file.fileno()
        error = _full_messages.full(
            "/tmp/a/store", 5, _full_messages.NO_MEMORY, NOBODY_HOLDS, (), -1, fd
        )
        assert "4096 of its 8388608 bytes are free" in str(error)
        assert str(error).endswith("Free memory in '/tmp/a', or delete objects of this store")
        monkeypatch.setattr(_limits, "_SHARED_MEMORY", str(tmp_path))
        path = str(tmp_path / "store")
        error = _full_messages.full(path, 5, _full_messages.NO_MEMORY, NOBODY_HOLDS, (), -1, fd)
        assert f"Free memory in '{tmp_path}'" in str(error)
        assert "--shm-size" in str(error)
        on_disk = _limits.FileSystem(8 << 30, 4 << 30)
        error = _full_messages.full(
            "/dev/shm/a/store", 5, _full_messages.NO_MEMORY, NOBODY_HOLDS, (), -1, fd
        )
        assert "though 4294967296 of its 8589934592 bytes are free" in str(error)
        assert "memory limit of a control group" in str(error)


def test_a_reason_of_the_cores_own_gets_the_usual_advice() -> None:
    error = _full_messages.full("/s", 5, "the name index is full", NOBODY_HOLDS, (), -1, -1)
    assert str(error).endswith("Delete or release objects, or make a larger store")
