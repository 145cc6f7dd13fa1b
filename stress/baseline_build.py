"""Compiles `baseline.pyx` into this folder when it is first asked for, or has changed."""

import importlib
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from stress.baseline import BaselineStore

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "baseline.pyx"
BUILD = HERE.parent / "build" / "stress"
EXTENSION = HERE / f"baseline{sysconfig.get_config_var('EXT_SUFFIX')}"


def baseline_store() -> "type[BaselineStore]":
    """The old store's class, compiled first if need be."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        if not EXTENSION.exists() or EXTENSION.stat().st_mtime < SOURCE.stat().st_mtime:
            build()
    importlib.invalidate_caches()
    store: type[BaselineStore] = importlib.import_module("stress.baseline").BaselineStore
    return store


def build() -> None:
    """Compiles with what setup.py gives refstore's release build, so that neither is favoured."""
    from Cython.Build import cythonize
    from setuptools import (  # type: ignore[import-untyped, unused-ignore]
        Distribution,
        Extension,
    )

    extension = Extension(
        "stress.baseline",
        [str(SOURCE)],
        extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-O3"],
    )
    modules = cythonize(  # type: ignore[no-untyped-call, unused-ignore]
        [extension],
        build_dir=str(BUILD),
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
        quiet=True,
        force=True,
    )
    command = Distribution({"name": "stress", "ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(HERE.parent)
    command.build_temp = str(BUILD)
    command.force = True
    command.verbose = 0
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build()
