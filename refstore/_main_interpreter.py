"""Importing this is an ImportError in a subinterpreter, and nothing elsewhere.

A process has one row in a store, one place in it for its pins, and one set of fork and exit hooks,
and all of them need the lock of the one interpreter that made them.
"""

import contextlib
import importlib


def _is_main() -> bool:
    for name in "_interpreters", "_xxsubinterpreters":  # from Python 3.13 on, and before
        with contextlib.suppress(ImportError):
            interpreters = importlib.import_module(name)
            return bool(interpreters.get_current() == interpreters.get_main())
    return True  # a Python without them


if not _is_main():
    raise ImportError(
        "refstore works in a process's main interpreter only, and this is a subinterpreter: import "
        "it in the main one, or start a process instead (with mod_wsgi: WSGIApplicationGroup "
        "%{GLOBAL})"
    )
