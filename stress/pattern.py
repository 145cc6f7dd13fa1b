"""Objects whose every byte, and whose kind, dtype and shape, follow from an id.

A block begins with its id and its size; the rest is a stretch of noise that the id picks. So a
process that has never seen an object before can tell whether it is whole, and one that was told
which object to expect can tell whether it got another.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refstore import PinnedBuffer

Bytes = NDArray[np.uint8]

HEADER = struct.Struct("<QQ")  # id, size of the block
_STARTS = 1 << 17  # places where a block's noise may begin
_MIX = 0x9E3779B97F4A7C15  # odd: neighbouring ids begin far from each other
_DTYPES = ("u1", "<u4", ">f8", "<M8[ns]", "<c16", [("key", "<i4"), ("weight", "<f4")])
_KINDS = ("bytes", "bytes", "bytes", "bytes", "array", "array", "array", "object")


def mixed(ident: int) -> int:
    """Well mixed bits of an id."""
    return (ident * _MIX) & 0xFFFFFFFFFFFFFFFF


def kind_of(ident: int) -> str:
    """The kind of object that is put for this id."""
    return _KINDS[mixed(ident) >> 20 & 7]


class Pattern:
    """The blocks of one seed."""

    def __init__(self, seed: int, max_size: int) -> None:
        # Whole words, so that blocks can be compared eight bytes at a time.
        words = _STARTS + max_size // 8 + 1
        self._noise: Bytes = np.frombuffer(np.random.default_rng(seed).bytes(words * 8), np.uint8)

    def block(self, ident: int, size: int) -> Bytes:
        """The bytes of an object, new each time."""
        block: Bytes = self._stretch(ident, size).copy()
        header = HEADER.pack(ident, size)[:size]
        block[: len(header)] = np.frombuffer(header, np.uint8)
        return block

    def value(self, ident: int, size: int) -> Any:
        """The object to put: bytes, an array of some dtype and order, or something to pickle."""
        block = self.block(ident, size)
        kind = kind_of(ident)
        if kind == "array":
            return as_array(ident, block)
        if kind == "object":
            return {"id": ident, "size": size, "block": block, "words": [str(ident)] * 3}
        return block.data

    def check(self, found: PinnedBuffer, ident: int | None, size: int | None) -> Bytes:
        """The bytes of an object, each verified; AssertionError if one is wrong.

        `None` for an id or size that is not known: then the block must agree with its header.
        """
        if found.closed:
            raise AssertionError("the buffer is closed")
        block, said = self._unwrap(found)
        if ident is None:
            ident = said if said is not None else _header(block)[0]
        if size is not None and len(block) != size:
            raise AssertionError(f"object {ident:#x}: {len(block)} bytes, {size} were put")
        if ident is not None:
            self.check_block(block, ident)
            self._check_kind(found, block, ident)
        return block

    def check_block(self, block: Bytes, ident: int) -> None:
        """Compares every byte of a block with its id."""
        length = min(HEADER.size, len(block))
        expected = HEADER.pack(ident, len(block))[:length]
        if block[:length].tobytes() != expected:
            raise AssertionError(f"object {ident:#x} holds the block {_header(block)}")
        stretch = self._stretch(ident, len(block))
        if not _equal(block[length:], stretch[length:]):
            wrong = np.flatnonzero(block[length:] != stretch[length:]) + length
            raise AssertionError(
                f"object {ident:#x}: {len(wrong)} of {len(block)} bytes are wrong, "
                f"from {wrong[0]} to {wrong[-1]}"
            )

    def _unwrap(self, found: PinnedBuffer) -> tuple[Bytes, int | None]:
        """The block of an object, and the id that a pickled one has beside it."""
        if found.kind == "array":
            # Not by `flat`: numpy asks for the typed view first, and has none of datetimes.
            return found.array.reshape(-1, order="A").view(np.uint8), None
        if found.kind == "bytes":
            return flat(found), None
        value = found.value
        block: Bytes = value["block"]
        if value["size"] != len(block) or value["words"] != [str(value["id"])] * 3:
            raise AssertionError(f"object {value['id']:#x} came back different: {value}")
        return block, value["id"]

    def _check_kind(self, found: PinnedBuffer, block: Bytes, ident: int) -> None:
        # A block too short for its header, and got by name, has no id to derive the kind from.
        if found.kind != kind_of(ident):
            raise AssertionError(f"object {ident:#x} has the kind {found.kind}")
        if found.kind == "array":
            put, got = _layout(as_array(ident, block)), _layout(found.array)
            if put != got:
                raise AssertionError(f"object {ident:#x} was {put} and came back {got}")
        if found.kind != "object" and block.flags.writeable:
            raise AssertionError(f"object {ident:#x} can be written to")

    def _stretch(self, ident: int, size: int) -> Bytes:
        start = (mixed(ident) >> 40) % _STARTS * 8
        return self._noise[start : start + size]


def flat(buffer: Any) -> Bytes:
    """The plain bytes of anything that exports them."""
    # Typed as anything: before Python 3.12 numpy's stubs know no buffers but the built-in ones.
    return np.frombuffer(buffer, np.uint8)


def as_array(ident: int, block: Bytes) -> NDArray[Any]:
    """The block as an array of a dtype, shape and order that follow from its id and size."""
    bits = mixed(ident) >> 24
    dtype = np.dtype(_DTYPES[bits % len(_DTYPES)])
    if len(block) % dtype.itemsize:
        return block
    array = block.view(dtype)
    if bits & 64 or array.size % 4:
        return array
    return array.reshape((4, -1) if array.size else (4, 0), order="F" if bits & 128 else "C")


def _layout(array: NDArray[Any]) -> tuple[object, ...]:
    # Strides of an axis of length 0 or 1 mean nothing and may differ.
    return array.dtype, array.shape, array.flags.c_contiguous, array.flags.f_contiguous


def _header(block: Bytes) -> tuple[int | None, int | None]:
    if len(block) < HEADER.size:
        return None, None
    ident, size = HEADER.unpack(block[: HEADER.size].tobytes())
    return ident, size


def _equal(a: Bytes, b: Bytes) -> bool:
    words = len(a) // 8 * 8
    return np.array_equal(a[:words].view("u8"), b[:words].view("u8")) and bool(
        (a[words:] == b[words:]).all()
    )
