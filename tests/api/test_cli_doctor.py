"""`refstore doctor`: what it finds, and what it says to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import workers
from children import child_process
from command import Command

import refstore
from refstore._looking import Look
from refstore.cli import doctor, surroundings
from refstore.engines import choice


def found(run: Command, topic: str) -> dict[str, Any]:
    (one,) = [one for one in run("doctor", "--json").json if one["topic"] == topic]
    return dict(one)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is wrong."""
    use = surroundings.FileSystemUse("/dev/shm", "tmpfs", 1 << 34, 1 << 33, {0: 1 << 20}, None)
    monkeypatch.setattr(surroundings, "use_of", lambda folder: use)
    monkeypatch.setattr(surroundings, "memory_limit", lambda: None)


def test_a_sound_machine_is_0(run: Command, train: refstore.Store, sound: None) -> None:
    said = run("doctor")
    assert (said.status, said.err) == (0, "")
    assert said.out.endswith("no problem\n")
    assert "problem " not in said.out


@pytest.mark.parametrize(
    ("size", "free", "state"),
    [(64 << 20, 60 << 20, "problem"), (1 << 30, 1 << 20, "problem"), (1 << 30, 1 << 29, "ok")],
)
def test_little_shared_memory_is_a_problem(
    run: Command,
    train: refstore.Store,
    sound: None,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    free: int,
    state: str,
) -> None:
    use = surroundings.FileSystemUse(
        "/dev/shm", "tmpfs", size, free, {7: 3 << 20}, (2 << 20, "/dev/shm/large")
    )
    monkeypatch.setattr(surroundings, "use_of", lambda folder: use)
    one = found(run, "shared memory")
    assert one["state"] == state
    assert "user 7 has 3.0 MiB" in one["what"]
    assert "/dev/shm/large (2.0 MiB)" in one["what"]
    assert ("--shm-size" in one["advice"]) == (size == 64 << 20)
    assert run("doctor").status == (state == "problem")


def test_a_store_larger_than_the_memory_limit_is_a_problem(
    run: Command, train: refstore.Store, sound: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "memory_limit", lambda: 1 << 30)
    assert found(run, "memory limit")["state"] == "ok"
    monkeypatch.setattr(surroundings, "memory_limit", lambda: 1 << 20)
    one = found(run, "memory limit")
    assert (one["state"], "train (4.0 MiB)" in one["what"]) == ("problem", True)


