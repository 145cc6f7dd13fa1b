"""Commands that look: they change nothing, need no place, and show the dead as they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import helpers
import looks
import pytest
import workers
from children import child_process, child_processes
from command import Command, Said, in_a_process

import refstore
from refstore._units import size_text

FIRST_PROCESS = """
import refstore, sys
store = refstore.Store(sys.argv[1], create=False)
held = [store.get("weights"), store.put(bytes(5000))]
print("held", flush=True)
sys.stdin.readline()
"""

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


def test_a_block_that_many_dead_hold_is_counted_once(run: Command, train: refstore.Store) -> None:
    (row,) = (row for row in train.objects() if row.name == "weights")
    with child_processes(3, train.path) as children:
        for child in children:
            child.do(workers.hold, "weights")
        for child in children:
            child.kill()
        held = size_text(row.block_nbytes)
        said = " ".join(run("stat", "train").out.split())
        assert f"3 dead processes: 3 pins, {held} held; what is deleted" in said
        assert f") with {held}" in " ".join(run("doctor").out.split())
        assert "3 pins, 0 B came back" in run("recover", "train").out


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


def test_top_as_json_ends_with_its_store(run: Command, train: refstore.Store) -> None:
    command = [*(sys.executable, "-m", "refstore", "top", "train"), "--json", "--interval", "0.05"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as top:
        assert helpers.line(top)
        assert run("rm", "train").status == 0
        _, complaint = top.communicate(timeout=helpers.BUSY_TIMEOUT)
        assert (top.returncode, complaint) == (2, "refstore: train was removed meanwhile\n")


@contextlib.contextmanager
def in_containers(number: int, path: str) -> Iterator[None]:
    """Processes that hold an object, each the first of a pid namespace of its own."""
    command = ["unshare", "-pf", "--kill-child", sys.executable, "-c", FIRST_PROCESS, path]
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            pipe = subprocess.PIPE
            program = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            stack.callback(program.communicate)
            assert helpers.line(program) == "held"
        yield


def has_pid_namespaces() -> bool:
    command = ["unshare", "-pf", "--kill-child", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


@pytest.mark.skipif(not has_pid_namespaces(), reason="needs pid namespaces")
def test_processes_of_one_pid_are_told_apart(run: Command, train: refstore.Store) -> None:
    pytest.importorskip("prometheus_client")
    with in_containers(3, train.path):
        attached = run("stat", "train", "--json").json["attached"]
        slots = sorted(one["slot"] for one in attached if one["pid"] == 1)
        assert len(set(slots)) == 3
        for by in ([], ["--by", "process"], ["--by", "line"]):
            rows = run("holders", "train", *by, "--json").json
            assert sorted(row["slot"] for row in rows) == slots
        (row,) = run("holders", "train", "--by", "object", "--json").json
        assert (row["pids"], sorted(row["slots"]), row["pins"]) == ([1, 1, 1], slots, 3)
        lines = run("holders", "train", "--by", "process").out.splitlines()
        assert [line.split()[0] for line in lines[1:-1]] == ["1"] * 3
        series = [line for line in run("metrics", "train").out.splitlines() if 'pid="1"' in line]
        assert len(series) == len({line.rpartition(" ")[0] for line in series}) == 6
        with pytest.raises(refstore.StoreFullError) as raised:
            train.put(bytes(4 << 20))
        assert str(raised.value).count(" process 1 (") == 3
        with train.get("weights"), pytest.raises(refstore.StoreFullError) as raised:
            train.put(bytes(4 << 20))
        assert str(raised.value).count(f" this process {os.getpid()} (") == 1
        said = run("top", "train", "--json", "--interval", "0.01", "--count", "1").json
        assert sorted(one["slot"] for one in said["processes"] if one["pid"] == 1) == slots
