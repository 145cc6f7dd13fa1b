"""The `refstore` command: look at stores, at what is in them and at who holds it; clear them.

Private, but for `main`.

Commands that look take no part in the store: they need no place in its process table, and change
nothing. `get`, `put`, `delete`, `trim` and `recover` attach, as any process does.
Exit status: 0 if all is well, 1 if `check` or `doctor` finds a problem, 2 on bad usage, where no
store is, or if what was asked for failed.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from refstore._errors import RefstoreError
from refstore.cli.output import complain, flush, give_up_output
from refstore.cli.parsing import parse

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = parse(arguments)
    try:
        status: int = options.run(options)
        flush()
    except BrokenPipeError:  # `refstore ls | head`: the reader has seen enough
        give_up_output()
        return 0
    except (RefstoreError, OSError, ValueError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return status
