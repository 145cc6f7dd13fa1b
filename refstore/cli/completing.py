"""Completion of the names of stores and objects in a shell, by argcomplete if it is installed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from refstore._errors import RefstoreError
from refstore._paths import store_folder
from refstore.cli.reaching import look, store_names

__all__ = ["complete", "complete_key", "complete_store"]

ASKED = "_ARGCOMPLETE"  # is set while a shell asks
OFFERED = 1000  # names at most


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and end, if it is one that asks."""
    if ASKED not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def complete_store(prefix: str, **_: object) -> list[str]:
    try:
        names = list(store_names(store_folder(create=False)))
    except OSError:
        return []
    return [name for name in names if name.startswith(prefix)]


def complete_key(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    try:
        return list(_keys(parsed_args.name, prefix))
    except (RefstoreError, OSError, ValueError):
        return []


def _keys(store_name: str, prefix: str) -> Iterator[str]:
    with look(store_name, False) as store:
        for number, one in enumerate(store.objects(prefix)):
            if number == OFFERED:
                return
            if one.name is not None and one.state == "live":
                yield one.name
