"""`refstore holders`: who keeps which objects in memory."""

from __future__ import annotations

import os

import pytest
import workers
from children import child_process
from command import Command

import refstore
from refstore.cli import holders


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_holders_of_a_store_that_nobody_uses_says_so(run: Command, train: refstore.Store) -> None:
    said = "train: no process pins an object or is writing one\n"
    assert run("holders", "train") == (0, "", said)
    for by in ([], ["--by", "process"], ["--by", "object"]):
        assert run("holders", "train", *by, "--json") == (0, "[]\n", "")


def test_holders_prints_a_line_for_each_process_and_object(
    run: Command, train: refstore.Store
) -> None:
    ref = train.put(b"z")
    with train.get("weights"), train.get("weights"), train.get(ref), train.create(70_000):
        (pid,) = {row.pid for row in train.holders()}
        nbytes = sum(row.bytes for row in train.holders())
        said = run("holders", "train")
    head, process, *objects, sums = said.out.splitlines()
    assert head.split() == ["PID", "COMMAND,", "OR", "OBJECT", "STATE", "PINS", "SIZE", "AGE"]
    assert cells(process)[0] == str(pid) == str(os.getpid())
    assert cells(process)[2:5] == ["alive", "3", f"{nbytes / 1024:.1f} KiB"]
    shown = {cells(line)[0]: cells(line)[1:3] for line in objects}
    assert shown == {
        "weights": ["live", "2"],
        ref.hex(): ["live", "1"],
        "(no name yet)": ["writing", "0"],
    }
    assert sums == f"3 objects, {nbytes / 1024:.1f} KiB"


def test_objects_of_one_name_and_state_are_one_line(run: Command, train: refstore.Store) -> None:
    held = []
    for _ in range(5):
        train.put(b"z" * 5000, name="latest", replace=True)
        held.append(train.get("latest"))
    lines = run("holders", "train").out.splitlines()
    assert len(lines) == 5
    shown = {tuple(cells(line)[:3]) for line in lines[2:4]}
    assert shown == {
        ("latest (4 objects)", "pending delete", "4"),
        ("latest", "live", "1"),
    }
    for buf in held:
        buf.release()


def test_who_holds_most_comes_first(run: Command, train: refstore.Store) -> None:
    train.put(bytes(300_000), name="large")
    with train.get("weights"), child_process(train.path) as child:
        child.do(workers.hold, "large")
        rows = run("holders", "train", "--by", "process", "--json").json
        assert [row["pid"] for row in rows] == [child.pid, os.getpid()]
        assert [row["objects"] for row in rows] == [1, 1]
        assert [row["bytes"] for row in rows] == [row.bytes for row in train.holders()]
        lines = run("holders", "train", "--by", "process").out.splitlines()
        assert [line.split()[0] for line in lines[1:3]] == [str(child.pid), str(os.getpid())]


def test_an_object_that_several_hold_counts_once(run: Command, train: refstore.Store) -> None:
    with train.get("weights") as buf, child_process(train.path) as child:
        child.do(workers.hold, "weights")
        nbytes = train.info(buf.ref).block_nbytes
        (row,) = run("holders", "train", "--by", "object", "--json").json
        assert sorted(row["pids"]) == sorted([child.pid, os.getpid()])
        assert (row["name"], row["pins"], row["bytes"]) == ("weights", 2, nbytes)
        head, line, sums = run("holders", "train", "--by", "object").out.splitlines()
        assert head.split()[-2:] == ["HELD", "BY"]
        assert cells(line)[0] == "weights"
        assert sums.startswith("1 object, ")
        assert run("holders", "train").out.splitlines()[-1] == sums


def test_holders_as_json_has_the_fields_of_a_holder(run: Command, train: refstore.Store) -> None:
    with train.get("weights"), train.create(10):
        shown = run("holders", "train", "--json").json
        rows = train.holders()
    assert [row["ref"] for row in shown] == [train.ref("weights").hex(), None]
    assert [row["state"] for row in shown] == ["live", "writing"]
    assert shown[0]["created"] == train.info("weights").created
    for row, other in zip(shown, rows, strict=True):
        assert {"ref": None, **row} | {"ref": None} == other._replace(ref=None)._asdict() | {
            "state": row["state"],
            "created": row["created"],
            "put_at": None,
            "pinned_at": [],
            "slot": 0,
        }


