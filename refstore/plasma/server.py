"""Stores for as long as a `with` lasts, in the manner of Plasma's server processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from refstore._store import Store

__all__ = ["StoreProcess", "start_plasma_store"]


class StoreProcess:
    """Stands for the `subprocess.Popen` of a Plasma server: ending it removes the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ended = threading.Event()
        self.args = ["refstore", store.path]
        self.pid = os.getpid()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is not None or number not in (signal.SIGTERM, signal.SIGKILL):
            return
        with contextlib.suppress(FileNotFoundError):
            self._store.unlink()
        self._store.close()
        self.returncode = 0 if number == signal.SIGTERM else -number
        self._ended.set()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def start_plasma_store(
    plasma_store_memory: int,
    use_valgrind: bool = False,
    use_profiler: bool = False,
    plasma_directory: str | os.PathLike[str] | None = None,
    use_hugepages: bool = False,
    external_store: str | None = None,
) -> Iterator[tuple[str, StoreProcess]]:
    """Makes a store that evicts what was not used for longest, and removes it at the end of `with`.

    No process is started: any process can attach to the store, and it does not end with its users.

    Parameters:
        plasma_store_memory: bytes of payload that it holds.
        use_valgrind: must be False.
        use_profiler: must be False.
        plasma_directory: the folder of its file; None: as of `Store.temporary()`, whose file goes
            also when this process is killed.
        use_hugepages: of no effect: large objects get huge pages wherever the kernel makes them.
        external_store: must be None.

    Returns:
        The name to connect to, and an object with the calls of `subprocess.Popen`.

    Errors:
        ValueError: a valgrind, profiler or external store was asked for, or the memory is no size.
        OSError: the store cannot be made.

    Example:
        >>> from refstore import plasma
        >>> with plasma.start_plasma_store(1_000_000) as (name, process):
        ...     plasma.connect(name).store_capacity()
        1000000
    """
    if use_valgrind or use_profiler:
        raise ValueError(
            "a valgrind or profiler was asked for, and a store has no server process: run this "
            "program itself in it"
        )
    if external_store is not None:
        raise ValueError(
            f"external store {external_store!r} was asked for, and what is evicted is gone here: "
            "make the store large enough, or keep objects elsewhere by yourself"
        )
    if plasma_directory is None:
        store = Store.temporary(plasma_store_memory, evict="lru")
    else:
        path = Path(plasma_directory) / f"plasma-{secrets.token_hex(8)}"
        store = Store(path, capacity=plasma_store_memory, create=True, evict="lru")
    process = StoreProcess(store)
    try:
        yield store.path, process
    finally:
        process.kill()
