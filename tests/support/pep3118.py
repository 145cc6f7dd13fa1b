"""Requests for buffers in all their kinds (PEP 3118), of which Python itself makes only some."""

from __future__ import annotations

import ctypes
from typing import Any

SIMPLE, WRITABLE, FORMAT, ND, STRIDES = 0, 0x1, 0x4, 0x8, 0x18
C_ORDER, F_ORDER, ANY_ORDER, INDIRECT = 0x38, 0x58, 0x98, 0x118
REQUESTS = [
    asked | more
    for asked in (SIMPLE, ND, STRIDES, C_ORDER, F_ORDER, ANY_ORDER, INDIRECT)
    for more in (0, WRITABLE, FORMAT, WRITABLE | FORMAT)
]


class View(ctypes.Structure):
    """A Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)),
        ("internal", ctypes.c_void_p),
    )


def asked_for(it: Any, flags: int) -> tuple[Any, ...]:
    """What a request gets."""
    view = View()
    ask, give_back = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    ask(ctypes.py_object(it), ctypes.byref(view), flags)
    numbers = [
        [pointer[i] for i in range(view.ndim)] if pointer else None
        for pointer in (view.shape, view.strides)
    ]
    got = view.len, view.itemsize, bool(view.readonly), view.ndim, view.format, numbers
    give_back(ctypes.byref(view))
    return got
