"""The command `top`: a store as it changes, on the whole terminal."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

from refstore._looking import Look
from refstore.cli.output import MissingExtraError, flush, is_terminal, show_json_line
from refstore.cli.reaching import look
from refstore.cli.watching import Moment, Rates, is_same, rates_between, take

__all__ = ["top"]


def top(options: argparse.Namespace) -> int:
    if options.interval <= 0:
        raise ValueError("--interval is more than 0 seconds")
    if options.json:
        with look(options.name, options.foreign) as store:
            _tell(store, options.name, options.interval, options.count)
        return 0
    if not is_terminal():
        raise ValueError("top draws on a terminal, and stdout is none: take --json, or `stat`")
    try:
        from refstore.cli.screen import Screen
    except ImportError as error:
        raise MissingExtraError("top", "cli", error) from None
    with look(options.name, options.foreign) as store:
        screen = Screen(store, options.name, options.interval)
        screen.run()
    return screen.return_code or 0


def _tell(store: Look, name: str, interval: float, count: int | None) -> None:
    """A line of JSON each time, until it has been told often enough or interrupted."""
    old = take(store, pages=b"")
    told = 0
    file = os.stat(store.path)
    while count is None or told < count:
        time.sleep(interval)
        if not is_same(store.path, file):
            raise ValueError(f"{name} was removed meanwhile")
        new = take(store, pages=b"")
        show_json_line(_as_json(name, new, rates_between(old, new)))
        flush()
        old, told = new, told + 1


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
