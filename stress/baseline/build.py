"""Compiles a .pyx in place when it is first asked for or has changed."""

import importlib
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from filelock import FileLock

from stress import ROOT

if TYPE_CHECKING:
    from stress.baseline.store import BaselineStore

BUILD = ROOT / "build" / "stress"


def baseline_store() -> "type[BaselineStore]":
    """The old store's class."""
    store: type[BaselineStore] = compiled("stress.baseline.store").BaselineStore
    return store


def compiled(module: str) -> ModuleType:
    """Imports that module, compiled first if need be."""
    source = _source(module)
    extension = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        if not extension.exists() or extension.stat().st_mtime < source.stat().st_mtime:
            build(module)
    importlib.invalidate_caches()
    return importlib.import_module(module)


def _source(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".pyx")


def build(module: str) -> None:
    """Compiles with what setup.py gives refstore's release build, so that neither is favoured."""
    from Cython.Build import cythonize
    from setuptools import (  # type: ignore[import-untyped, unused-ignore]
        Distribution,
        Extension,
    )

    extension = Extension(
        module,
        [str(_source(module))],
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
    command.build_lib = str(ROOT)
    command.build_temp = str(BUILD)
    command.force = True
    command.verbose = 0
    command.ensure_finalized()
    command.run()
