"""The `refstore` command, in this process or in one of its own, and what it said."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import helpers
import programs
import pytest

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


def in_a_process(*arguments: str, **environment: str) -> Said:
    """The command in a process of its own."""
    work = programs.command
    done = programs.run(work, arguments, os.environ | environment, helpers.BUSY_TIMEOUT)
    return Said(done.returncode, done.stdout, done.stderr)
