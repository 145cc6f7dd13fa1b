"""Headers: small bytes that say what a payload is, for whoever carries it to another store.

    magic 24 bits | version 8 | checksum 32 | nbytes 64 | kind 8 | description of an array

Numbers have their lowest byte first. The checksum is the CRC-32 of what follows it. The description
is that of `arrays`. A header names no store, offset or process. What is taken for one is checked:
what is none, or not that of so many bytes, is a ValueError.
"""

from __future__ import annotations

import pickle
import struct
import zlib
from typing import Final

import numpy as np

from refstore import _messages
from refstore.payload import arrays

__all__ = [
    "ARRAY",
    "BYTES",
    "KINDS",
    "OBJECT",
    "header_of",
    "kind_of",
    "names_code",
    "read_header",
]

KINDS: Final = ("bytes", "array", "object")
BYTES, ARRAY, OBJECT = KINDS
VERSION: Final = 1

_MAGIC: Final = b"RSH"
_HEAD: Final = struct.Struct("<3sBI")
_BODY: Final = struct.Struct("<QB")


def kind_of(obj: object) -> str:
    """The kind of the payload that an object becomes."""
    if type(obj) is np.ndarray and not obj.dtype.hasobject:
        return ARRAY
    return BYTES if isinstance(obj, bytearray | memoryview) or type(obj) is bytes else OBJECT


def header_of(kind: str, nbytes: int, description: bytes = b"") -> bytes:
    """The header of a payload; `description`: of an array, as `arrays.describe` makes it."""
    body = _BODY.pack(nbytes, KINDS.index(kind)) + description
    return _HEAD.pack(_MAGIC, VERSION, zlib.crc32(body)) + body


def names_code(header: bytes) -> bool:
    """Tells whether an array of this header has a dtype that it takes more than numpy to make."""
    return arrays.names_code(header[_HEAD.size + _BODY.size :])


def read_header(header: object, nbytes: int) -> tuple[str, bytes]:
    """Kind and description of a payload of `nbytes` bytes that has this header.

    Errors: TypeError if the header is not bytes, ValueError if it is not one of such a payload.
    """
    if not isinstance(header, bytes):
        raise TypeError(f"a header is bytes, not {type(header).__name__}: give `buf.header`")
    header = bytes(memoryview(header))  # a subclass may say anything of its length
    if len(header) < _HEAD.size + _BODY.size:
        raise _messages.no_header(f"it has {len(header)} bytes, too few")
    magic, version, checksum = _HEAD.unpack_from(header)
    if magic != _MAGIC:
        raise _messages.no_header(f"it does not begin with {_MAGIC!r}")
    if version != VERSION:
        raise _messages.no_header(f"it has version {version}, and this refstore reads {VERSION}")
    body = header[_HEAD.size :]
    size, kind = _BODY.unpack_from(body)
    if checksum != zlib.crc32(body) or kind >= len(KINDS):
        raise _messages.no_header("it is damaged")
    if size != nbytes:
        raise ValueError(f"nbytes is {nbytes}, and the header is that of {size} bytes: give those")
    description = body[_BODY.size :]
    if KINDS[kind] == "array":
        _require_array(description, nbytes)
    elif description:
        raise _messages.no_header("it describes an array, but is of another kind")
    return KINDS[kind], description


def _require_array(description: bytes, nbytes: int) -> None:
    try:
        arrays.read(description, nbytes)
    except arrays.DescriptionError as error:
        raise _messages.no_header(f"{error} of its array is invalid") from error
    except pickle.UnpicklingError as error:
        # whoever carries an array need not be able to import what its dtype is of
        if not isinstance(error.__cause__, ImportError):
            raise _messages.no_header("the dtype of its array is invalid") from error
