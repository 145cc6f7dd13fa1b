"""`refstore objects`, `get`, `put`, `delete`, `trim`: what is in a store."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import workers
from children import child_process
from command import Command, in_a_process

import refstore


def names(run: Command, *arguments: str) -> list[str | None]:
    return [row["name"] for row in run("objects", "train", *arguments, "--json").json]


# --- objects


def test_every_object_is_a_line(run: Command, train: refstore.Store) -> None:
    said = run("objects", "train")
    head, first, second, sums = said.out.splitlines()
    columns = ["NAME", "OR", "REF", "KIND", "STATE", "PINS", "SIZE", "AGE", "PID", "PUT", "BY"]
    assert head.split() == columns
    size = f"{train.info('weights').block_nbytes / 1024:.1f}"
    assert first.split()[:6] == ["weights", "bytes", "live", "0", size, "KiB"]
    (ref,) = [ref for ref in train if train.info(ref).name is None]
    assert second.startswith(f"{ref.hex()}  ")
    assert str(os.getpid()) in first.split()
    assert sums.startswith("2 objects, ")


def test_json_has_the_fields_of_an_object_info(run: Command, train: refstore.Store) -> None:
    (row, _) = run("objects", "train", "--json").json
    info = train.info("weights")
    assert row == vars(info) | {"ref": info.ref.hex() if info.ref else None, "put_at": None}


def test_an_empty_store_says_so(run: Command, train: refstore.Store) -> None:
    train.clear()
    assert run("objects", "train") == (0, "", "train: empty\n")
    assert run("objects", "train", "--prefix", "a") == (0, "", "train: no such objects\n")
    assert run("objects", "train", "--json") == (0, "[]\n", "")


def test_the_order_is_what_was_asked_for(run: Command, train: refstore.Store) -> None:
    train.clear()
    for name, size in (("b", 9000), ("c", 90_000), ("a", 500)):
        train.put(bytes(size), name=name)
    with train.get("b"), train.get("b"), train.get("a"):
        assert names(run) == names(run, "--sort", "size") == ["c", "b", "a"]
        assert names(run, "--sort", "name") == ["a", "b", "c"]
        assert names(run, "--sort", "pins") == ["b", "a", "c"]
        ages = [row["created"] for row in run("objects", "train", "--sort", "age", "--json").json]
        assert ages == sorted(ages)


def test_objects_can_be_picked(run: Command, train: refstore.Store) -> None:
    train.put(b"1", name="actor/1")
    with train.get("actor/1"), train.create(100):
        assert names(run, "--prefix", "actor") == ["actor/1"]
        train.delete("actor/1")
        assert names(run, "--state", "pending-delete") == ["actor/1"]
        assert len(names(run, "--state", "writing")) == 1
        assert names(run, "--state", "live", "--prefix", "w") == ["weights"]
    assert len(names(run, "--owner", str(os.getpid()))) == 3
    assert names(run, "--owner", "1") == []


def test_orphans_are_those_whose_process_is_not_attached(
    run: Command, train: refstore.Store
) -> None:
    with train.get("weights"), child_process(train.path) as child:
        child.do(workers.put, b"of the child", "child")
        child.do(workers.hold, "child")
        assert names(run, "--orphans") == []
        child.kill()
        assert names(run, "--orphans") == ["child"]


def test_the_lines_that_put_are_told(run: Command, train: refstore.Store) -> None:
    assert "PUT AT" not in run("objects", "train").out
    with refstore.Store("train", track=True) as tracked:
        for _ in range(3):
            tracked.put(bytes(200_000))
        tracked.put(b"x", name="last")
        told = {one.ref: one.put_at for one in tracked.objects()}
        by_line = run("objects", "train", "--by", "line", "--json").json
        rows = run("objects", "train", "--json").json
        head, line, *_ = run("objects", "train").out.splitlines()
        shown = run("objects", "train", "--by", "line").out.splitlines()
    site = by_line[0]["put_at"]
    assert site.split(":")[0].endswith("test_cli_objects.py")
    assert site.endswith(" in test_the_lines_that_put_are_told")
    assert [(one["objects"], one["put_at"] is None) for one in by_line] == [
        (3, False),
        (2, True),
        (1, False),
    ]
    assert sorted(told.values(), key=str) == sorted((one["put_at"] for one in rows), key=str)
    assert head.endswith("PUT AT")
    assert line.endswith(site)
    assert shown[1].startswith(site)
    assert shown[-1].startswith("6 objects, ")


def test_objects_are_summed_by_process(run: Command, train: refstore.Store) -> None:
    with child_process(train.path) as child, train.get("weights"):
        for _ in range(4):
            child.do(workers.put, bytes(100_000))
        rows = run("objects", "train", "--by", "process", "--json").json
        (first,) = run("objects", "train", "--by", "process", "--limit", "1", "--json").json
        sums = run("objects", "train", "--by", "process", "--limit", "1").out.splitlines()
        pid = child.pid
    assert [(row["pid"], row["objects"], row["pinned"]) for row in rows] == [
        (pid, 4, 0),
        (os.getpid(), 2, 1),
    ]
    assert rows[0]["bytes"] == sum(one.block_nbytes for one in train.objects() if one.pid == pid)
    assert first == rows[0]
    assert len(sums) == 3
    assert sums[-1].startswith("6 objects, ")
    assert "live and pinned by nobody: 5, " in sums[-1]


def test_a_reader_of_an_array_may_have_seen_enough(run: Command, train: refstore.Store) -> None:
    train.put(np.zeros(300_000), name="array")
    command = [sys.executable, "-m", "refstore", "get", "train", "array"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.read(6) == b"\x93NUMPY"
        program.stdout.close()
        assert (program.wait(), program.stderr.read()) == (0, b"")


def test_only_the_first_are_listed(run: Command, train: refstore.Store) -> None:
    assert names(run, "--limit", "1") == ["weights"]
    assert len(run("objects", "train", "--limit", "1").out.splitlines()) == 3
    assert run("objects", "train", "--limit", "0").status == 2


# --- get and put


def test_bytes_come_as_they_were_put(run: Command, train: refstore.Store, tmp_path: Path) -> None:
    payload = bytes(range(256)) * 1000
    (tmp_path / "in").write_bytes(payload)
    said = run("put", "train", "file", str(tmp_path / "in"))
    assert said == (0, train.ref("file").hex() + "\n", "")
    out = tmp_path / "out"
    assert run("get", "train", "file", "-o", str(out)) == (0, "", "")
    assert out.read_bytes() == payload
    assert run("get", "train", train.ref("file").hex(), "-o", str(out)).status == 0
    assert out.read_bytes() == payload
    with train.get("file") as buf:
        assert buf.kind == "bytes"


def test_pipes_carry_bytes(run: Command, train: refstore.Store) -> None:
    program = [sys.executable, "-m", "refstore"]
    payload = os.urandom(100_000)
    done = subprocess.run(
        [*program, "put", "train", "piped", "-"], input=payload, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == train.ref("piped").hex()
    done = subprocess.run([*program, "get", "train", "piped"], capture_output=True, check=True)
    assert done.stdout == payload


def test_an_empty_file_is_an_empty_object(
    run: Command, train: refstore.Store, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert run("put", "train", "empty", str(tmp_path / "empty")).status == 0
    with train.get("empty") as buf:
        assert bytes(buf) == b""


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_go_by_npy_files(
    run: Command, train: refstore.Store, tmp_path: Path, order: str
) -> None:
    array = np.asarray(np.arange(12, dtype="f4").reshape(3, 4), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "in.npy", array)
    assert run("put", "train", "array", str(tmp_path / "in.npy")).status == 0
    with train.get("array") as buf:
        assert buf.kind == "array"
        assert buf.array.flags.f_contiguous == (order == "F")
        np.testing.assert_array_equal(buf.array, array)
    said = in_a_process("get", "train", "array", "-o", str(tmp_path / "out.npy"))
    assert said == (0, "", "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)


def test_objects_come_as_pickles(run: Command, train: refstore.Store, tmp_path: Path) -> None:
    value = {"step": 3, "w": np.arange(5000)}
    train["state"] = value
    assert run("get", "train", "state", "-o", str(tmp_path / "state")).status == 0
    came = pickle.loads((tmp_path / "state").read_bytes())
    assert came["step"] == 3
    np.testing.assert_array_equal(came["w"], value["w"])


def test_get_describes_what_it_wrote(run: Command, train: refstore.Store, tmp_path: Path) -> None:
    said = run("get", "train", "weights", "-o", str(tmp_path / "w"), "--json")
    assert said.json["file"] == str(tmp_path / "w")
    assert said.json["nbytes"] == 100_000
    said = run("get", "train", "weights", "--json")
    assert (said.status, said.out) == (2, "")


def test_put_reads_no_more_than_fits_of_what_has_no_end(
    run: Command, train: refstore.Store
) -> None:
    said = run("put", "train", "endless", "/dev/zero")
    assert (said.status, said.out) == (2, "")
    assert "it is more than the capacity" in said.err
    assert "endless" not in train


def test_put_takes_a_name_that_is_taken_only_if_told_to(
    run: Command, train: refstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(b"new")
    said = run("put", "train", "weights", str(tmp_path / "in"))
    assert (said.status, said.out) == (2, "")
    assert "has an object named 'weights'" in said.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"newer")))
    said = run("put", "train", "weights", "-", "--replace", "--json")
    assert said.json["ref"] == train.ref("weights").hex()
    with train.get("weights") as buf:
        assert bytes(buf) == b"newer"


# --- delete and trim


def test_delete_goes_on_after_a_key_that_is_not_there(run: Command, train: refstore.Store) -> None:
    ref = train.put(b"x")
    said = run("delete", "train", "absent", "weights", ref.hex(), "--json")
    assert (said.status, said.json) == (2, ["weights", ref.hex()])
    assert said.err.startswith("refstore: there is no object named 'absent'")
    assert "weights" not in train
    assert ref not in train
    assert run("delete", "train", *(ref.hex() for ref in train)) == (0, "", "")


def test_a_name_of_hex_digits_goes_before_the_ref(run: Command, train: refstore.Store) -> None:
    ref = train.put(b"the ref's")
    train.put(b"the name's", name=ref.hex())
    assert run("delete", "train", ref.hex()) == (0, "", "")
    assert ref in train
    assert list(train.names()) == ["weights"]


@pytest.mark.parametrize("command", [["get"], ["delete"]])
def test_an_object_that_is_not_there_is_2(
    run: Command, train: refstore.Store, command: list[str]
) -> None:
    for key in ("absent", "00" * 16, "zz" * 16):
        said = run(*command, "train", key)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
        assert key in said.err


def test_trim_says_how_much(run: Command, train: refstore.Store) -> None:
    train.put(bytes(2 << 20), name="large")
    train.delete("large")
    assert run("trim", "train", "--json").json["nbytes"] >= 1 << 20
    assert run("trim", "train").out == "train: 0 B given back to the system\n"
