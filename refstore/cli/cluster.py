"""The command `cluster`: nodes of a session on Ray, and the objects of all their stores."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from refstore._units import plural, size_text
from refstore.cli import objects
from refstore.cli.cluster_rows import COLUMNS, SHORT, as_cells, rates_between, summary
from refstore.cli.output import (
    MissingExtraError,
    note,
    require_terminal,
    show,
    show_json,
    tell_lines,
)
from refstore.cli.tables import Column, Row, show_table

if TYPE_CHECKING:
    from refstore.ray._calls import Agents
    from refstore.ray._looks import ClusterObject
    from refstore.ray._values import Node

__all__ = ["VIEWS", "cluster"]

_NAME, *_OF_STORE = objects.COLUMNS
PATIENCE = 10.0  # seconds in which the session and its agents must answer
OBJECTS = (_NAME, Column("NODE", left=True), *_OF_STORE[:5], Column("REPLICAS"))


def cluster(options: argparse.Namespace) -> int:
    with _agents(options) as agents:
        return VIEWS[options.view](options, agents)


@contextlib.contextmanager
def _agents(options: argparse.Namespace) -> Iterator[Agents]:
    """Agents of the session, in the cluster that this process is in, or is in meanwhile."""
    try:
        import ray

        from refstore.ray._calls import Agents
    except ImportError as error:
        raise MissingExtraError("cluster", "ray", error) from None
    was_in_it = ray.is_initialized()
    if not was_in_it:
        address = options.address or os.environ.get("RAY_ADDRESS") or "auto"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        agents = Agents(options.session)
        agents.call_session("options", end=time.monotonic() + PATIENCE)  # raises if there is none
        yield agents
    finally:
        if not was_in_it:
            ray.shutdown()


# --- nodes


def _look(agents: Agents) -> list[Node]:
    from refstore.ray._looks import nodes_of

    return sorted(nodes_of(agents, time.monotonic() + PATIENCE), key=lambda one: one.node)


def _nodes(options: argparse.Namespace, agents: Agents) -> int:
    found = _look(agents)
    if options.json:
        show_json([one._asdict() for one in found])
        return 0
    show_table(COLUMNS, [Row(as_cells(one)) for one in found])
    show(summary(found))
    _note_silent({one.node for one in found})
    return 0


def _note_silent(found: set[str]) -> None:
    from refstore.ray._calls import live_nodes

    silent = [node[:SHORT] for node in live_nodes() if node not in found]
    if silent:
        note(f"no agent has answered on {plural(len(silent), 'node')}: {' '.join(silent)}")


# --- objects


def _objects(options: argparse.Namespace, agents: Agents) -> int:
    from refstore.ray._looks import objects_of

    order = objects.SORTS[options.sort]
    found = objects_of(agents, time.monotonic() + PATIENCE)
    found.sort(key=lambda one: (order(one.info), one.node))
    shown = found[: options.limit]
    if options.json:
        show_json([_as_json(one) for one in shown])
        return 0
    now = time.time()
    show_table(OBJECTS, [Row(_object_cells(one, now)) for one in shown])
    nbytes = sum(one.info.block_nbytes for one in found)
    replicas = sum(len(one.replicas) for one in found)
    show(f"{plural(len(found), 'object')}, {size_text(nbytes)}; {plural(replicas, 'replica')}")
    return 0


def _object_cells(one: ClusterObject, now: float) -> list[str]:
    name, *others = objects.row_of(one.info, now).cells
    return [name, one.node[:SHORT], *others[:5], str(len(one.replicas))]


def _as_json(one: ClusterObject) -> dict[str, object]:
    info = one.info
    return {
        "node": one.node,
        "name": info.name,
        "ref": info.ref.hex() if info.ref else None,
        "kind": info.kind,
        "state": info.state,
        "nbytes": info.nbytes,
        "block_nbytes": info.block_nbytes,
        "pins": info.pins,
        "created": info.created,
        "replicas": list(one.replicas),
    }


# --- as it changes


def _top(options: argparse.Namespace, agents: Agents) -> int:
    if options.json:
        tell_lines(options, _Teller(agents).line)
        return 0
    require_terminal("nodes")
    try:
        from refstore.cli.cluster_screen import ClusterScreen
    except ImportError as error:
        raise MissingExtraError("top", "cli", error) from None
    screen = ClusterScreen(lambda: _look(agents), options.session, options.interval)
    screen.run()
    return screen.return_code or 0


class _Teller:
    """Lines about a session, each since the one before."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._old, self._at = _look(agents), time.monotonic()

    def line(self) -> dict[str, object]:
        old, before = self._old, self._at
        self._old, self._at = _look(self._agents), time.monotonic()
        rates = rates_between(old, self._old, self._at - before)
        nodes = [one._asdict() | {"rates": rates[one.node]} for one in self._old]
        return {"session": self._agents.session, "at": time.time(), "nodes": nodes}


VIEWS: dict[str, Callable[[argparse.Namespace, Any], int]] = {
    "nodes": _nodes,
    "objects": _objects,
    "top": _top,
}
