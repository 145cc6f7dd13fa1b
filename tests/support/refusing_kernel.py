"""A kernel that refuses: system calls of this process fail from here on, by a filter (seccomp).

What a test asks for so stands in for a full file system, for signals that come without end, for a
kernel without huge pages. A filter cannot be taken back, so a test refuses in a child.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct

import helpers

_NUMBERS = {"x86_64": (0xC000003E, 285, 28), "aarch64": (0xC00000B7, 47, 233)}
_LOAD, _EQUAL, _LESS, _RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF; _LESS: at least, else on
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
MADV_COLLAPSE = 25


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _install(steps: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(steps), code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def _argument(i: int) -> int:
    return 16 + 8 * i  # the lower half of the i-th argument


def refuse_memory(error: int, beyond: int = 0) -> None:
    """Every fallocate() of more than so many bytes fails; holes can still be made."""
    arch, fallocate, _ = _NUMBERS[platform.machine()]
    _install(
        [
            (_LOAD, 0, 0, 4),
            (_EQUAL, 0, 6, arch),
            (_LOAD, 0, 0, 0),
            (_EQUAL, 0, 4, fallocate),
            (_LOAD, 0, 0, _argument(1)),
            (_EQUAL, 2, 0, 3),  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
            (_LOAD, 0, 0, _argument(3)),
            (_LESS, 1, 0, beyond + 1),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | error),
        ]
    )


def refuse_huge_pages(error: int) -> None:
    """Every madvise(MADV_COLLAPSE) fails."""
    arch, _, madvise = _NUMBERS[platform.machine()]
    _install(
        [
            (_LOAD, 0, 0, 4),
            (_EQUAL, 0, 4, arch),
            (_LOAD, 0, 0, 0),
            (_EQUAL, 0, 2, madvise),
            (_LOAD, 0, 0, _argument(2)),
            (_EQUAL, 1, 0, MADV_COLLAPSE),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | error),
        ]
    )


def can_refuse() -> bool:
    """Whether there are such filters here, and this machine's numbers are known."""
    return platform.machine() in _NUMBERS and helpers.forked(_try) == 0


def _try() -> None:
    refuse_memory(errno.ENOSPC)
    with contextlib.suppress(OSError):
        os.posix_fallocate(os.memfd_create("refused"), 0, 4096)
        raise AssertionError("it was not refused")
