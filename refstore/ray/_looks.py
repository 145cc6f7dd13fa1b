"""Looks at all nodes of a session: their figures, and the objects of all their stores."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from refstore import ObjectInfo
from refstore.ray._calls import Agents, left, live_nodes
from refstore.ray._names import ASKED, LATEST, source_of
from refstore.ray._values import Node

__all__ = ["ClusterObject", "nodes_of", "objects_of"]


class ClusterObject(NamedTuple):
    """An object of one node, and where its replicas are."""

    node: str
    info: ObjectInfo  # of a replica where the node that has it has not answered; with the pins on
    # all nodes, and as its name that of which it is a version
    replicas: tuple[str, ...]  # nodes


def nodes_of(agents: Agents, end: float) -> list[Node]:
    """Figures of all live nodes; one whose agent does not answer is left out."""
    found = _ask(agents, "figures", end)
    rows = []
    for node, one in found.items():
        came = [other["served"].get(node, (0, 0)) for other in found.values()]
        served = sum(objects for objects, _ in one["served"].values())
        pulls, nbytes = sum(objects for objects, _ in came), sum(some for _, some in came)
        rows.append(
            Node(
                node,
                one["host"],
                one["agent_pid"],
                pulls,
                served,
                nbytes,
                one["capacity"],
                one["used"],
                one["objects"],
            )
        )
    return rows


def objects_of(agents: Agents, end: float) -> list[ClusterObject]:
    """The objects of all nodes whose agents answer, each once."""
    originals: dict[tuple[str, str], ObjectInfo] = {}
    replicas: dict[tuple[str, str], list[tuple[str, ObjectInfo]]] = defaultdict(list)
    titles: dict[tuple[str, str], str] = {}
    for node, (infos, versions) in _ask(agents, "listing", end).items():
        for info in infos:
            source = source_of(info.name)
            if source is not None:
                replicas[source].append((node, info))
            elif not (info.name or "").startswith((LATEST, ASKED)):
                originals[node, info.ref.hex() if info.ref else f"row {len(originals)}"] = info
        for name, (number, ref) in versions.items():
            titles[ref.node, ref.ref.hex()] = f"{name}, version {number}"
    found = []
    for where in originals.keys() | replicas.keys():
        copies = replicas[where]
        info = originals.get(where) or copies[0][1]
        pins = sum(copy.pins for _, copy in copies) + (info.pins if where in originals else 0)
        title = titles.get(where) or (info.name if where in originals else None)
        nodes = tuple(node for node, _ in copies)
        info = dataclasses.replace(info, name=title, pins=pins)
        found.append(ClusterObject(where[0], info, nodes))
    return found


def _ask(agents: Agents, method: str, end: float) -> dict[str, Any]:
    """Answers of the agents of all live nodes, by node."""
    asked, found = {}, {}
    for node in live_nodes():
        with contextlib.suppress(ValueError):  # it has none
            asked[node] = getattr(agents.handle(node), method).remote()
    for node, reply in asked.items():
        with contextlib.suppress(RayError):
            found[node] = ray.get(reply, timeout=left(end))
    return found
