"""Room in the file that is being filled: in pieces, between which signal handlers run, and with a
look at whose life it is before each.

A child that is forked between a look and the copy could still write, by which time its parent may
have given the room to somebody else. So each piece is an array that the fork takes the child's
right to write from (`Mapping.stop_writing`), and is filled by one statement. That is a call, and
the piece is kept over it: a handler runs after a call, while one that came to run as the piece ends,
in the callback of a weak reference, would raise in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from refstore.locked.life import Life

if TYPE_CHECKING:
    from refstore.locked.mapping import Mapping

PIECE: Final = 8 << 20  # bytes that are copied before handlers run


class Target:
    """`nbytes` bytes from `at` on, which this life alone fills."""

    __slots__ = ("_at", "_file", "_life", "nbytes")

    def __init__(self, file: Mapping, at: int, nbytes: int, life: Life) -> None:
        self._file = file
        self._at = at
        self._life = life
        self.nbytes = nbytes

    def part(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Some of the bytes, to be filled at once."""
        return self.array(offset, (nbytes,), np.dtype(np.uint8))

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in C order, to be filled at once."""
        made: npt.NDArray[Any] = np.ndarray(shape, dtype, self._file.writable, self._at + offset)
        self._file.targets[id(made)] = made
        self._life.demand(self._file.path)
        return made

    def copy(self, offset: int, source: Any) -> None:
        """`source`, plain bytes of any size."""
        octets = np.frombuffer(source, np.uint8) if len(source) else source
        for start, end in pieces(len(octets)):
            piece = self.part(offset + start, end - start)
            np.copyto(piece, octets[start:end])


def pieces(nbytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece."""
    for start in range(0, nbytes, PIECE):
        yield start, min(start + PIECE, nbytes)
