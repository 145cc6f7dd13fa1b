"""The `refstore` command, run in this process unless a test needs one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import refstore
from refstore import cli


class Said(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        try:
            status = cli.main(arguments)
        except SystemExit as stop:  # argparse: bad usage, or help
            status = int(stop.code or 0)
        return Said(status, *self._capsys.readouterr())


@pytest.fixture
def run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """The command, where `folder` is the one that holds the user's stores."""
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    return Command(capsys)


@pytest.fixture
def train(run: Command) -> Any:
    """A store called "train" with two objects."""
    with refstore.Store("train", capacity="4MiB") as store:
        store.put(b"x" * 100_000, name="weights")
        store.put(b"y")
        yield store
        assert store.check() == []
        if os.path.exists(store.path):
            store.unlink()


# --- ls


def test_ls_of_no_stores_prints_nothing(run: Command) -> None:
    assert run("ls") == (0, "", "")
    assert run("ls", "--json").json == []


def test_ls_without_a_folder_makes_none(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder / "none"))
    assert run("ls") == (0, "", "")
    assert not (folder / "none").exists()


def test_ls_prints_a_line_for_each_store(run: Command, train: refstore.Store) -> None:
    with refstore.Store("a longer name", capacity="1GiB", max_objects=5000) as other:
        said = run("ls")
        assert said.status == 0
        header, first, second = said.out.splitlines()
        assert header.split() == [
            *("NAME", "CAPACITY", "USED", "LARGEST", "FREE", "OBJECTS", "PINNED", "CONDEMNED"),
            "PROCESSES",
        ]
        assert first.split()[:5] == ["a", "longer", "name", "1.0", "GiB"]
        assert second.split()[:3] == ["train", "4.0", "MiB"]
        assert len({len(line) for line in said.out.splitlines()}) == 1
        other.unlink()


def test_ls_as_json_has_every_figure(run: Command, train: refstore.Store) -> None:
    (row,) = run("ls", "--json").json
    assert row["name"] == "train"
    assert row["path"] == train.path
    assert row["capacity"] == 4 << 20
    assert row["objects"] == 2
    assert row["used"] == train.stats().used


def test_ls_passes_over_what_is_no_store(run: Command, train: refstore.Store, folder: Path) -> None:
    (folder / "text").write_text("no store")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("train")
    assert [row["name"] for row in run("ls", "--json").json] == ["train"]
    (folder / "text").unlink()
    (folder / "folder").rmdir()
    (folder / "link").unlink()


def test_ls_says_what_is_wrong_with_a_broken_store(
    run: Command, train: refstore.Store, folder: Path
) -> None:
    broken = folder / "broken"
    broken.write_bytes(Path(train.path).read_bytes()[:4096])
    said = run("ls")
    assert said.status == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["NAME", "broken", "train"]
    row = run("ls", "--json").json[0]
    assert row["name"] == "broken"
    assert row["error"]
    assert run("rm", "broken") == (0, "", "")
    assert not broken.exists()


# --- stat


def test_stat_prints_every_figure(run: Command, train: refstore.Store) -> None:
    said = run("stat", "train")
    assert said.status == 0
    shown = {line[:13].strip(): line[14:] for line in said.out.splitlines()}
    assert shown["capacity"] == "4.0 MiB (4194304 bytes)"
    assert shown["largest free"].endswith(" bytes)")
    assert shown["objects"] == "2"
    assert shown["path"] == train.path


def test_stat_as_json_has_the_fields_of_store_stats(run: Command, train: refstore.Store) -> None:
    row = run("stat", "train", "--json").json
    stats = train.stats()
    for field in ("capacity", "used", "free", "largest_free", "objects", "pinned", "condemned"):
        assert row[field] == getattr(stats, field)
    assert {"puts", "gets", "deletes", "evictions", "recoveries", "processes"} <= set(row)


def test_a_store_is_found_by_its_path(run: Command, train: refstore.Store) -> None:
    assert run("stat", train.path, "--json").json["path"] == train.path


# --- check


def test_check_of_a_sound_store_is_0(run: Command, train: refstore.Store) -> None:
    assert run("check", "train") == (0, "train: sound\n", "")
    assert run("check", "train", "--json").json["problems"] == []


