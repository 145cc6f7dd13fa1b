"""Actor that a session has one of: its options, its nodes, the numbers of its versions.

Ray starts it again where it can, if it or its node dies. It has the numbers from the
agents then, and skips some, since one that it gave out may be known to none of them yet.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from refstore import RefstoreError
from refstore.ray._agent import GROUPS, Agent
from refstore.ray._calls import Agents, left, live_nodes
from refstore.ray._names import NAMESPACE, agent_name, session_name
from refstore.ray._pulling import IN_REPLY
from refstore.ray._values import ClusterRef

__all__ = ["end_session", "start_agents", "start_session"]

SKIPPED = 1000  # numbers that may have been given out and are known to no agent
# Bytes of a block that comes from an agent's heap, and that may lie free on top of it: gRPC copies
# a reply more than once, and pages that are fresh from the kernel have to be cleared each time.
KEPT = 32 << 20
SETTINGS = {  # an agent's environment
    # results of up to so many bytes go in Ray's replies, and not into Ray's own store
    "RAY_max_direct_call_object_size": str(IN_REPLY + (64 << 10)),
    "MALLOC_MMAP_THRESHOLD_": str(KEPT),  # of glibc; other allocators ignore both
    "MALLOC_TRIM_THRESHOLD_": str(KEPT),
}
STOP = 10.0  # seconds in which agents must have stopped by themselves
PATIENCE = 5.0  # seconds in which an agent must tell what it has


class Session:
    """See above."""

    def __init__(self, session: str, token: str, options: dict[str, Any]) -> None:
        self._session, self._token, self._options = session, token, options
        self._nodes: list[str] = []
        self._given: dict[str, int] = {}  # numbers, by name
        self._done: dict[str, tuple[int, ClusterRef]] = {}
        self._first = 1
        self._ask_agents()

    def options(self) -> tuple[str, dict[str, Any]]:
        """Token that tells the session from earlier ones, and options of its stores."""
        return self._token, self._options

    def join(self, node: str) -> None:
        """Takes a node in; it has an agent."""
        if node not in self._nodes:
            self._nodes.append(node)

    def pid(self) -> int:
        return os.getpid()

    def bump(self, name: str) -> tuple[int, list[str]]:
        """The next number of a name, and the nodes that are to have it."""
        number = self._given.get(name, self._first - 1) + 1
        self._given[name] = number
        return number, self._nodes

    def done(self, name: str, number: int, ref: ClusterRef, missed: list[str]) -> None:
        """A version is on all nodes but those that missed it."""
        if self._done.get(name, (0, ref))[0] < number:
            self._done[name] = number, ref
        if missed:
            alive = live_nodes()
            self._nodes = [one for one in self._nodes if one in alive]

    def table(self, node: str) -> dict[str, tuple[int, ClusterRef]]:
        """The latest versions, by name, for a node, which lives."""
        self.join(node)
        return self._done

    def _ask_agents(self) -> None:
        """There are some if this one was started again."""
        agents = Agents(self._session)
        for node in live_nodes():
            with contextlib.suppress(RefstoreError, RayError, ValueError):
                agents.handle(node)
                self._first = SKIPPED
                known = agents.call(node, "versions", end=time.monotonic() + PATIENCE)
                self.join(node)
                for name, (number, ref) in known.items():
                    self.done(name, number, ref, [])
                    self._given[name] = max(self._given.get(name, 0), number + SKIPPED)


def _of_detached_actor(name: str, node: str, *, may_move: bool) -> dict[str, Any]:
    """Options of an actor that outlives who starts it, and is started again when it dies."""
    where = NodeAffinitySchedulingStrategy(node, soft=may_move, _spill_on_unavailable=may_move)
    options = {
        "name": name,
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": -1,
        "scheduling_strategy": where,
    }
    if may_move:  # Ray puts what needs no resource on any node, whichever it is to prefer
        options["memory"] = 1  # byte
    return options


def start_session(session: str, options: dict[str, Any]) -> bool:
    """Starts a session if it does not run. Whether it did not."""
    with contextlib.suppress(ValueError):
        ray.get_actor(session_name(session), namespace=NAMESPACE)
        return False
    here = ray.get_runtime_context().get_node_id()
    (
        ray.remote(Session)
        .options(**_of_detached_actor(session_name(session), here, may_move=True))
        .remote(session, secrets.token_hex(4), options)
    )
    return True


def stop_agent(agents: Agents, node: str, end: float) -> None:
    """Ends an agent, if there is one, for good, and its store with it."""
    with contextlib.suppress(ValueError):
        handle = agents.handle(node)
        with contextlib.suppress(RayError):
            ray.get(handle.stop.remote(), timeout=left(end))
        ray.kill(handle, no_restart=True)


def end_session(agents: Agents) -> None:
    """Ends a session's actors for good, and its stores."""
    end = time.monotonic() + STOP
    for node in live_nodes():
        stop_agent(agents, node, end)
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(session_name(agents.session), namespace=NAMESPACE), no_restart=True)


def start_agents(agents: Agents, nodes: list[str], end: float) -> dict[str, str]:
    """Paths of the stores of some nodes, each of which has an agent then.

    Errors: GetTimeoutError: no session runs, or an agent has not started; whatever making a store
    raises.
    """
    token, options = agents.call_session("options", end=end)
    remote: Any = ray.remote  # whose types know no groups
    for node in nodes:
        remote(concurrency_groups=GROUPS)(Agent).options(
            **_of_detached_actor(agent_name(agents.session, node), node, may_move=False),
            runtime_env={"env_vars": SETTINGS},
        ).remote(agents.session, token, options)
    paths = {node: _path_of(agents, node, end) for node in nodes}
    for node in nodes:
        agents.call_session("join", node, end=end)
    return paths


def _path_of(agents: Agents, node: str, end: float) -> str:
    try:
        path: str = agents.call(node, "where", end=end)
    except Exception:
        stop_agent(agents, node, end)  # a later try is to find another one
        raise
    return path
