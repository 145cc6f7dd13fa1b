"""Compiles a .pyx of this folder, in place, when it is first asked for or has changed."""

import importlib
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from stress.baseline import BaselineStore

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "stress"


def baseline_store() -> "type[BaselineStore]":
    """The old store's class."""
    store: type[BaselineStore] = compiled("baseline").BaselineStore
    return store


def compiled(name: str) -> ModuleType:
    """That module, compiled first if need be."""
    source = HERE / f"{name}.pyx"
    extension = HERE / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        if not extension.exists() or extension.stat().st_mtime < source.stat().st_mtime:
            build(name)
    importlib.invalidate_caches()
    return importlib.import_module(f"stress.{name}")


def build(name: str) -> None:
    """Compiles with what setup.py gives refstore's release build, so that neither is favoured."""
    from Cython.Build import cythonize
    from setuptools import (  # type: ignore[import-untyped, unused-ignore]
        Distribution,
        Extension,
    )

    extension = Extension(
        f"stress.{name}",
        [str(HERE / f"{name}.pyx")],
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
    build("baseline")