def test_a_missing_core_is_a_problem_with_what_to_do(
    run: Command, train: refstore.Store, sound: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_BACKEND", "auto")
    why = "the compiled core is not there (no such file): install the wheel"
    monkeypatch.setattr(choice, "why_no_core", lambda: why)
    one = found(run, "engine")
    assert (one["state"], one["advice"]) == ("problem", "install the wheel")
    monkeypatch.setenv("REFSTORE_BACKEND", "nonsense")
    assert "REFSTORE_BACKEND is 'nonsense'" in run("doctor").out


def test_the_engine_that_was_asked_for_is_said(
    run: Command, train: refstore.Store, sound: None, engine: str
) -> None:
    one = found(run, "engine")
    assert f"of the {engine} engine, because REFSTORE_BACKEND says so" in one["what"]


@pytest.mark.parametrize(
    ("mode", "has_call", "states"),
    [("never", True, ("ok", "ok")), ("deny", False, ("note", "note")), (None, None, ("note", ""))],
)
def test_what_the_kernel_has_is_said(
    run: Command,
    train: refstore.Store,
    sound: None,
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    has_call: bool | None,
    states: tuple[str, str],
) -> None:
    monkeypatch.setattr(surroundings, "huge_pages", lambda: mode)
    monkeypatch.setattr(surroundings, "has_futex_waitv", lambda: has_call)
    assert found(run, "huge pages")["state"] == states[0]
    if states[1]:
        assert found(run, "futex_waitv")["state"] == states[1]
    else:
        assert "futex_waitv" not in run("doctor").out


def test_stores_that_were_left_are_found(
    run: Command, train: refstore.Store, sound: None, folder: Path
) -> None:
    with refstore.Store("left", capacity="1MiB") as left:
        left.put(b"x")
    (folder / "broken").write_bytes(Path(train.path).read_bytes()[:4096])
    with child_process(train.path) as child:
        dead = child.pid
        child.do(workers.hold, "weights")
        child.kill()
        said = run("doctor")
        rows = {one["topic"]: one for one in run("doctor", "--json").json}
    assert said.status == 1
    assert rows["store broken"]["state"] == "problem"
    assert f"rm {folder}/broken" in rows["store broken"]["what"]
    assert rows["store broken"]["advice"] == ""
    assert said.out.endswith("\n1 problem, 2 notes\n")
    assert "nobody is attached, and 64 B are used by 1 object" in rows["store left"]["what"]
    assert f"1 dead process (pid {dead}) with " in rows["store train"]["what"]
    assert "recover train" in rows["store train"]["advice"]
    assert rows["stores"]["what"] == f"3 stores in {folder}"
    (folder / "broken").unlink()
    run("rm", "left")


def test_a_leak_and_little_room_are_found(run: Command, train: refstore.Store, sound: None) -> None:
    with child_process(train.path) as child:
        refs = [child.do(workers.put, bytes(100_000)) for _ in range(3)]
        child.do(workers.put, b"named", "named")
        assert "leak" not in run("doctor").out
    used = train.stats().free * 96 // 100
    filling = train.put(bytes(used))
    told = [one for one in run("doctor", "--json").json if one["topic"] == "store train"]
    leak, full = told
    assert leak["what"].startswith("3 objects of 293.0 KiB without a name, put by processes that ")
    assert "objects train --orphans" in leak["advice"]
    assert full["what"].startswith("nearly full: ")
    assert (leak["state"], full["state"], run("doctor").status) == ("note", "note", 0)
    train.delete_many([*refs, filling])
    assert "train" not in run("doctor").out


def test_a_damaged_store_is_a_problem(
    run: Command, train: refstore.Store, sound: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "too large" not in found(run, "stores")["what"]
    with monkeypatch.context() as damaged:
        damaged.setattr(Look, "problems", lambda self: ["space: a block is lost", "names: none"])
        one = found(run, "store train")
        assert (one["state"], run("doctor").status) == ("problem", 1)
        assert one["what"] == "damaged: space: a block is lost; and 1 more problem"
        assert "check train" in one["advice"]
    monkeypatch.setattr(doctor, "CHECKED", 1)
    assert found(run, "stores")["what"].endswith("check`): train")


def test_a_folder_that_is_not_to_be_used_is_a_problem(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("REFSTORE_DIR", str(folder / "file"))
    one = found(run, "folder of stores")
    assert one["state"] == "problem"
    assert run("doctor").status == 1
    (folder / "file").unlink()


# --- figures of the machine


def test_what_lies_in_memory_is_added_up(folder: Path) -> None:
    before = surroundings.use_of(str(folder))
    with open(folder / "file", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 256 << 20)  # others come and go meanwhile
    after = surroundings.use_of(str(folder))
    assert after.kind in surroundings.IN_MEMORY
    uid = folder.stat().st_uid
    assert sum(after.by_user.values()) > 0
    assert after.by_user[uid] - before.by_user.get(uid, 0) >= 128 << 20
    assert after.largest is not None
    assert after.largest[0] >= 128 << 20
    (folder / "file").unlink()


def test_a_disk_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    monkeypatch.setattr(surroundings, "IN_MEMORY", ())
    use = surroundings.use_of(str(tmp_path))
    assert (use.by_user, use.largest) == ({}, None)
    assert use.size > use.free > 0


def test_the_kernel_says_whether_it_can_wait_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    release = tuple(map(int, __import__("platform").release().split(".")[:2]))
    if surroundings.has_futex_waitv():
        assert release >= (5, 16)
    monkeypatch.setattr(surroundings, "_FUTEX_WAITV", 1 << 20)
    assert surroundings.has_futex_waitv() is False
