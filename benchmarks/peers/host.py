"""The driver's side: a peer with its processes."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from benchmarks.peers.protocol import Cannot
from benchmarks.peers.registry import entry
from stress import ROOT

LOGS = ROOT / "build" / "bench"
_TIMEOUT = 90.0
_END = 15.0
_LEAD = 0.005  # seconds until all processes of a window have heard of it


class Lost(Exception):
    """A peer's process died or fell silent."""


class Remote:
    """One process of a peer."""

    def __init__(self, name: str, token: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs, (LOGS / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [entry(name).python, "-m", "benchmarks.peers.worker", name, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={**os.environ, "REFSTORE_BENCH_TOKEN": token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # with all that it starts, so that all can be ended
            )
        self._name = name
        self._orders = Connection(ours.detach())

    def send(self, order: str, *arguments: Any) -> None:
        try:
            self._orders.send((order, arguments))
        except OSError as error:
            raise Lost(f"{self._name}: {error}") from None

    def receive(self, timeout: float = _TIMEOUT) -> Any:
        try:
            if not self._orders.poll(timeout):
                self.kill()
                raise Lost(f"{self._name} was silent for {timeout:.0f} s")
            word, answer = self._orders.recv()
        except (EOFError, OSError):
            raise Lost(f"{self._name}: the process died, see {LOGS}") from None
        if word == "cannot":
            raise Cannot(answer)
        if word == "failed":
            raise RuntimeError(f"{self._name}: {answer}")
        return answer

    def call(self, order: str, *arguments: Any) -> Any:
        self.send(order, *arguments)
        return self.receive()

    def end(self) -> None:
        """Ends the process, in order if it can be, and by force if not."""
        with suppress(Lost, Cannot, RuntimeError):
            self.send("close")
            self.receive(_END)
        self._orders.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END)
        self.kill()

    def kill(self) -> None:
        """Kills the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Host:
    """A store of one peer, and as many processes on it as were asked for."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self._cores = sorted(os.sched_getaffinity(0))
        self._folder = tempfile.mkdtemp(prefix="refstore-bench-", dir="/dev/shm")
        self._token = secrets.token_hex(32)  # for peers that let nobody in without one
        LOGS.mkdir(parents=True, exist_ok=True)
        self._workers: list[Remote] = []
        try:
            self._handle: bytes = self._started().call(
                "create", capacity, self._folder, self._cores[0]
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Host":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _started(self) -> Remote:
        self._workers.append(Remote(self.name, self._token))
        return self._workers[-1]

    @property
    def first(self) -> Remote:
        """The process that made the store."""
        return self._workers[0]

    def workers(self, count: int) -> Sequence[Remote]:
        """Its first `count` processes; starts those that are not there yet."""
        while len(self._workers) < count:
            self.another()
        return self._workers[:count]

    def another(self) -> float:
        """Starts one more process on the store; seconds that attaching took."""
        index = len(self._workers)
        core = self._cores[index % len(self._cores)]
        taken: float = self._started().call("attach", self._handle, index, core)
        return taken

    def kill_last(self) -> float:
        """Kills the process that came last; the time of its death."""
        remote = self._workers.pop()
        died = time.perf_counter()
        os.kill(remote.process.pid, signal.SIGKILL)
        remote.process.wait()
        return died

    def end_last(self) -> None:
        """Ends the process that came last in order."""
        self._workers.pop().end()

    def speed(self, loop: str, nbytes: int, procs: int, seconds: float) -> float:
        """Turns per second of all processes together, in one window."""
        workers = self.workers(procs)
        start = time.perf_counter() + _LEAD
        for worker in workers:
            worker.send("window", loop, nbytes, start, seconds)
        return float(sum(worker.receive() for worker in workers))

    def close(self) -> None:
        """Ends all processes, the first one last: it may be the server's parent."""
        for remote in reversed(self._workers):
            remote.end()
        self._workers.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
