"""Looks at a store from outside, by tests and by their children."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import all_rows
import helpers
from children import Session

import refstore
from refstore._looking import Look

TAKE_ALL = (
    all_rows.ROWS
    + """
import sys
rows = Rows(*sys.argv[1:])
rows.lock(True)
print("taken", flush=True)
sys.stdin.readline()
"""
)


@contextlib.contextmanager
def all_rows_taken(store: refstore.Store) -> Iterator[None]:
    """Every place in the process table that nobody has is taken meanwhile."""
    with helpers.script(TAKE_ALL, store.path, store.backend) as program:
        assert helpers.line(program) == "taken"
        yield


def look_at_everything(session: Session | None, path: str, foreign: bool = False) -> None:
    """Look from outside at all that there is."""
    with Look(path, foreign) as look:
        look.stats()
        for info in look.objects():
            if info.ref is not None:
                with contextlib.suppress(refstore.ObjectNotFoundError):
                    look.holders(info.ref)
            if info.name is not None and info.state == "live":
                assert look.info(info.name).ref == info.ref
        look.holders()
        look.processes()
        look.recoveries()
        look.page_states()
        assert look.problems() == []
