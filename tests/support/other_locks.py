"""A machine whose file systems have not the locks that the native engine stands on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")

# Some file systems' locks are kept by the client, or nowhere: what was locked does not show. Some
# have no such locks at all.
OTHER_LOCKS = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdarg.h>
    #include <stdlib.h>
    #include <string.h>

    static int asked(const char *real, int fd, int command, void *argument) {
        int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, real);
        if ((command == F_OFD_SETLK || command == F_OFD_GETLK) && strcmp(getenv("LOCKS"), "hidden"))
            return errno = EINVAL, -1;
        if (command == F_OFD_GETLK)
            return ((struct flock *)argument)->l_type = F_UNLCK, 0;
        return next(fd, command, argument);
    }
    #define WRAP(name)                                      \
        int name(int fd, int command, ...) {                \
            va_list arguments;                              \
            va_start(arguments, command);                   \
            void *argument = va_arg(arguments, void *);     \
            va_end(arguments);                              \
            return asked(#name, fd, command, argument);     \
        }
    WRAP(fcntl)
    WRAP(fcntl64)
"""


def environment(folder: Path, locks: str) -> dict[str, str]:
    """For a child whose locks are "hidden" or "unknown"; puts a library into the folder."""
    if COMPILER is None:
        pytest.skip("needs a C compiler to replace fcntl()")
    library = folder / "locks.so"
    command = [str(COMPILER), "-x", "c", "-shared", "-fPIC", "-o", str(library), "-", "-ldl"]
    subprocess.run(command, input=OTHER_LOCKS, text=True, check=True)
    preload = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    return {"LD_PRELOAD": preload, "LOCKS": locks}
