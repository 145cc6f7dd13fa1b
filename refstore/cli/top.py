"""The command `top`: a store as it changes, on the whole terminal."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

from refstore._looking import Look
from refstore.cli.output import MissingExtraError, require_terminal, tell_lines
from refstore.cli.reaching import look
from refstore.cli.watching import Moment, Rates, end_of, rates_between, take

__all__ = ["top"]


def top(options: argparse.Namespace) -> int:
    if options.json:
        with look(options.name, options.foreign) as store:
            tell_lines(options, _Teller(store, options.name).line)
        return 0
    require_terminal("stat")
    try:
        from refstore.cli.screen import Screen
    except ImportError as error:
        raise MissingExtraError("top", "cli", error) from None
    with look(options.name, options.foreign) as store:
        screen = Screen(store, options.name, options.interval)
        screen.run()
    return screen.return_code or 0


class _Teller:
    """Lines about a store, each since the one before."""

    def __init__(self, store: Look, name: str) -> None:
        self._store, self._name = store, name
        self._file = os.stat(store.path)
        self._old = take(store, pages=b"")

    def line(self) -> dict[str, object]:
        if end := end_of(self._store.path, self._file):
            raise ValueError(f"{self._name} {end}")
        old, self._old = self._old, take(self._store, pages=b"")
        return _as_json(self._name, self._old, rates_between(old, self._old))


def _as_json(name: str, moment: Moment, rates: Rates) -> dict[str, object]:
    return {
        "name": name,
        "at": time.time(),
        "stats": dataclasses.asdict(moment.stats),
        "rates": dict(rates.of_store),
        "processes": [
            dataclasses.asdict(one) | {"rates": dict(rates.of_processes.get(one.slot, {}))}
            for one in moment.processes
        ],
    }
