"""Child processes that are told what to do: functions of `workers`, on a store that is shared.

A child is a real process. Nothing here sleeps: a test waits on a pipe or on a process's end, and
every child is reaped before its context is left.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import engines
import programs
from helpers import BUSY_TIMEOUT, forking_on_purpose

import refstore


class RemoteError(Exception):
    """A command raised in the child: the exception's type name and its text."""


class Session:
    """What a child process's commands work on: its store, and what it holds by key."""

    def __init__(self, store: refstore.Store | None, pipe: Connection | None = None) -> None:
        self._store = store
        self._pipe = pipe
        self.held: dict[str, Any] = {}

    @property
    def store(self) -> refstore.Store:
        assert self._store is not None
        return self._store

    def say(self, value: object) -> None:
        """Tell the parent something while a command runs."""
        assert self._pipe is not None
        self._pipe.send(("said", value))

    def is_called(self, seconds: float) -> bool:
        """Whether there is something to hear, within that time."""
        assert self._pipe is not None
        return self._pipe.poll(seconds)

    def hear(self) -> None:
        """Wait, in the middle of a command, for the parent's `ChildProcess.go_on`."""
        assert self._pipe is not None
        self._pipe.recv()

    def adopt(self, store: refstore.Store) -> None:
        """Make a store the one that commands work on."""
        self._store = store


Command = Callable[..., Any]


class ChildProcess:
    """A child process that runs functions of `workers`, one at a time, and answers."""

    def __init__(
        self, store: refstore.Store | str | Path | None, method: str = "forkserver"
    ) -> None:
        context = multiprocessing.get_context(method)
        self._pipe, theirs = context.Pipe()
        target = str(store) if isinstance(store, Path) else store
        self.process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, target, engines.current()), daemon=True
        )
        with forking_on_purpose():
            self.process.start()
        theirs.close()
        self.killed = False

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def tell(self, command: Command, *args: object) -> None:
        """Start a command; `answer` waits for its end."""
        self._pipe.send((command, args))

    def answer(self) -> Any:
        """The result of the command that was told, or what the command itself has sent."""
        kind, value = self.receive()
        if kind == "error":
            raise RemoteError(value)
        return value

    def receive(self) -> tuple[str, Any]:
        """The next message: ("said", ...) while a command runs, then its result or error."""
        ready = wait([self._pipe, self.process.sentinel], timeout=BUSY_TIMEOUT)
        if self._pipe in ready:
            with contextlib.suppress(EOFError, ConnectionResetError):
                message: tuple[str, Any] = self._pipe.recv()
                return message
            self.process.join(BUSY_TIMEOUT)
        if not ready:
            raise TimeoutError(f"no answer from {self.process} in {BUSY_TIMEOUT} s")
        raise ChildProcessError(f"{self.process} ended in the middle of a command")

    def go_on(self) -> None:
        """What a command waits for that hears."""
        self._pipe.send("go on")

    def do(self, command: Command, *args: object) -> Any:
        """Run a command in the child and return its result."""
        self.tell(command, *args)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(BUSY_TIMEOUT)
        assert self.process.exitcode == -signal.SIGKILL

    def stop(self) -> None:
        """Let it end by itself; its exit code must be 0."""
        if not self.killed:
            self._pipe.send(None)
            self.process.join(BUSY_TIMEOUT)
            assert self.process.exitcode == 0, f"{self.process}"

    def reap(self) -> None:
        """Whatever happened, leave no process and no pipe."""
        programs.end(self.process)
        self._pipe.close()


@contextlib.contextmanager
def child_process(
    store: refstore.Store | str | Path | None, method: str = "forkserver"
) -> Iterator[ChildProcess]:
    """A child with `store` (or attached to the path given), ended and reaped on the way out."""
    with child_processes(1, store, method) as (child,):
        yield child


@contextlib.contextmanager
def child_processes(
    count: int, store: refstore.Store | str | Path | None, method: str = "forkserver"
) -> Iterator[list[ChildProcess]]:
    """Several children at once, all attached before the test goes on."""
    started: list[ChildProcess] = []
    try:
        started.extend(ChildProcess(store, method) for _ in range(count))
        for child in started:
            assert child.receive() == ("ready", None)
        yield started
        for child in started:
            child.stop()
    finally:
        for child in started:
            child.reap()


def clear_up_after_the_dead(path: str | Path) -> None:
    """Let a process attach, which gives back what dead ones held."""
    with child_process(path):
        pass


def _serve(pipe: Connection, store: refstore.Store | str | None, engine: str) -> None:
    """The child: run what comes through the pipe until `None` comes."""
    os.environ[engines.VARIABLE] = engine  # what a fork server knows is older than the test
    gc.freeze()  # what the imports have left is no garbage
    attached = refstore.Store(store, create=False) if isinstance(store, str) else store
    session = Session(attached, pipe)
    pipe.send(("ready", None))
    while (message := pipe.recv()) is not None:
        command, args = message
        try:
            reply = ("result", command(session, *args))
        except Exception as error:
            detail = "".join(traceback.format_exception(error))
            reply = ("error", f"{type(error).__name__}: {error}\n{detail}")
            del error
        pipe.send(reply)
        del reply, command, args
        gc.collect()
