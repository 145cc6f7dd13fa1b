"""Frames: the runs of bytes that distributed makes of a value, and what its headers say of them."""

from __future__ import annotations

import mmap
import pickle
from typing import Any

import numpy as np

__all__ = [
    "as_bytes",
    "has_tensors",
    "is_made_of_buffers",
    "is_table",
    "with_writeable",
]

_TABLES, _FRAMES = ("Table", "RecordBatch"), ("DataFrame", "Series")


def as_bytes(frame: Any) -> memoryview | None:
    """A frame as plain bytes in storage order; None if it has gaps, or is not in this memory."""
    try:
        return pickle.PickleBuffer(frame).raw()
    except (TypeError, BufferError):
        return None


def with_writeable(header: Any, writeable: bool) -> Any:
    """A header that says of all its arrays whether their receiver is to have them writeable.

    distributed would copy a frame that can be written for an array that cannot, or the reverse.
    """
    if isinstance(header, dict):
        return {
            key: [writeable] * len(value)
            if key == "writeable"
            else with_writeable(value, writeable)
            for key, value in header.items()
        }
    if isinstance(header, list | tuple):
        return type(header)(with_writeable(each, writeable) for each in header)
    return header


def has_tensors(header: Any) -> bool:
    """Whether tensors of PyTorch are among what it describes: there are no read-only ones."""
    if isinstance(header, dict):
        kind = header.get("type")
        if isinstance(kind, str) and kind.startswith("torch."):
            return True
        return any(has_tensors(value) for value in header.values())
    return isinstance(header, list | tuple) and any(has_tensors(each) for each in header)


def is_made_of_buffers(value: Any) -> bool:
    """Whether a value is an array or a table that is as it was when it is made anew over a store.

    Not so of subclasses, which distributed does not keep as such, and not of what has many Python
    objects: it would take long to take them to pieces, and they cannot lie in a store.
    """
    kind = type(value)
    if kind is np.ndarray:
        return not value.dtype.hasobject and not _is_of_a_file(value)
    if is_table(value):
        return True
    name = kind.__name__
    if kind.__module__.partition(".")[0] != "pandas" or name not in _FRAMES:
        return False
    columns = value.dtypes if name == "DataFrame" else [value.dtype]
    index = value.index if type(value.index).__name__ != "MultiIndex" else None
    dtypes = [*columns, getattr(index, "dtype", None)]
    return not any(map(_is_of_objects, dtypes))


def is_table(value: Any) -> bool:
    """Whether it is a table of Arrow."""
    kind = type(value)
    return kind.__module__ == "pyarrow.lib" and kind.__name__ in _TABLES


def _is_of_objects(dtype: Any) -> bool:
    return bool(getattr(dtype, "hasobject", False)) or getattr(dtype, "storage", "") == "python"


def _is_of_a_file(array: Any) -> bool:
    """Whether it is a view of a file, of which perhaps nothing has been read yet."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return isinstance(array, mmap.mmap)
