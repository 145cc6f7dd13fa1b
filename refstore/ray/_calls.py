"""Calls of agents: sent again while an agent restarts, until the time is up or its node is dead.

Ray tells of one death by several errors, depending on when one asks; what they have in common is
that the call may be tried again. Whether a node is dead is asked of Ray itself.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError as RayTimeoutError
from ray.exceptions import RayError, RayTaskError

from refstore import GetTimeoutError
from refstore.ray._names import NAMESPACE, agent_name
from refstore.ray._values import NodeLostError

__all__ = ["Agents", "left", "live_nodes"]

RETRY = 0.05  # seconds between two tries
ASK = 0.25  # seconds between two looks at Ray's list of nodes


def left(end: float) -> float:
    """Seconds until a time of time.monotonic(), 0 if it is over."""
    return max(0.0, end - time.monotonic())


def live_nodes() -> dict[str, str]:
    """Host names by id of the nodes that Ray takes for alive."""
    nodes: Any = ray.nodes  # which has no types
    return {one["NodeID"]: one["NodeManagerHostname"] for one in nodes() if one["Alive"]}


class Agents:
    """The agents of one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._handles: dict[str, Any] = {}

    def call(self, node: str, method: str, *arguments: object, end: float, returns: int = 1) -> Any:
        """Result of a method of a node's agent.

        Errors: what the method raises; GetTimeoutError; NodeLostError.
        """
        next_look = time.monotonic() + ASK
        while True:
            try:
                function = getattr(self._handle(node), method)
                replies = function.options(num_returns=returns).remote(*arguments)
                return ray.get(replies, timeout=left(end))
            except RayTimeoutError:
                raise self._no_answer(node, method) from None
            except RayTaskError as error:
                raise error.cause from None
            except (RayError, ValueError):  # ValueError: no actor has this name, just now
                self._handles.pop(node, None)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + ASK
                self._require_alive(node)
            if not left(end):
                raise self._no_answer(node, method)
            time.sleep(RETRY)

    def handle(self, node: str) -> Any:
        """Errors: ValueError if the node has no agent."""
        return ray.get_actor(agent_name(self.session, node), namespace=NAMESPACE)

    def _handle(self, node: str) -> Any:
        handle = self._handles.get(node)
        if handle is None:
            handle = self._handles[node] = self.handle(node)
        return handle

    def _require_alive(self, node: str) -> None:
        if node not in live_nodes():
            raise NodeLostError(
                f"node {node[:8]} is dead, by Ray's list: what only its store had is lost",
                node=node,
            )

    def _no_answer(self, node: str, method: str) -> GetTimeoutError:
        return GetTimeoutError(
            f"the agent of node {node[:8]} has not answered `{method}` in time: it restarts, is "
            "stopped, or cannot be reached; Ray has not called the node dead so far"
        )
