"""The kernel's answer when it is asked to make a huge page of shared memory (MADV_COLLAPSE)."""

import ctypes
import functools
import mmap
import os
import tempfile

HUGE_PAGE = 2 << 20
MADV_COLLAPSE = 25
_MAP_FIXED, _MAP_ANONYMOUS = 0x10, 0x20


@functools.cache
def refusal(folder: str = "/dev/shm") -> int:
    """The errno of a refusal, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    with tempfile.TemporaryFile(dir=folder) as file:
        os.truncate(file.fileno(), HUGE_PAGE)
        os.posix_fallocate(file.fileno(), 0, mmap.PAGESIZE)
        reserved = libc.mmap(None, 2 * HUGE_PAGE, 0, mmap.MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
        at = -(-reserved // HUGE_PAGE) * HUGE_PAGE
        libc.mmap(at, HUGE_PAGE, writable, mmap.MAP_SHARED | _MAP_FIXED, file.fileno(), 0)
        refused = libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(HUGE_PAGE), MADV_COLLAPSE)
        found = ctypes.get_errno() if refused else 0
        libc.munmap(ctypes.c_void_p(reserved), ctypes.c_size_t(2 * HUGE_PAGE))
    return found
