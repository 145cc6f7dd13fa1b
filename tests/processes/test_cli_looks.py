"""Commands that look: they change nothing, need no place, and show the dead as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import looks
import pytest
import workers
from command import Command, Said, in_a_process
from helpers import child_process

import refstore

LOOKS = [
    ["ls"],
    ["stat", "train"],
    ["objects", "train", "--orphans"],
    ["holders", "train"],
    ["holders", "train", "--by", "process"],
    ["check", "train"],
    ["doctor"],
    ["metrics", "train"],
    ["map", "train", "-o", "{tmp}/map.svg"],
    ["top", "train", "--json", "--interval", "0.01", "--count", "2"],
]


@pytest.fixture
def left(run: Command, train: refstore.Store) -> Iterator[tuple[refstore.Store, int]]:
    """A store in which a process has died that held an object and was writing one; its pid."""
    with child_process(train.path) as child:
        dead = child.pid
        child.do(workers.hold, "weights")
        child.do(workers.begin, 70_000)
        child.kill()
        yield train, dead


def look(tmp_path: Path, *arguments: str) -> Said:
    return in_a_process(*(one.format(tmp=tmp_path) for one in arguments))


def state_of(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


@pytest.mark.parametrize("arguments", LOOKS, ids=lambda arguments: arguments[0])
def test_a_look_changes_nothing(
    left: tuple[refstore.Store, int], folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    pytest.importorskip("prometheus_client")
    train, _ = left
    before, beside = state_of(train.path), sorted(os.listdir(folder))
    for more in ([], ["--json"]):
        said = look(tmp_path, *arguments, *(() if "--json" in arguments else more))
        assert said.status == 0 or arguments == ["doctor"], said.err
    assert state_of(train.path) == before
    assert sorted(os.listdir(folder)) == beside


def test_looks_need_no_place_in_the_process_table(
    left: tuple[refstore.Store, int], tmp_path: Path
) -> None:
    pytest.importorskip("prometheus_client")
    train, _ = left
    with looks.all_rows_taken(train):
        for arguments in LOOKS:
            said = look(tmp_path, *arguments)
            assert said.status == 0 or arguments == ["doctor"], (arguments, said.err)
        refused = in_a_process("get", "train", "weights", "-o", str(tmp_path / "weights"))
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert "places in the process table" in refused.err


def test_stat_tells_of_the_dead_and_then_of_the_recovery(
    run: Command, left: tuple[refstore.Store, int]
) -> None:
    _, dead = left
    for _ in range(2):
        said = in_a_process("stat", "train")
        assert str(dead) in said.out.split()
        assert "1 dead process: 1 pin, " in said.out
        assert "recover train`" in said.out
        assert "last recoveries" not in said.out
    rows = {one["pid"]: one for one in in_a_process("stat", "train", "--json").json["attached"]}
    assert (rows[dead]["alive"], rows[os.getpid()]["alive"]) == (False, True)
    held = rows[dead]["bytes"]
    assert str(dead) in run("recover", "train").out
    said = in_a_process("stat", "train")
    assert "dead process" not in said.out
    last = said.out.partition("last recoveries:\n")[2].splitlines()
    assert str(dead) in last[1].split()
    (row,) = in_a_process("stat", "train", "--json").json["last_recoveries"]
    assert row["pid"] == dead
    assert 70_000 <= row["nbytes"] <= held


def test_stat_lists_the_largest_of_many_processes(
    run: Command, train: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refstore.cli import stores

    monkeypatch.setattr(stores, "LISTED", 1)
    with train.get("weights"), child_process(train.path):
        said = run("stat", "train").out
        assert "and 1 more: --json lists all" in said
        assert f"{os.getpid()}  " in said
