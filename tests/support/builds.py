"""Builds of the package that tests make to see that it builds, and not how fast it is then."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path


def quick_compiler(folder: Path) -> str:
    """For CC: the C compiler, made not to optimize, which takes most of a build's time."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    script = folder / "quick-cc"
    script.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0 -w\n')
    script.chmod(0o755)
    return str(script)
