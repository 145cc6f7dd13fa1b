"""The command and stores of other users, whom root and the user's folders may let in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Command

import refstore
from refstore import _paths
from refstore._temporary import collect_temporary


@pytest.fixture
def left(run: Command, folder: Path) -> Iterator[str]:
    """The path of a store of another user than the command takes itself to be."""
    with refstore.Store("train", capacity="1MiB") as store:
        store.put(b"x")
    path = str(folder / "train")
    yield path
    if os.path.exists(path):
        os.unlink(path)
    collect_temporary(str(folder))  # its owner's part


@pytest.fixture
def another(left: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of the user who looks, and may open the file nevertheless."""
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user + 1)
        patch.setattr(_paths, "_uid", lambda: user)  # who may list the folder
        yield user + 1


@pytest.mark.parametrize("command", ["stat", "holders", "check", "recover"])
def test_another_users_store_takes_a_word_of_trust(
    run: Command, left: str, another: int, command: str
) -> None:
    said = run(command, left)
    assert said.status == 2
    assert f"belongs to user {another - 1}" in said.err
    assert "--foreign" in said.err
    assert run(command, left, "--foreign").status == 0


def test_ls_shows_another_users_store_if_told_to(run: Command, left: str, another: int) -> None:
    assert "--foreign" in run("ls").out
    (row,) = run("ls", "--foreign", "--json").json
    assert row["objects"] == 1


def test_rm_trusts_nobody_and_need_not(run: Command, left: str, another: int) -> None:
    assert run("rm", left) == (0, "", "")
    assert not os.path.exists(left)
