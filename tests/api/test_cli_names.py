"""What the command says of names that are not a store's, and how it names itself."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import Command

import refstore
from refstore import _messages

SOURCES = Path(refstore.__file__).parents[1]


@pytest.mark.parametrize("command", ["stat", "holders", "check", "recover", "rm"])
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/etc/passwd", "is not a store"),
        ("/dev/null", "is not a store"),
        ("/etc", "a directory has this name"),
        ("/etc/passwd/x", "not a directory"),
        ("/absent/x", "there is no"),
    ],
)
def test_what_is_no_store_is_2_and_one_line(
    run: Command, command: str, path: str, what: str
) -> None:
    for options in ([], ["--json"]) if command != "rm" else ([],):
        said = run(command, path, *options)
        assert (said.status, said.out) == (2, "")
        assert said.err.startswith("refstore: ")
        assert said.err.count("\n") == 1
        assert path in said.err
        assert what in said.err


def test_what_is_no_store_is_that_whoever_owns_it(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for command in ("stat", "check"):
        assert "is not a store" in run(command, "/etc/passwd").err


def test_a_socket_is_2_and_one_line(run: Command, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        said = run("check", "socket")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert "a device or a socket has this name" in said.err
    (folder / "socket").unlink()


@pytest.mark.parametrize("command", ["stat", "holders", "check", "recover", "rm"])
@pytest.mark.parametrize("name", ["-x", "--jso"])
def test_a_name_that_begins_with_a_dash_is_given_after_two(
    run: Command, command: str, name: str
) -> None:
    with refstore.Store(name, capacity="1MiB"):
        said = run(command, name)
        assert (said.status, said.out) == (2, "")
        advised = said.err.rpartition(" is a name: ")[2].rstrip().rstrip(")")
        assert advised.startswith(_messages.command())
        assert run(*shlex.split(advised.removeprefix(_messages.command()))).status == 0
    run("rm", "--", name)


def test_a_key_that_begins_with_a_dash_is_given_after_two(
    run: Command, train: refstore.Store
) -> None:
    train.put(b"x", name="-k")
    assert run("get", "train", "-k").err.rstrip().endswith(" get train -- -k)")
    assert run("get", "train", "--", "-k").status == 0
    said = run("objects", "train", "--prefix", "-k")
    assert said.err.rstrip().endswith("(if -k is what --prefix takes: --prefix=-k)")
    assert run("objects", "train", "--prefix=-k").out.count("\n") == 3


def test_no_advice_where_a_value_was_understood(run: Command, train: refstore.Store) -> None:
    said = run("objects", "train", "--limit", "-1")
    assert said.err.rstrip().endswith("it takes a number of lines, 1 or more, not '-1'")


def test_no_advice_about_names_where_none_is_taken(run: Command) -> None:
    assert " is a name" not in run("ls", "-x").err
    assert " is a name" not in run("stat").err


def test_commands_are_named_as_they_can_be_typed(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    (folder / "refstore").write_text("")
    assert "`python -m refstore ls` lists" in run("stat", "absent").err
    (folder / "refstore").chmod(0o700)
    assert "`refstore ls` lists" in run("stat", "absent").err
    as_module = [sys.executable, "-m", "refstore"]
    said = subprocess.run(
        [*as_module, "stat", "absent"], capture_output=True, text=True, check=False
    )
    assert "`python -m refstore ls` lists the existing ones" in said.stderr
    assert "create=" not in said.stderr
    said = subprocess.run([*as_module, "stat"], capture_output=True, text=True, check=False)
    assert "usage: python -m refstore stat" in said.stderr
    (folder / "refstore").unlink()


@pytest.mark.parametrize("arguments", [["rm", "nope"], ["stat", "nope"], ["check", "nope"]])
def test_a_store_that_is_not_there_is_not_to_be_made(
    run: Command, folder: Path, arguments: list[str]
) -> None:
    advice = f"`{_messages.command()} ls` lists the existing ones"
    said = f"refstore: {folder}/nope: no store named 'nope'; {advice}\n"
    assert run(*arguments) == (2, "", said)
    outside = run(arguments[0], "/nope")
    assert outside == (2, "", "refstore: /nope: there is no store at this path\n")


def test_a_command_that_is_not_on_the_path_is_named_as_it_was_typed(
    run: Command, folder: Path
) -> None:
    """As of a virtual environment that is not activated."""
    for name in ("a venv", "bin"):
        (folder / name).mkdir()
        script = folder / name / "refstore"
        script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom refstore.cli import main\nsys.exit(main())\n"
        )
        script.chmod(0o700)
    typed = folder / "a venv" / "refstore"
    named = shlex.quote(str(typed))

    def on(path: str, *arguments: str) -> str:
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(SOURCES)}
        done = subprocess.run(
            [typed, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        return " ".join(done.stderr.split())

    for path in ("", str(folder / "bin")):
        assert on(path, "stat").startswith(f"usage: {named} stat ")
        assert f"`{named} ls` lists" in on(path, "stat", "absent")
    assert on(str(folder / "a venv"), "stat").startswith("usage: refstore stat ")
    for name in ("a venv", "bin"):
        (folder / name / "refstore").unlink()
        (folder / name).rmdir()
