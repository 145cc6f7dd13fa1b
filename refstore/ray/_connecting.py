"""Starting a session, and connecting to one from any process of the cluster."""

from __future__ import annotations

import copyreg
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from refstore import Store
from refstore.ray._calls import Agents, end_of, live_nodes
from refstore.ray._cluster import Cluster
from refstore.ray._names import checked_session
from refstore.ray._session import end_session, start_agents, start_session

__all__ = ["connect", "start"]

START = 60.0  # seconds in which agents must have started

_clusters: dict[tuple[str, str, int], Cluster] = {}  # of this process
_lock = threading.Lock()


def start(
    capacity: str | int | None = None,
    *,
    session: str = "default",
    max_objects: int | None = None,
) -> Cluster:
    """Makes a store and an agent on each live node of the Ray cluster, and connects to them.

    Harmless again: it brings in nodes that joined since.

    Parameters:
        capacity: bytes of each node's store, as of `Store`.
        session: name of the session; those of other names have stores of their own.
        max_objects: as of `Store`.

    Returns:
        The Cluster.

    Errors:
        ValueError: a running session has another capacity or max_objects.
        RuntimeError: Ray is not initialised.
        GetTimeoutError: a node's agent has not started.
        Exception: whatever making a store raises, on any node.

    Example:
        >>> import ray
        >>> import refstore.ray
        >>> _ = ray.init(ignore_reinit_error=True)
        >>> refstore.ray.start(capacity="64MiB")
        <Cluster 'default', node ...>
    """
    checked_session(session)
    _require_ray()
    options: dict[str, Any] = {"capacity": capacity, "max_objects": max_objects}
    agents, is_new = Agents(session), start_session(session, options)
    here = ray.get_runtime_context().get_node_id()
    try:
        paths = start_agents(agents, list(live_nodes()), time.monotonic() + START)
    except Exception:
        if is_new:  # else every later start() would find these options
            end_session(agents)
        raise
    with Store(Path(paths[here]), create=False, **options):
        pass  # a ValueError if it has another capacity
    return connect(session=session)


def connect(*, session: str = "default", timeout: float | None = 30) -> Cluster:
    """Connects to a session, from any task, actor or driver.

    Starts this node's agent, if the node joined after start().

    Parameters:
        session: name of the session.
        timeout: seconds to wait for it to be started.

    Returns:
        The Cluster; the same one again in this process.

    Errors:
        GetTimeoutError: no such session runs.
        RuntimeError: Ray is not initialised.

    Example:
        >>> import refstore.ray
        >>> refstore.ray.connect()
        <Cluster 'default', node ...>
    """
    checked_session(session)
    _require_ray()
    node = ray.get_runtime_context().get_node_id()
    key = session, node, os.getpid()
    with _lock:
        known = _clusters.get(key)
        if known is not None and not known.store.closed:
            return known
    end = end_of(timeout)
    path = Path(start_agents(Agents(session), [node], end)[node])
    with _lock:
        known = _clusters[key] = Cluster(session, Store(path, create=False), node)
    return known


def _require_ray() -> None:
    if not ray.is_initialized():
        raise RuntimeError("Ray is not initialised in this process: call ray.init() first")


def _reduced(cluster: Cluster) -> tuple[Any, ...]:
    return partial(connect, session=cluster.session), ()


copyreg.pickle(Cluster, _reduced)  # it is this node's where it is unpickled
