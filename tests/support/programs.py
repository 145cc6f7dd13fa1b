"""Programs as children of the fork server, which has imported what most of them need.

So they start in a tenth of the time. Each has a pid, descriptors, an environment, arguments and, if
it is to have one, a terminal of its own. What Python itself does at a start and at an end is seen
by programs that have an interpreter of their own: `helpers.run_script`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import termios
import threading
import types
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Work: TypeAlias = "Callable[[], int | None]"  # returns its exit status


def start(
    work: Work,
    arguments: Sequence[object],
    descriptors: tuple[int, int, int],
    environment: dict[str, str],
    has_terminal: bool = False,
) -> Any:
    """A process that does its work on these for its stdin, stdout and stderr."""
    process = multiprocessing.get_context("forkserver").Process(
        target=_run,
        args=(
            work,
            [str(one) for one in arguments],
            [Connection(os.dup(number)) for number in descriptors],
            environment,
            os.getcwd(),
            has_terminal,
        ),
    )
    process.start()
    return process


def run(
    work: Work, arguments: Sequence[object], environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Let one come to its end, with nothing to read; what it wrote."""
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        descriptors = (nothing.fileno(), out.fileno(), err.fileno())
        process = start(work, arguments, descriptors, environment)
        try:
            process.join(seconds)
            status = process.exitcode
        finally:
            end(process)
        out.seek(0)
        err.seek(0)
        wrote = out.read(), err.read()
    if status is None:
        raise TimeoutError(f"a program did not end within {seconds} s: {wrote}")
    return subprocess.CompletedProcess([], status, *wrote)


class Talking:
    """One that runs beside the test, and is spoken to; as `subprocess.Popen` has it."""

    def __init__(
        self, work: Work, arguments: Sequence[object], environment: dict[str, str], errors: Any
    ) -> None:
        theirs, ours = os.pipe()
        self.stdin = os.fdopen(ours, "w")
        ours_too, theirs_too = os.pipe()
        self.stdout = os.fdopen(ours_too)
        try:
            descriptors = (theirs, theirs_too, errors.fileno())
            self._process = start(work, arguments, descriptors, environment)
        finally:
            os.close(theirs)
            os.close(theirs_too)
        self.pid: int = self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        self._process.join(seconds)
        status: int | None = self._process.exitcode
        return status

    def end(self) -> None:
        """Kill it, if it still runs; whoever else waits for its words hears that there are none."""
        end(self._process)
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.read()  # until those that it has left behind have ended, too
        self.stdout.close()


def end(process: Any) -> None:
    """Kill it, if it still runs."""
    if process.exitcode is None:
        process.kill()
    process.join()
    process.close()


def command() -> int:
    """The `refstore` command."""
    from refstore import cli

    sys.argv[0] = cli.__file__.replace("cli/__init__", "__main__")
    return cli.main()


class Script:
    """A program from its text."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __call__(self) -> None:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            exec(compile(self._source, "<string>", "exec"), vars(main))
        finally:  # as at Python's own end
            vars(main).clear()
            gc.collect()


def _run(
    work: Work,
    arguments: list[str],
    descriptors: list[Connection],
    environment: dict[str, str],
    folder: str,
    has_terminal: bool,
) -> None:
    gc.freeze()  # what the imports have left is no garbage
    for number, given in enumerate(descriptors):
        os.dup2(given.fileno(), number)
        given.close()
    if has_terminal:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _open_streams(environment.get("PYTHONIOENCODING", "utf-8"))
    sys.argv = ["-c", *arguments]
    try:
        sys.exit(work())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def _open_streams(encoding: str) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = os.fdopen(number, "w" if number else "r", encoding=encoding, closefd=False)
        if name == "stderr":
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