def test_the_lines_that_pin_are_told(run: Command, train: refstore.Store) -> None:
    with refstore.Store("train", track=True) as tracked:
        ref = tracked.put(b"x" * 1000, name="batch")
        held = []
        for _ in range(3):
            held.append(tracked.get("batch"))  # noqa: PERF401  a comprehension may be a function
        said = run("holders", "train").out
        (row,) = run("holders", "train", "--json").json
        for buf in held:
            buf.release()
    here = "test_cli_holders.py:"
    (put, pinned) = [line for line in said.splitlines() if here in line]
    assert put.split()[:2] == ["put", "at"]
    assert pinned.split()[:2] == ["pinned", "at"]
    assert pinned.endswith(" in test_the_lines_that_pin_are_told (3 times)")
    assert row["ref"] == ref.hex()
    assert (len(row["pinned_at"]), here in row["put_at"]) == (3, True)


def test_what_one_line_pins_is_one_line(run: Command, train: refstore.Store) -> None:
    with refstore.Store("train", track=True) as tracked:
        for number in range(60):
            tracked.put(bytes(3000), name=f"batch-{number}")
        held = [tracked.get(f"batch-{number}") for number in range(60)]
        other = tracked.get("weights")
        nbytes = sum(row.bytes for row in train.holders() if row.name != "weights")
        said = run("holders", "train").out.splitlines()
        lines = run("holders", "train", "--by", "line", "--json").json
        shown = run("holders", "train", "--by", "line")
        held.clear()
        other.release()
    assert len(said) == 8
    (shared,) = [line for line in said if "batch-* (60 objects)" in line]
    assert cells(shared)[1:3] == ["live", "60"]
    assert said.index(shared) == 2, "the largest sum comes first"
    assert [line["objects"] for line in lines] == [60, 1]
    assert lines[0]["bytes"] == nbytes
    assert lines[0]["put_at"] != lines[0]["pinned_at"][0]
    assert "test_cli_holders.py:" in lines[0]["pinned_at"][0]
    assert (lines[1]["put_at"], lines[0]["pid"]) == (None, os.getpid())
    assert shown.out.splitlines()[1].split()[2:4] == ["60", "60"]
    assert shown.err == ""


def test_many_objects_of_one_process_are_few_lines(run: Command, train: refstore.Store) -> None:
    held = []
    for number in range(50):
        train.put(bytes(3000), name=f"batch-{number}")
        held.append(train.get(f"batch-{number}"))
    lines = run("holders", "train").out.splitlines()
    assert len(lines) == 24
    assert cells(lines[-2])[:2] == ["and 30 more objects", "30"]
    assert lines[-1].startswith("50 objects, ")
    said = run("holders", "train", "--by", "line")
    assert cells(said.out.splitlines()[1])[1:5] == ["50", "50", "-", "-"]
    assert "REFSTORE_TRACK=1" in said.err
    held.clear()


@pytest.mark.once("opens no store")
def test_many_processes_are_few_lines() -> None:
    told = []
    for slot in range(1000):
        holder = refstore.Holder(slot + 1, "reader", None, "weights", 1, 1 << 20, True)
        holder.slot = slot
        told.append(holders.Held(holder, "live", None))
    _, rows = holders._detailed(told, now=0.0)
    assert len(rows) == 2 * holders.PROCESSES + 1
    more = f"and {1000 - holders.PROCESSES} more processes: --by process"
    assert [*rows[-1].cells][1:4] == [more, "", str(1000 - holders.PROCESSES)]


def test_a_name_does_not_break_its_line(run: Command, train: refstore.Store) -> None:
    with train.get(train.put(b"z", name="two\nlines\x1b[2J")):
        assert run("holders", "train").out.count("\n") == 4
        assert "  two\\nlines\\x1b[2J  " in run("holders", "train").out
