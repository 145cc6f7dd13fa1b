"""What the tests share: patterns, addresses, processes that are forked or run a script."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import programs

import refstore
from refstore.payload import Frame

START_METHODS = ("fork", "spawn", "forkserver")
BUSY_TIMEOUT = 60.0  # seconds that a child may take for one command, on a busy machine
SHARED_MEMORY = Path("/dev/shm")

Array = npt.NDArray[Any]


# -- patterns ---------------------------------------------------------------------------------


REPEATED = 16_381  # bytes: a prime number, so that no two pages of a pattern are alike


def pattern(seed: int, size: int) -> bytes:
    """`size` bytes that only `seed` gives."""
    some = hashlib.shake_128(str(seed).encode()).digest(min(size, REPEATED))
    return (some * (size // REPEATED + 1))[:size]


def put_until_full(
    store: refstore.Store, objects: Iterable[object], **options: Any
) -> list[refstore.ObjectRef]:
    """Put one after the other, until the store refuses one; those that it took."""
    refs: list[refstore.ObjectRef] = []
    with contextlib.suppress(refstore.StoreFullError):
        for obj in objects:
            ref = store.put(obj, **options)
            refs.append(ref)
    return refs


def fill_with_junk(store: refstore.Store, byte: int = 0xEE) -> int:
    """Overwrite all the room there is, and give it back; the number of objects it took."""
    refs = []
    with contextlib.suppress(refstore.StoreFullError):  # if slots run out before the room does
        while size := store.stats().largest_free:
            refs.append(store.put(bytes([byte]) * size))
    for ref in refs:
        store.delete(ref)
    return len(refs)


def assert_full_capacity_fits(store: refstore.Store) -> None:
    """An empty store takes one object of its whole capacity, and gives it back."""
    data = pattern(store.capacity, store.capacity)
    ref = store.put(data)
    with store.get(ref) as buf:
        assert bytes(buf) == data
    store.delete(ref)


def usage(store: refstore.Store) -> tuple[int, int, int, int]:
    """What a call that fails must leave as it was; what is free depends on the file system, too."""
    stats = store.stats()
    return stats.used, stats.objects, stats.pinned, stats.condemned


# -- files ------------------------------------------------------------------------------------


def stores(folder: Path) -> list[str]:
    """What lies in a folder, without the locks of the filelock engine's stores."""
    return sorted(entry.name for entry in folder.iterdir() if not is_lock_folder(entry))


def is_lock_folder(path: Path) -> bool:
    return path.suffix == ".locks" and path.is_dir()


def remove(path: str | Path) -> None:
    """Remove a file behind the engine's back, and the locks that it would have cleared away."""
    file = Path(path)
    file.unlink()
    for entry in file.parent.glob(f"{file.name}.*.locks"):
        shutil.rmtree(entry)


@contextlib.contextmanager
def folder_in_memory(prefix: str) -> Iterator[str]:
    """A folder for many trials: in shared memory, if there is any."""
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
        yield folder


# -- addresses --------------------------------------------------------------------------------


class Mapping(NamedTuple):
    """One line of /proc/self/maps that names a file."""

    start: int
    end: int
    permissions: str
    path: str


def mappings(under: str | Path) -> list[Mapping]:
    """This process's mappings of `under`, or of the files in that folder."""
    found: list[Mapping] = []
    lines = Path("/proc/self/maps").read_text()
    if str(under) not in lines:  # thousands of lines beside large libraries
        return found
    for line in lines.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6:
            continue
        path = fields[5].removesuffix(" (deleted)")
        if path == str(under) or path.startswith(f"{under}/"):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append(Mapping(start, end, fields[1], path))
    return found


def open_files(under: str | Path) -> list[str]:
    """What this process's descriptors name in that folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path.startswith(f"{under}/"):
                found.append(path)
    return found


def address(array: Array) -> int:
    """Where an array's first byte lies."""
    return int(array.__array_interface__["data"][0])


def lies_in(path: str | Path, where: int) -> bool:
    """Whether an address lies in a mapping of that file: the bytes there were not copied."""
    return any(m.start <= where < m.end for m in mappings(path))


def flat(buffer: Any, dtype: str = "u1") -> Array:
    """`np.frombuffer`, whose stub knows no buffers but numpy's before Python 3.12."""
    return np.frombuffer(buffer, dtype)


def memory(array: Any) -> memoryview:
    """`memoryview`, whose stub knows no ndarrays before Python 3.12."""
    return memoryview(array)


def fill(memory: memoryview, frame: Frame) -> None:
    """Write an encoded object to memory, as an engine does to a block."""
    for at, piece in frame.pieces:
        memory[at : at + piece.nbytes] = piece


def address_of(buffer: Any) -> int:
    """Where a buffer's first byte lies."""
    return address(flat(buffer))


