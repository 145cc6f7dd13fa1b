"""Scripts that run on a file system of a few megabytes, which only they see."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import engines
import helpers
import programs
import pytest


def may_mount() -> bool:
    """Whether this user may mount something where nobody else sees it."""
    if not shutil.which("unshare"):
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of its own")


CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def require(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), "cannot mount a small disk")


class OnSmallDisk(programs.Script):
    """A program that has mounted a tmpfs, its first argument, before it begins."""

    def __init__(self, source: str, size: str) -> None:
        super().__init__(source)
        self._size = size

    def __call__(self) -> None:
        libc, disk = ctypes.CDLL(None, use_errno=True), sys.argv[1].encode()
        require(libc.unshare(CLONE_NEWNS))  # else what follows would be seen by all
        require(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        require(libc.mount(b"tmpfs", disk, b"tmpfs", 0, f"size={self._size}".encode()))
        super().__call__()


def run_on_small_disk(source: str, size: str, folder: Path, *arguments: str) -> str:
    """Run a script whose `disk` is a tmpfs of that size, seen by nobody else; what it printed.

    `free_on_disk()`: bytes that are free on it; `fill_up()` takes all of it.
    """
    prelude = (
        "import os, sys, refstore\n"
        "sys.path.append(sys.argv[2])\n"
        "import tests, helpers\n"
        "disk = sys.argv[1]\n"
        "def used():\n"
        "    fs = os.statvfs(disk)\n"
        "    return (fs.f_blocks - fs.f_bfree) * fs.f_frsize\n"
        "def free_on_disk():\n"
        "    fs = os.statvfs(disk)\n"
        "    return fs.f_bavail * fs.f_frsize\n"
        "def fill_up():\n"
        "    filler = os.open(disk + '/filler', os.O_WRONLY | os.O_CREAT)\n"
        "    try:\n"
        "        while True:\n"
        "            os.write(filler, bytes(4096))\n"
        "    except OSError:\n"
        "        os.close(filler)\n"
    )
    disk = folder / "disk"
    disk.mkdir()
    try:
        result = programs.run(
            OnSmallDisk(prelude + source, size),
            (disk, engines.TESTS.parent, *arguments),
            dict(os.environ),
            helpers.BUSY_TIMEOUT,
        )
    finally:
        disk.rmdir()
    return helpers.said_by(result)
