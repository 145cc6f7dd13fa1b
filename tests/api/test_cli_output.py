"""Where the command's words go, whatever they are and whoever listens."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command import Command, in_a_process

import refstore


def test_a_stores_name_does_not_break_its_line(run: Command, folder: Path) -> None:
    refstore.Store("one", capacity="1MiB").close()
    named = str(folder / "two\nlines\x1b[2J")
    os.rename(folder / "one", named)  # refstore gives no such names
    said = run("ls")
    assert (said.status, said.out.count("\n")) == (0, 2)
    assert said.out.splitlines()[1].startswith("two\\nlines\\x1b[2J  ")
    for command in ("stat", "check", "recover", "holders", "rm"):
        said = run(command, named)
        assert (said.status, said.err.count("\n")) == (2, 1)
        assert "\x1b" not in said.out + said.err
        assert "lines\\x1b[2J" in said.err
        assert "control characters" in said.err
    os.unlink(named)
    assert run("gc").status == 0  # its locks, which the other engine keeps beside it


def test_a_terminal_that_lacks_a_letter_gets_its_number(folder: Path, run: Command) -> None:
    with refstore.Store("é", capacity="1MiB") as store, refstore.Store("z", capacity="1MiB"):
        said = in_a_process("ls", PYTHONIOENCODING="ascii")
        assert [line.split()[0] for line in said.out.splitlines()] == ["NAME", "z", r"\xe9"]
        assert (said.status, said.err) == (0, "")
        missing = in_a_process("stat", "ö", PYTHONIOENCODING="ascii")
        assert (missing.status, missing.out) == (2, "")
        assert r"no store named '\xf6'" in missing.err
        store.unlink()
    assert run("rm", "z").status == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(run: Command, train: refstore.Store, closed: str) -> None:
    command = f"exec {sys.executable} -m refstore ls {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("train" in done.stdout) == (closed == "2>&-")


def test_a_complaint_does_not_go_to_the_output(run: Command, folder: Path) -> None:
    command = f"exec {sys.executable} -m refstore stat absent 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_an_output_that_is_full_is_one_line(run: Command, train: refstore.Store) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "refstore", "ls"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "refstore: [Errno 28] No space left on device\n"


def test_a_reader_that_goes_away_is_no_error(run: Command, train: refstore.Store) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, "-m", "refstore", "ls"]
        said = subprocess.run(command, check=False, stdout=pipe, stderr=subprocess.PIPE)
    assert (said.returncode, said.stderr) == (0, b"")


@pytest.mark.parametrize(
    "arguments", [("--json", "ls"), ("ls", "--json"), ("--json", "ls", "--json")]
)
def test_json_can_stand_before_the_command(
    run: Command, train: refstore.Store, arguments: tuple[str, ...]
) -> None:
    (row,) = run(*arguments).json
    assert row["name"] == "train"


class Once:
    """Comes back as what cannot be pickled."""

    def __reduce__(self) -> Any:
        return threading.Lock, ()


class Broken:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_an_object_that_cannot_be_unpickled_is_a_line_and_no_file(
    run: Command, train: refstore.Store, tmp_path: Path
) -> None:
    train["broken"] = Broken()
    said = run("get", "train", "broken", "-o", str(tmp_path / "file"))
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "it cannot be unpickled here: ZeroDivisionError: " in said.err
    assert not (tmp_path / "file").exists()


def test_an_object_that_cannot_be_pickled_anew_is_a_line(
    run: Command, train: refstore.Store, tmp_path: Path
) -> None:
    train["once"] = Once()
    said = run("get", "train", "once", "-o", str(tmp_path / "file"))
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "it cannot be pickled anew: " in said.err