# -- waiting for what others do ---------------------------------------------------------------


def eventually(look: Callable[[], bool], seconds: float = BUSY_TIMEOUT) -> bool:
    """Whether it is ever so, while another process or thread goes on."""
    end = time.monotonic() + seconds
    while not (is_so := look()) and time.monotonic() < end:
        os.sched_yield()
    return is_so


def is_unpinned(store: refstore.Store) -> bool:
    """Whether nothing is pinned that the collector can free: libraries make cycles of arrays."""
    gc.collect()
    return store.stats().pinned == 0


# -- processes --------------------------------------------------------------------------------


class Process(NamedTuple):
    """A child of this process that has not been reaped."""

    pid: int
    command: str


def children() -> set[Process]:
    """This process's children and the fork server's, without those that multiprocessing keeps."""
    servers = {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(_forkserver(), "_forkserver_pid", None),
    }
    pids = {int(one.pid or 0) for one in multiprocessing.active_children()}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            pids.update(map(int, (task / "children").read_text().split()))
    found = set()
    for pid in pids - servers:
        with contextlib.suppress(OSError):
            found.add(Process(pid, Path(f"/proc/{pid}/comm").read_text().strip()))
    return found


def _forkserver() -> Any:
    from multiprocessing import forkserver

    return forkserver._forkserver


@contextlib.contextmanager
def forking_on_purpose() -> Iterator[None]:
    """From 3.12 on, Python warns of a fork while other threads run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        yield


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a forked child and return its exit status; 0 unless it raised."""
    with forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def stopped(work: Callable[[], object], ends: Container[int] = (0,)) -> Iterator[int]:
    """The pid of a forked child that stops itself amid `work`, and goes on with it afterwards.

    `ends`: what may be its exit status, or minus the signal that it gets meanwhile.
    """
    with forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in ends


def stop(pid: int) -> None:
    """Stop a process; returns when it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    assert eventually(lambda: stat.read_text().rpartition(")")[2][1] == "T")


@contextlib.contextmanager
def halted(pid: int) -> Iterator[None]:
    """A process that does not run meanwhile, wherever it was."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


PRELOADED = ["tests", "workers", "refstore.engines.filelock.engine"]
# Here, and not with the first child: whoever asks first for a process of this kind starts the fork
# server, and what that has not loaded every child loads by itself, which takes ten times as long.
multiprocessing.set_forkserver_preload(PRELOADED)


def preload(module: str) -> None:
    """Let the fork server load another module, too: it ends here, and starts with the next child.

    It ends when no process has its pipe any more, which children inherit.
    """
    assert not multiprocessing.active_children(), "children are left, for whose end it would wait"
    PRELOADED.append(module)
    multiprocessing.set_forkserver_preload(PRELOADED)
    _forkserver()._stop()


# -- scripts ----------------------------------------------------------------------------------


def run_script(
    source: str, *args: object, env: dict[str, str] | None = None, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own to its end, and return what it wrote."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=BUSY_TIMEOUT,
        env={**os.environ, **(env or {})},
        check=False,
    )


def run_warm(source: str, *args: object) -> subprocess.CompletedProcess[str]:
    """The same of a program that does not care how Python starts and ends; see `programs`."""
    work = programs.Script(textwrap.dedent(source))
    return programs.run(work, args, dict(os.environ), BUSY_TIMEOUT)


def run_clean(source: str, *args: object, options: tuple[str, ...] = ()) -> str:
    """Run a program that must end with 0 and write nothing to stderr; what it printed."""
    return said_by(run_script(source, *args, options=options))


def run_warm_clean(source: str, *args: object) -> str:
    """The same of one that does not care how Python starts and ends."""
    return said_by(run_warm(source, *args))


def said_by(program: subprocess.CompletedProcess[str]) -> str:
    """What it printed, once it has ended with 0 and written nothing to stderr."""
    assert program.stderr == "", program.stderr
    assert program.returncode == 0
    return program.stdout.strip()


@contextlib.contextmanager
def script(source: str, *args: object) -> Iterator[programs.Talking]:
    """A program that runs beside the test, spoken to by lines; killed if it is still there."""
    work = programs.Script(textwrap.dedent(source))
    with tempfile.TemporaryFile("w+") as errors:
        program = programs.Talking(work, args, dict(os.environ), errors)
        try:
            yield program
        finally:
            program.end()


def line(program: programs.Talking | subprocess.Popen[str]) -> str:
    """The next line that a script says."""
    assert program.stdout is not None
    ready = wait([program.stdout.fileno()], timeout=BUSY_TIMEOUT)
    assert ready, "the script says nothing"
    return program.stdout.readline().strip()


def go_on(program: programs.Talking) -> None:
    """Let whoever waits on the script's stdin go on."""
    program.stdin.write("x")
    program.stdin.flush()
