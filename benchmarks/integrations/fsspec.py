"""Files of a store, against fsspec's memory:// and a local file in shared memory."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np

from benchmarks.goals.row import Effort, Row, timed
from refstore import Store
from stress.measure import Loop
from stress.support import GIB, KIB, MIB

LARGE, SMALL = 64 * MIB, 4 * KIB
OTHERS = {"memory": "memory://", "file": "file in /dev/shm"}


def rows(effort: Effort) -> Sequence[Row]:
    found = []
    for backend in ("native", "filelock"):
        with _files(backend) as places:
            ours = places.pop("refstore")
            for what, loop in LOOPS.items():
                for other, floor in places.items():
                    label = f"{backend}: {what} / {OTHERS[other]}"
                    found.append(timed(label, effort, loop(*ours), loop(*floor), None))
    return found


@contextmanager
def _files(backend: Any) -> Iterator[dict[str, tuple[Any, str]]]:
    """A file system of each kind, and a folder in it with a file of LARGE bytes."""
    data = np.random.default_rng(1).bytes(LARGE)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        Store.temporary(GIB, backend=backend) as store,
    ):
        directory, name = os.path.split(store.path)
        places = {
            "refstore": (fsspec.filesystem("refstore", directory=directory), name),
            "memory": (fsspec.filesystem("memory"), "/bench"),
            "file": (fsspec.filesystem("file"), folder),
        }
        for fs, where in places.values():
            fs.pipe_file(f"{where}/large", data)
        yield places
        fsspec.filesystem("memory").rm("/bench", recursive=True)
        fsspec.filesystem("refstore", directory=directory).invalidate_cache()


def _opened(use: Callable[[Any], object]) -> Callable[[Any, str], Loop]:
    """Opens the large file, and does with it what a benchmark is about."""

    def loop(fs: Any, where: str) -> Loop:
        def run(turns: int) -> None:
            for _ in range(turns):
                with fs.open(f"{where}/large", "rb") as file:
                    use(file)

        return run

    return loop


def _into(room: bytearray) -> Callable[[Any], object]:
    # a local file of fsspec's has no readinto() but that of the file in it
    return lambda file: getattr(file, "f", file).readinto(room)


def _range(fs: Any, where: str) -> Loop:
    starts = [random.Random(1).randrange(LARGE - SMALL) for _ in range(100)]

    def run(turns: int) -> None:
        for turn in range(turns):
            start = starts[turn % 100]
            fs.cat_file(f"{where}/large", start, start + SMALL)

    return run


def _pipe(fs: Any, where: str) -> Loop:
    data = bytes(LARGE)

    def run(turns: int) -> None:
        for _ in range(turns):
            fs.pipe_file(f"{where}/piped", data)

    return run


def _write(fs: Any, where: str) -> Loop:
    piece = bytes(MIB)

    def run(turns: int) -> None:
        for _ in range(turns):
            with fs.open(f"{where}/written", "wb") as file:
                for _ in range(LARGE // MIB):
                    file.write(piece)

    return run


LOOPS: dict[str, Callable[[Any, str], Loop]] = {
    "open and read() of 64 MiB": _opened(lambda file: file.read()),
    "open and readinto() of 64 MiB": _opened(_into(bytearray(LARGE))),
    # a local file has to be read
    "open and getbuffer() of 64 MiB": _opened(lambda file: getattr(file, "getbuffer", file.read)()),
    "cat_file() of 4 KiB": _range,
    "pipe_file() of 64 MiB": _pipe,
    "open and 64 times write() of 1 MiB": _write,
}