def test_check_prints_the_problems_and_is_1(
    run: Command, train: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cli, "Store", _Unsound)
        said = run("check", "train")
        assert said == (1, "slot 3 is odd\nslot 4 is even\ntrain: 2 problems\n", "")
        said = run("check", "train", "--json")
        assert (said.status, said.json["problems"]) == (1, ["slot 3 is odd", "slot 4 is even"])


class _Unsound:
    """A store with problems, which no sequence of calls can bring about."""

    def __init__(self, name: str, *, create: bool) -> None:
        pass

    def __enter__(self) -> _Unsound:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self) -> list[str]:
        return ["slot 3 is odd", "slot 4 is even"]


def test_check_of_a_file_that_is_no_store_is_1(run: Command, folder: Path) -> None:
    (folder / "text").write_text("no store" * 1000)
    said = run("check", "text")
    assert said.status == 1
    assert said.out.endswith("text: 1 problem\n")
    (folder / "text").unlink()


# --- rm


def test_rm_removes_a_store_and_leaves_those_attached_alone(
    run: Command, train: refstore.Store
) -> None:
    assert run("rm", "train") == (0, "", "")
    assert run("ls") == (0, "", "")
    with train.get("weights") as buf:
        assert len(buf) == 100_000


def test_rm_goes_on_after_a_store_that_is_not_there(run: Command, train: refstore.Store) -> None:
    said = run("rm", "absent", "train")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("refstore: ")
    assert said.err.count("\n") == 1
    assert not os.path.exists(train.path)


def test_rm_spares_a_file_that_is_no_store(run: Command, folder: Path) -> None:
    (folder / "text").write_text("no store" * 1000)
    assert run("rm", "text").status == 2
    (folder / "text").unlink()


# --- gc


def test_gc_removes_a_temporary_store_whose_creator_was_killed(run: Command, folder: Path) -> None:
    script = "import os, refstore; s = refstore.Store.temporary('1MiB'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = folder.iterdir()
    with refstore.Store.temporary(capacity="1MiB") as alive:
        if left.exists():  # a create in the same folder may have removed it already
            assert run("gc", "--json").json == [str(left)]
        assert not left.exists()
        assert run("gc") == (0, "", "")
        assert os.path.exists(alive.path)


def test_gc_without_a_folder_has_nothing_to_do(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder / "none"))
    assert run("gc") == (0, "", "")


# --- usage


@pytest.mark.parametrize("command", ["stat", "check", "rm"])
def test_a_missing_store_is_2_and_one_line(run: Command, command: str) -> None:
    said = run(command, "absent")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("refstore: ")
    assert said.err.count("\n") == 1
    assert "absent" in said.err


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["stat"], ["stat", "a", "b"], ["ls", "a"], ["rm"], ["ls", "--nonsense"]],
    ids=" ".join,
)
def test_bad_usage_is_2(run: Command, arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.status, said.out) == (2, "")
    assert "usage: refstore" in said.err


@pytest.mark.parametrize("name", ["", "..", "x" * 300])
def test_a_bad_name_is_2(run: Command, name: str) -> None:
    assert run("stat", name).status == 2


def test_help_and_version_are_0(run: Command) -> None:
    assert run("--help").status == 0
    assert run("--version") == (0, f"{metadata.version('refstore')}\n", "")


def test_the_module_runs_as_the_command_does(run: Command, train: refstore.Store) -> None:
    command = [sys.executable, "-m", "refstore", "ls", "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    (row,) = json.loads(said.stdout)
    assert row["name"] == "train"
    assert row["processes"] == 1  # this one, and not the command
    command = [sys.executable, "-m", "refstore", "stat", "absent"]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("refstore: ")


def test_a_reader_that_goes_away_is_no_error(run: Command, train: refstore.Store) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, "-m", "refstore", "ls"]
        said = subprocess.run(command, check=False, stdout=pipe, stderr=subprocess.PIPE)
    assert (said.returncode, said.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 46, "64.0 TiB")],
)
def test_sizes_are_rounded_for_people(nbytes: int, text: str) -> None:
    assert cli._size(nbytes) == text
