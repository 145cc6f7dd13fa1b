"""The failpoints of a debug build: every write to shared memory, and what the kernel did for us.

The compiled module has them as (file, line), in the order in which the linker found them. Here each
also has the function that it is in and its source line, so that a test can ask for one by those.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from refstore import _core

ROOT = Path(__file__).parents[3]
_DEFINITION = re.compile(r"(?:cdef (?:inline )?[^=(]*?|def )(\w+)\(")


class Failpoint(NamedTuple):
    """Right after one write."""

    number: int
    file: str
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.function}: {self.source}"


@functools.cache
def failpoints() -> tuple[Failpoint, ...]:
    """All of them, by number."""
    found = []
    for number, (file, line) in enumerate(_core._failpoints()):
        lines = (ROOT / file).read_text().splitlines()
        source = lines[line - 1].split("  #")[0].strip()
        found.append(Failpoint(number, file, line, _function(lines, line), source))
    return tuple(found)


def _function(lines: list[str], line: int) -> str:
    for text in reversed(lines[:line]):
        match = _DEFINITION.match(text.strip())
        if match:
            return match.group(1)
    raise LookupError(f"line {line} is in no function")


def failpoint(function: str, source: str) -> Failpoint:
    """The one in that function whose line has this text."""
    found = [f for f in failpoints() if f.function == function and source in f.source]
    if len(found) != 1:
        raise LookupError(f"{len(found)} failpoints in {function}() with {source!r}")
    return found[0]


class Passes:
    """How often a process passed each failpoint; other processes see it, whatever became of it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4 * len(failpoints()))
        self._counts = (ctypes.c_uint32 * len(failpoints())).from_buffer(self._memory)

    def count(self) -> None:
        """Called by the process that is to be watched."""
        _core._count_passes(ctypes.addressof(self._counts))

    def clear(self) -> None:
        ctypes.memset(self._counts, 0, ctypes.sizeof(self._counts))

    def passed(self) -> Iterator[tuple[int, int]]:
        """(number, how often) of those that were passed."""
        return ((number, n) for number, n in enumerate(self._counts) if n)
