"""Scripts that run on a file system of a few megabytes, which only they see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import engines
import helpers
import pytest


def may_mount() -> bool:
    """Whether this user may mount something where nobody else sees it."""
    if not shutil.which("unshare"):
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of its own")


MOUNT_AND_RUN = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def run_on_small_disk(source: str, size: str, folder: Path, *arguments: str) -> str:
    """Run a script whose `disk` is a tmpfs of that size, seen by nobody else; what it printed.

    `free_on_disk()`: bytes that are free on it; `fill_up()` takes all of it.
    """
    script = folder / "script.py"
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
    script.write_text(prelude + source)
    disk = folder / "disk"
    disk.mkdir()
    try:
        program = [sys.executable, str(script), str(disk), str(engines.TESTS.parent), *arguments]
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", MOUNT_AND_RUN, "sh", size, str(disk), *program],
            capture_output=True,
            text=True,
            timeout=helpers.BUSY_TIMEOUT,
            check=False,
        )
    finally:
        script.unlink()
        disk.rmdir()
    assert result.stderr == "", result.stderr
    assert result.returncode == 0
    return result.stdout.strip()
