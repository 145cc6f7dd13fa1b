"""Options, sizes in words, tables, names and child processes, for every program."""

import argparse
import os
import secrets
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from refstore import RefstoreError, Store

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_UNITS = {"KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_REAP_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


def parse_size(text: str) -> int:
    """Reads `64MiB`, `1GB` or plain bytes; ValueError, as argparse wants it."""
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def parse_counts(text: str) -> list[int]:
    """Reads `1,2,4`."""
    return [int(part) for part in text.split(",")]


def size(nbytes: float) -> str:
    """Bytes, in the unit that a reader would choose."""
    return _in_units(nbytes, (("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)), 4)


def duration(seconds: float) -> str:
    """Seconds, from s down to ns."""
    return _in_units(seconds, (("s", 1), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)))


def rate(per_second: float) -> str:
    """Operations per second, in thousands or millions where there are so many."""
    return _in_units(per_second, (("M/s", 1e6), ("k/s", 1e3), ("/s", 1)))


def _in_units(value: float, units: Sequence[tuple[str, float]], digits: int = 3) -> str:
    """Writes a value in the first unit that it fills, or in the last."""
    unit, factor = next((each for each in units if value >= each[1]), units[-1])
    return f"{value / factor:.{digits}g} {unit}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, a rule under the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in ruled]
    return "\n".join(line.rstrip() for line in lines)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--backend`: the engine of every store that the program makes."""
    parser.add_argument("--backend", choices=("native", "filelock"), default="native")


def use_backend(name: str) -> None:
    """Makes `backend="auto"` mean that engine, here and in every child that is started."""
    os.environ["REFSTORE_BACKEND"] = name


def remove_store(path: str) -> None:
    """Removes a store and all that its engine keeps beside it, even if it is damaged."""
    try:
        with Store(path, create=False) as store:
            store.unlink()
    except RefstoreError:
        os.unlink(path)


def fresh_name(purpose: str) -> str:
    """A store name that no other run has."""
    return f"{purpose}-{os.getpid()}-{secrets.token_hex(4)}"


def fresh_seed() -> int:
    """A seed short enough to be typed again."""
    return secrets.randbelow(1 << 32)


def forked(work: Callable[[], object]) -> int:
    """The pid of a child that does this and nothing else."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def child_answer(
    context: ForkContext | ForkServerContext, work: Callable[..., None], *arguments: Any
) -> Any:
    """Runs `work` in a child, with a connection after its arguments; the object that it sends."""
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(*arguments, theirs), daemon=True)
    with reaped([child]):
        child.start()
        if not ours.poll(_ANSWER_SECONDS):
            raise RuntimeError(f"a child gave no answer within {_ANSWER_SECONDS:.0f} s")
        return ours.recv()


@contextmanager
def reaped(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Leaves no process: waits for them if all goes well inside, and kills them if not."""
    timeout = 0.0
    try:
        yield
        timeout = _REAP_SECONDS
    finally:
        for process in processes:
            if process.pid is not None:
                process.join(timeout)
                if process.is_alive():
                    process.kill()
                    process.join()
