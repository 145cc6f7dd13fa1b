"""The compiled half of the build; everything else is in pyproject.toml.

REFSTORE_BUILD picks a variant, which must build then:

    release   what wheels ship
    debug     failpoints
    asan      debug, under AddressSanitizer and UBSan
    tsan      debug, under ThreadSanitizer
    gcov      debug, line and branch counters for the .pxd
    none      nothing: a wheel in Python alone, with the filelock engine

Without it, release is tried: where there is no C compiler, or no Linux, it comes to none.

Variants build side by side: `REFSTORE_BUILD=asan python setup.py build --build-lib build/asan`.

The release core is left beside its sources, too: Python that is started in this folder takes the
package from here, whatever is installed, and would do without its core.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Python's own flags ask for all that a debugger can use, which takes a third of the time to compile
# and four fifths of the file. Names of functions stay in any case, and lines in debug builds.
DEBUG = ["-O1", "-g1", "-fno-omit-frame-pointer", "-DREFSTORE_DEBUG=1"]
COMPILE = {
    "release": ["-O3", "-g0"],
    "debug": DEBUG,
    "asan": [*DEBUG, "-fsanitize=address,undefined"],
    "tsan": [*DEBUG, "-fsanitize=thread"],
    "gcov": [*DEBUG, "-O0", "--coverage", "-DREFSTORE_GCOV=1"],
}
# For any processor, but scheduled for those of today: GCC's own choice clears each PinnedBuffer by
# `rep stos`, which takes a tenth of a get.
TUNE = "-mtune=skylake"
LINK = {
    "asan": ["-fsanitize=address,undefined"],
    "tsan": ["-fsanitize=thread"],
    "gcov": ["--coverage"],
}

asked_for = os.environ.get("REFSTORE_BUILD")
variant = asked_for or "release"
warnings = ["-std=gnu11", "-Wall", "-Wextra"]
if os.environ.get("REFSTORE_WERROR"):
    warnings.append("-Werror")


def core() -> Extension:
    """The compiled core."""
    return Extension(
        "refstore._core",
        ["refstore/_core.pyx"],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=warnings + COMPILE[variant],
        extra_link_args=LINK.get(variant, []),
        optional=asked_for is None,
    )


def translated(module: Extension) -> list[str]:
    """Its C sources, generated anew."""
    (made,) = cythonize(
        module,
        build_dir=f"build/cython-{variant}",
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
        emit_linenums=variant != "release",  # sanitizers and gdb then name .pyx and .pxd lines
        force=True,
    )
    sources: list[str] = made.sources
    return sources


class OptionalBuild(build_ext):
    """Goes on without the core where it cannot be built and nobody asked for it."""

    def run(self) -> None:
        for module in self.extensions:  # and not whenever pip asks this file something
            module.sources = translated(module)
        super().run()
        if variant == "release" and not self.inplace:
            self.copy_extensions_to_source()

    def build_extension(self, ext: Extension) -> None:
        try:
            if variant == "release" and self.takes(TUNE):
                ext.extra_compile_args.append(TUNE)
            super().build_extension(ext)
        except Exception as error:  # of the compiler, of finding it, or of the system
            if not ext.optional:
                raise
            print(f"refstore: no compiled core ({error}); file locks do instead", file=sys.stderr)

    def takes(self, flag: str) -> bool:
        """Whether the compiler has it, and nobody has told it what to compile for."""
        command = self.compiler.compiler_so
        if any(one.startswith(("-march", "-mcpu", "-mtune")) for one in command):
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.c"
            source.write_text("")
            asked = [*command, flag, "-c", str(source), "-o", str(source.with_suffix(".o"))]
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0


setup(
    cmdclass={"build_ext": OptionalBuild},
    ext_modules=[] if variant == "none" else [core()],
    options={  # neither setuptools nor Cython sees a change of variant, so always rebuild
        "build": {"build_base": f"build/base-{variant}"},
        "build_ext": {"force": True},
    },
)
