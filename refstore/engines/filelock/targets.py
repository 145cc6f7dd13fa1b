"""Room in the file that is being filled, piece by piece: signal handlers run between two pieces.

Before each there is a look at whose life it is.

A child that is forked between a look and the copy could still write, by which time its parent may
have given the room to somebody else. So the fork takes the child's right to write from the array
that is the piece (`Mapping.stop_writing`), which one statement fills: `piece[:] = source`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from refstore.engines.filelock.life import Life
from refstore.payload.frames import base_address

if TYPE_CHECKING:
    from refstore.engines.filelock.mapping import Mapping

PIECE: Final = 8 << 20  # bytes that are copied before handlers run


class Target:
    """`nbytes` bytes from `at` on, which this life alone fills."""

    __slots__ = ("__weakref__", "_at", "_file", "_life", "_piece", "nbytes")

    def __init__(self, file: Mapping, at: int, nbytes: int, life: Life) -> None:
        self._file = file
        self._at = at
        self._life = life
        self._piece: npt.NDArray[Any] | None = None  # the last one
        self.nbytes = nbytes
        for key, ref in list(file.targets.items()):
            if ref() is None:
                file.targets.pop(key, None)
        file.targets[id(self)] = weakref.ref(self)

    def stop(self) -> None:
        """Nothing more is filled."""
        if self._piece is not None:
            self._piece.flags.writeable = False

    def part(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Some of the bytes, to be filled at once and before there is another piece."""
        return self.array(offset, (nbytes,), np.dtype(np.uint8))

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The same as an array in C order."""
        made: npt.NDArray[Any] = np.ndarray(shape, dtype, self._file.writable, self._at + offset)
        self._piece = made
        self._life.require_ours(self._file.path)
        return made

    def copy(self, offset: int, source: Any) -> None:
        """`source`, plain bytes of any size."""
        octets = np.frombuffer(source, np.uint8) if len(source) else source
        order = [*pieces(len(octets))]
        if len(order) > 1 and base_address(octets.data) < base_address(self.part(offset, 1).data):
            order.reverse()  # it may be a Writer's own memory, which no piece may overwrite unread
        for start, end in order:
            self.part(offset + start, end - start)[:] = octets[start:end]


def pieces(nbytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece."""
    for start in range(0, nbytes, PIECE):
        yield start, min(start + PIECE, nbytes)
