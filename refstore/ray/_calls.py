"""Calls of actors: sent again while one restarts, until the time is up or its node is dead.

Ray tells of one death by several errors, depending on when one asks; what they have in common is
that the call may be tried again. Whether a node is dead is asked of Ray itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError as RayTimeoutError
from ray.exceptions import RayError, RayTaskError

from refstore import GetTimeoutError, NodeLostError
from refstore._arguments import deadline_of
from refstore.ray._names import NAMESPACE, agent_name, session_name

__all__ = ["Agents", "end_of", "left", "live_nodes"]

RETRY = 0.05  # seconds between two tries
FOREVER = 3.2e7  # seconds: a year
ASK = 0.25  # seconds between two looks at Ray's list of nodes


def left(end: float) -> float:
    """Seconds until a time of time.monotonic(), 0 if it is over."""
    return max(0.0, end - time.monotonic())


def end_of(timeout: float | None) -> float:
    """`deadline_of` for Ray, which counts a time in 64-bit milliseconds, and takes no infinity."""
    end = deadline_of(timeout)
    return time.monotonic() + FOREVER if end is None else max(end, time.monotonic())


def live_nodes() -> dict[str, str]:
    """Host names by id of the nodes that Ray takes for alive."""
    nodes: Any = ray.nodes  # which has no types
    return {one["NodeID"]: one["NodeManagerHostname"] for one in nodes() if one["Alive"]}


def _call(
    find: Callable[[bool], Any],
    give_up: Callable[[bool], Exception | None],
    method: str,
    arguments: Sequence[object],
    end: float,
) -> Any:
    """Result of an actor's method, however often the actor is started again meanwhile.

    Parameters:
        find: its handle; raises ValueError while it has none. True: the last one was of no use.
        give_up: the error to raise when the time is up (True), or None before.
        method, arguments: the call.
        end: by time.monotonic().

    Errors: what the method raises; what `give_up` returns.
    """
    next_look, is_again = time.monotonic() + ASK, False
    while True:
        try:
            function = getattr(find(is_again), method)
            return ray.get(function.remote(*arguments), timeout=left(end))
        except RayTimeoutError:
            is_over = True
        except RayTaskError as error:
            raise error.cause from None
        except (RayError, ValueError):  # ValueError: no actor has this name, just now
            is_over, is_again = not left(end), True
        if is_over or time.monotonic() >= next_look:
            next_look = time.monotonic() + ASK
            why = give_up(is_over)
            if why is not None:
                raise why
        time.sleep(RETRY)


class Agents:
    """The agents of one session, and what the session has only one of."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._handles: dict[str, Any] = {}  # by node; "": of the session

    def call(self, node: str, method: str, *arguments: object, end: float) -> Any:
        """Result of a method of a node's agent.

        Errors: what the method raises; GetTimeoutError; NodeLostError.
        """

        name = agent_name(self.session, node)

        def find(is_again: bool) -> Any:
            return self._found(node, name, is_again)

        def give_up(is_over: bool) -> Exception | None:
            if is_over:
                return GetTimeoutError(
                    f"the agent of node {node[:8]} has not answered `{method}` in time: it "
                    "restarts, is stopped, or cannot be reached; Ray has not called the node dead "
                    "so far"
                )
            if node in live_nodes():
                return None
            return NodeLostError(
                f"node {node[:8]} is dead, by Ray's list: what only its store had is lost",
                node=node,
            )

        return _call(find, give_up, method, arguments, end)

    def call_session(self, method: str, *arguments: object, end: float) -> Any:
        """Result of a method of the session's actor.

        Errors: what the method raises; GetTimeoutError.
        """

        name = session_name(self.session)

        def find(is_again: bool) -> Any:
            return self._found("", name, is_again)

        def give_up(is_over: bool) -> Exception | None:
            if not is_over:
                return None
            return GetTimeoutError(
                f"no session {self.session!r} has answered in this Ray cluster: "
                "refstore.ray.start() starts one"
            )

        return _call(find, give_up, method, arguments, end)

    def _found(self, key: str, name: str, is_again: bool) -> Any:
        handle = None if is_again else self._handles.get(key)
        if handle is None:
            handle = self._handles[key] = ray.get_actor(name, namespace=NAMESPACE)
        return handle

    def handle(self, node: str) -> Any:
        """Errors: ValueError if the node has no agent."""
        return ray.get_actor(agent_name(self.session, node), namespace=NAMESPACE)
