"""What every program here needs: options, sizes in words, tables, names, reaped children."""

import argparse
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from refstore import RefstoreError, Store

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_UNITS = {"KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_REAP_SECONDS = 10.0


def parse_size(text: str) -> int:
    """`64MiB`, `1GB` or plain bytes; for argparse, hence the ValueError."""
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def parse_counts(text: str) -> list[int]:
    """`1,2,4`."""
    return [int(part) for part in text.split(",")]


def size(nbytes: float) -> str:
    """Bytes, in the unit a reader would choose."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes:.0f} B"


def duration(seconds: float) -> str:
    """Seconds, in the unit a reader would choose."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def rate(per_second: float) -> str:
    """Operations per second, in thousands or millions where there are so many."""
    for unit, factor in (("M/s", 1e6), ("k/s", 1e3)):
        if per_second >= factor:
            return f"{per_second / factor:.3g} {unit}"
    return f"{per_second:.3g} /s"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, a rule under the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in ruled]
    return "\n".join(line.rstrip() for line in lines)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The option `--backend`: the engine of every store that the program makes."""
    parser.add_argument("--backend", choices=("native", "filelock"), default="native")


def use_backend(name: str) -> None:
    """Let `backend="auto"` mean that engine, here and in every child that is started."""
    os.environ["REFSTORE_BACKEND"] = name


def remove_store(path: str) -> None:
    """Remove a store and all that its engine keeps beside it, even if it is damaged."""
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


@contextmanager
def reaped(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Whatever happens inside, no process is left: waited for if all went well, killed if not."""
    patience = 0.0
    try:
        yield
        patience = _REAP_SECONDS
    finally:
        for process in processes:
            if process.pid is not None:
                process.join(patience)
                if process.is_alive():
                    process.kill()
                    process.join()
