"""Views of blocks in memory, and the pins that go with the last view.

A block is shown by an array of its bytes, its root. A pin is an object that gives the pin back when
it is collected. Ownership is by reference counting only:

    buffer, memoryview, ndarray, tensor, ...  ->  Root  ->  Pin  ->  attachment
                                                   |
                                                   +->  mapping

or, of a private view of a buffer, on a Root of its own that has the buffer's in place of the pin.
So a pin has one Root, and lasts as long as the last of them, wherever it went.
"""

from __future__ import annotations

import mmap
import pickle
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from refstore import _messages
from refstore.engines.filelock.life import finalize
from refstore.payload import arrays

__all__ = [
    "Block",
    "Home",
    "Pin",
    "Root",
    "end_writing",
    "private_root",
    "root_over",
    "shaped",
    "writers_root",
]

Octets = np.ndarray[tuple[int], np.dtype[np.uint8]]

OCTET: Final = np.dtype(np.uint8)


class Block(Protocol):
    """The place of an object, and its kind."""

    @property
    def slot(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def kind(self) -> str:
        """ "bytes", "array" or "object"."""

    @property
    def description(self) -> bytes:
        """Description of an array, as `arrays.describe` has it."""


class Home(Protocol):
    """The attachment, as buffers and writers use it."""

    @property
    def path(self) -> str: ...
    @property
    def tag(self) -> int: ...
    @property
    def readable(self) -> mmap.mmap: ...
    @property
    def writable(self) -> mmap.mmap: ...
    def is_alive(self) -> bool:
        """Whether this process has a row; False in a child that was forked without one."""

    def pin(self, slot: int, generation: int, pin: Pin) -> None:
        """One more pin of ours on a live object; ObjectNotFoundError if it is none."""

    def unpinning(self, slot: int) -> Any:
        """Deferred work that drops a pin of this process."""

    def defer_once(self, *deferred: Any) -> None:
        """Does it now or soon, and not again if it was requested before. Waits for nobody, and
        raises only what a signal handler does."""

    def meta(self, slot: int) -> bytes:
        """Reads the meta of a slot of ours."""

    def block(self, slot: int) -> Block:
        """Reads the place of a slot of ours; StoreCorruptedError if it leads out of the file."""

    def private_copy(self, block: Block) -> tuple[mmap.mmap | bytearray, int]:
        """Memory of our own that shows the block, and where the block begins in it."""

    def write(self, call: Any, block: Block, offset: int, octets: npt.NDArray[np.uint8]) -> None:
        """Copies bytes into the block that the call took."""

    def shrink(self, call: Any, nbytes: int, *, frees: bool) -> bool:
        """Makes the object shorter that the call began, and with `frees` its block; whether it is
        still being written."""

    def seal(self, call: Any, pin: Pin | None) -> None:
        """Publishes the block that the call took, and that is written; `pin`: of views that live
        on. If it raises, the block is to be given up."""

    def stays(self, call: Any, error: BaseException) -> bool:
        """Whether what was published before `error` came up cannot be taken back; then the error
        comes out of the next call."""

    def give_up(self, call: Any, pin: Pin | None) -> None:
        """Gives up what the call took: frees it, or, if views of it live on, condemns it with that
        pin.

        Now or soon; idempotent. Waits for nobody, and raises only what a signal handler does.
        """


class Pin:
    """A pin of this process on a slot; given back when this is collected, if not before.

    It is there before the change that takes it, and knows its commit: so whoever is interrupted
    between the two need not know how far it came.
    """

    __slots__ = ("home", "unpin")

    def __init__(self, home: Home, slot: int | None = None) -> None:
        self.home = home
        self.unpin = None if slot is None else home.unpinning(slot)

    def take(self, slot: int, moment: Any) -> None:
        """Binds the pin to a slot, valid once that moment has come."""
        unpin = self.home.unpinning(slot)
        unpin.since = moment
        self.unpin = unpin

    def inherit(self, slot: int) -> None:
        """The fork took it for us."""
        self.unpin = self.home.unpinning(slot)

    @property
    def slot(self) -> int:
        unpin: Any = self.unpin
        slot: int = unpin.args[0]
        return slot

    def give_back(self) -> None:
        if self.unpin is not None and not self.unpin.is_done():
            self.home.defer_once(self.unpin)

    def __del__(
        self,
        finalize: Callable[..., None] = finalize,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        try:
            unpin = self.unpin
        except AttributeError:  # it was interrupted as it was made
            return
        if unpin is not None:
            finalize(self.give_back, is_finalizing)


class Root(Octets):
    """All bytes of a block. No plain ndarray: numpy lets views skip those, and keep their base."""

    __slots__ = ("pin",)
    __hash__ = object.__hash__  # type: ignore[assignment]  # hash(memoryview) asks for it
    pin: Pin | Root | None


def root_over(memory: Any, at: int, nbytes: int, pin: Pin | Root | None) -> Root:
    root = Root((nbytes,), OCTET, memory, at)
    root.pin = pin
    return root


def writers_root(home: Home, block: Block) -> Root:
    """Writable until `end_writing`, which leaves it a pin."""
    gate = pickle.PickleBuffer(home.writable)
    return root_over(gate, block.offset, block.nbytes, None)


def end_writing(root: Root) -> None:
    """Makes all views of a root read-only for good: numpy looks at what is behind the last array
    when somebody sets the flag `writeable`. The root's pin keeps the memory."""
    root.flags.writeable = False
    gate: Any = root.base
    gate.release()


def shaped(root: Octets, block: Block, path: str) -> npt.NDArray[Any]:
    """The array that a root's block holds; its bytes if it holds something else."""
    if block.kind != "array":
        return np.ndarray(root.shape, OCTET, root)
    try:
        dtype, shape, strides = arrays.read(block.description, block.nbytes)
    except arrays.DescriptionError as error:
        raise _messages.damaged_object(path, f"{error} of the array", block.slot) from error
    return np.ndarray(shape, dtype, root, 0, strides)


def private_root(home: Home, block: Block, pin: Pin | Root) -> Root:
    memory, at = home.private_copy(block)
    return root_over(memory, at, block.nbytes, pin)
