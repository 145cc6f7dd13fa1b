"""The worker processes, seen from the server."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from types import TracebackType

from examples.gan import endings, worker
from examples.gan.messages import Failed, Go, Message
from examples.gan.settings import Settings
from refstore import Store

BUSY_TIMEOUT = 5.0  # seconds for a worker to go of itself, or by SIGTERM, before SIGKILL


class Workers:
    """Gone when `with` ends, whether it ends well or not.

    The only writing end of each worker's pipe is the worker's own, so its death, of whatever
    kind, shows as the end of its messages.
    """

    def __init__(self) -> None:
        self._processes: list[SpawnProcess] = []
        self._pipes: dict[connection.Connection, int] = {}

    def start(self, settings: Settings, store: Store) -> None:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # it would be started below, and undo the holding back
        with endings.ctrl_c_held_back():
            for number in range(settings.workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=worker.main,
                    args=(number, settings, store, theirs),
                    name=f"worker {number}",
                    daemon=True,
                )
                self._processes.append(process)
                process.start()
                theirs.close()
                self._pipes[ours] = number

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            endings.ignore_signals()
        started = [process for process in self._processes if process.pid is not None]
        if kind is not None:
            for process in started:
                process.terminate()
        for process in started:
            process.join(BUSY_TIMEOUT)
            if process.is_alive():
                process.kill()
                process.join()

    def messages(self) -> Iterator[tuple[int, Message]]:
        """Yield what workers say, until all of them have left; raise if one does not end well."""
        while self._pipes:
            for pipe in connection.wait(list(self._pipes)):
                assert isinstance(pipe, connection.Connection)
                number = self._pipes[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    del self._pipes[pipe]
                    self._see_off(number)
                    continue
                if isinstance(message, Failed):
                    raise endings.RunFailed(
                        f"{message.traceback}worker {number} failed: {message.reason}"
                    )
                yield number, message

    def go(self) -> None:
        """Tell all workers to go on."""
        for pipe in self._pipes:
            with suppress(BrokenPipeError):  # its death is reported by `messages`
                pipe.send(Go())

    def _see_off(self, number: int) -> None:
        process = self._processes[number]
        process.join(BUSY_TIMEOUT)
        if process.exitcode != 0:
            raise endings.RunFailed(f"worker {number} died: {_how(process.exitcode)}")


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "it closed its pipe and hangs"
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
