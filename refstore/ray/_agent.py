"""Agent of a node: an actor that hands out what the node's store has, and keeps replicas in order.

It holds no object that the store does not hold: one that was killed is started again by Ray, and
goes on with the same store. What it forgets by that is who has replicas of the node's objects; it
asks all nodes then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayError

from refstore import (
    GetTimeoutError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectRef,
    PinnedBuffer,
    RefstoreError,
    Store,
    label,
)
from refstore._byte_objects import octets_of
from refstore.ray import _latest
from refstore.ray._calls import Agents, left, live_nodes
from refstore.ray._names import store_name, stores_prefix
from refstore.ray._parts import PATIENCE, Parts, part_count
from refstore.ray._pulling import SMALL, Puller
from refstore.ray._transport import PlasmaTransport
from refstore.ray._values import ClusterRef

__all__ = ["GROUPS", "Agent"]

FAN_OUT = 2  # nodes that take an object from one node
AHEAD = 4  # parts whose handles a node gets at once
FEW = 4  # nodes that get more than SMALL bytes in replies; of parts, nodes take from each other
TICK = 0.5  # seconds between two looks at what is to be tidied
CATCH_UP = 5.0  # seconds between two questions for versions that were missed
BEHIND = 30.0  # seconds in which a version that was missed must come
DROPPED = 120.0  # seconds in which a replica that was on its way when it was dropped goes too
GROUPS = {"serve": 16, "work": 16}  # threads: those that serve never wait for those that pull

F = TypeVar("F", bound=Callable[..., Any])


def serves(method: F) -> F:
    """Marks a method that waits for no other node."""
    marked: F = ray.method(concurrency_group="serve")(method)
    return marked


def works(method: F) -> F:
    """Marks a method that waits for other nodes."""
    marked: F = ray.method(concurrency_group="work")(method)
    return marked


class Agent:
    """See above. Methods are called by other processes of the cluster, in many threads."""

    def __init__(self, session: str, token: str, options: dict[str, Any]) -> None:
        context = ray.get_runtime_context()
        self._node: str = context.get_node_id()
        self._prefix = stores_prefix(session, context.gcs_address)
        self._token = token
        label("ray agent")
        self._has_forgotten = False  # who has replicas
        self._failure: Exception | None = None
        try:
            self._open(store_name(self._prefix, token, self._node), options)
        except Exception as error:  # where() says why: Ray would only say that the actor died
            self._failure = error
            return
        self._agents = Agents(session)
        self._parts = Parts(self._store, PlasmaTransport())
        self._puller = Puller(self._store, self._node, self._agents, self._parts)
        self._lock = threading.Lock()
        self._holders: dict[ClusterRef, list[str]] = {}  # nodes, in the order in which they came
        self._dropped: dict[str, float] = {}  # names of replicas, and when they were dropped
        self._served: dict[str, tuple[int, int]] = {}  # objects and bytes, by node
        self._has_ended = threading.Event()
        self._remove_stores_of_dead_nodes()
        threading.Thread(target=self._tidy_up, name="refstore.ray", daemon=True).start()

    def _open(self, name: str, options: dict[str, Any]) -> None:
        try:
            self._store = Store(name, create=True, **options)
        except FileExistsError:
            self._store = Store(name, create=False, **options)
            self._has_forgotten = True

    # --- for processes of this node

    @serves
    def where(self) -> str:
        """Path of the store. Errors: whatever opening it raised."""
        if self._failure is not None:
            raise self._failure
        return str(self._store.path)

    @works
    def pull(self, ref: ClusterRef, seconds: float) -> None:
        """Brings an object to this node, if there is time enough: the caller looks at its own."""
        with contextlib.suppress(GetTimeoutError):
            self._puller.pull(ref, time.monotonic() + seconds).release()

    @works
    def prefetch(self, ref: ClusterRef, seconds: float) -> None:
        """Brings an object to this node, if it can be had: nobody waits for it."""
        with contextlib.suppress(RefstoreError):
            self.pull(ref, seconds)

    @works
    def publish(self, name: str, ref: ClusterRef, seconds: float) -> tuple[int, list[str]]:
        """Makes an object of this store the latest version on all nodes.

        Its number, and the nodes that missed it.
        """
        end = time.monotonic() + seconds
        number, nodes = self._agents.call_session("bump", name, end=end)
        others = [one for one in nodes if one != self._node]
        with self._lock:
            self._holders[ref] = list(others)
        self._store.disown(ref.ref)
        missed = self._take_and_spread(self._node, others, name, number, ref, end)
        with contextlib.suppress(GetTimeoutError):  # the agents know, too
            self._agents.call_session("done", name, number, ref, missed, end=end + CATCH_UP)
        return number, missed

    # --- for other nodes

    @serves
    def fetch(self, ref: ClusterRef, node: str) -> Any:
        """An object's bytes, which ride in the reply. None: ask again, or the source for parts."""
        with contextlib.suppress(GetTimeoutError), self._pinned(ref) as buf:
            if ref.nbytes > SMALL and self._has_served_many(ref, node):
                return None
            whole = np.frombuffer(octets_of(buf), np.uint8)  # pins it until Ray has copied it
            self._note(ref, node)
            return whole
        return None

    @serves
    def join(self, ref: ClusterRef, node: str) -> tuple[str, list[Any]]:
        """The node from which one that wants a large object is to take its parts.

        If it is this one, with handles of the first parts: each question costs milliseconds. If
        they cannot be exported just now, it asks for them later.
        """
        self._store.info(ref.ref)  # raises if it is gone
        with self._lock:
            nodes = self._holders.setdefault(ref, [])
            is_new = node not in nodes  # else what it had was evicted, or its pull failed
            if is_new:
                nodes.append(node)
            index = len(nodes) - 1
        if is_new and index >= FAN_OUT:
            return nodes[(index - FAN_OUT) // FAN_OUT], []
        first = list[Any]()
        with contextlib.suppress(RayError, OSError):
            for index in range(min(AHEAD, part_count(ref.nbytes))):
                first.append(self.part(ref, index, node))
        return self._node, first

    @serves
    def part(self, ref: ClusterRef, index: int, node: str) -> Any:
        """Handle of one part; None if it is still on its way to this node."""
        if ref.node == self._node:
            self._store.info(ref.ref)  # raises if it is gone, though its parts may be at hand
        handle = self._parts.handle(ref, self._key(ref), index)
        if index == 0 and handle is not None:
            self._note(ref, node)
        return handle

    @works
    def delete(self, ref: ClusterRef, seconds: float) -> None:
        """Deletes an object of this node, and its replicas."""
        self._store.delete(ref.ref)
        self._parts.forget(ref)
        self._drop_replicas(ref, time.monotonic() + seconds)

    @works
    def drop(self, nodes: list[str], seconds: float, ref: ClusterRef) -> list[str]:
        """Deletes this node's replica, and those of more nodes; the nodes that missed it."""
        end = time.monotonic() + seconds
        with self._lock:
            self._dropped[ref.replica] = time.monotonic()
        with contextlib.suppress(ObjectNotFoundError):
            self._store.delete(ref.replica)
        self._parts.forget(ref)
        return self._spread(nodes, "drop", (ref,), end)

    @works
    def take(
        self,
        nodes: list[str],
        seconds: float,
        parent: str,
        name: str,
        number: int,
        ref: ClusterRef,
    ) -> list[str]:
        """Takes a version, and hands it on to more nodes while it comes; those that missed it."""
        end = time.monotonic() + seconds
        self._parts.begin(ref)  # before the others hear of it, and ask for it
        return self._take_and_spread(parent, nodes, name, number, ref, end)

    @serves
    def versions(self) -> dict[str, tuple[int, ClusterRef]]:
        """The latest versions that this node has, by name."""
        found = _latest.known_versions(self._store)
        return {name: (version.number, version.ref) for name, version in found}

    @serves
    def figures(self) -> dict[str, Any]:
        """Figures that nodes() shows of this node."""
        stats = self._store.stats()
        with self._lock:
            served = dict(self._served)
        return {
            "host": socket.gethostname(),
            "agent_pid": os.getpid(),
            "served": served,
            "capacity": stats.capacity,
            "used": stats.used,
            "objects": stats.objects,
        }

    @works
    def listing(self) -> tuple[list[ObjectInfo], dict[str, tuple[int, ClusterRef]]]:
        """All objects of the store, and the latest versions that this node has, by name."""
        return list(self._store.objects()), self.versions()

    @serves
    def stop(self) -> None:
        """Removes the store, and those that dead nodes left on this host."""
        self._leave()

    # --- inside

    def _leave(self) -> None:
        self._has_ended.set()
        self._remove_stores_of_dead_nodes()
        with contextlib.suppress(FileNotFoundError):  # another agent knew that this node is dead
            self._store.unlink()
        self._store.close()

    def _key(self, ref: ClusterRef) -> ObjectRef | str:
        return ref.ref if ref.node == self._node else ref.replica

    def _pinned(self, ref: ClusterRef) -> PinnedBuffer:
        """Errors: ObjectNotFoundError; GetTimeoutError: it is still on its way here."""
        if self._parts.is_coming(ref):
            return self._store.get(ref.replica, timeout=PATIENCE)
        return self._store.get(self._key(ref))

    def _has_served_many(self, ref: ClusterRef, node: str) -> bool:
        """Whether an object of this node went to so many that one more is to take it in parts."""
        with self._lock:
            nodes = self._holders.get(ref, [])
            return len(nodes) >= FEW and node not in nodes

    def _note(self, ref: ClusterRef, node: str) -> None:
        with self._lock:
            if ref.node == self._node:
                nodes = self._holders.setdefault(ref, [])
                if node not in nodes:
                    nodes.append(node)
            objects, nbytes = self._served.get(node, (0, 0))
            self._served[node] = objects + 1, nbytes + ref.nbytes

    def _take_and_spread(
        self, parent: str, nodes: list[str], name: str, number: int, ref: ClusterRef, end: float
    ) -> list[str]:
        """Nodes that missed it."""
        arguments = (self._node, name, number, ref)
        with ThreadPoolExecutor(1) as pool:
            try:
                told = pool.submit(self._spread, nodes, "take", arguments, end)
                self._take(parent, name, number, ref, end)
            finally:
                self._parts.land(ref)  # who asks for it need not wait for those behind it
            return told.result()

    def _take(self, parent: str, name: str, number: int, ref: ClusterRef, end: float) -> None:
        """Makes an object the latest version here, unless a later one is; the earlier one goes."""
        try:
            if self._known(name) == number:
                return
            if ref.node == self._node:
                buf = self._store.get(ref.ref)
            else:
                buf = self._puller.pull(ref, end, parent=parent, evictable=False)
        except ObjectNotFoundError:  # its node has a later version already
            return
        with buf:
            new = _latest.Version(number, buf.ref, ref)
            earlier = _latest.replace(self._store, name, new)
        if earlier is not None:
            with contextlib.suppress(ObjectNotFoundError):
                self._store.delete(earlier.local)

    def _known(self, name: str) -> int:
        """Number of the latest version here; 0 if there is none."""
        known = _latest.read(self._store, name)
        return 0 if known is None else known.number

    def _spread(
        self, nodes: list[str], method: str, arguments: tuple[object, ...], end: float
    ) -> list[str]:
        """Calls a method of many agents by a tree of them; the nodes that could not be reached."""

        def tell(share: list[str], end: float) -> list[str]:
            try:
                missed: list[str] = self._agents.call(
                    share[0], method, share[1:], left(end), *arguments, end=end
                )
            except (RefstoreError, OSError):
                return share
            return missed

        def tell_all(share: list[str]) -> list[str]:
            middle = time.monotonic() + left(end) / 2  # the rest is for those behind one that fails
            missed = tell(share, middle)
            if len(missed) < 2:
                return missed
            with ThreadPoolExecutor(len(missed)) as pool:
                return [k for some in pool.map(lambda one: tell([one], end), missed) for k in some]

        shares = [nodes[k::FAN_OUT] for k in range(FAN_OUT) if nodes[k::FAN_OUT]]
        if not shares:
            return []
        with ThreadPoolExecutor(len(shares)) as pool:
            return [node for missed in pool.map(tell_all, shares) for node in missed]

    def _drop_replicas(self, ref: ClusterRef, end: float) -> None:
        with self._lock:
            nodes = self._holders.pop(ref, [])
        if self._has_forgotten:
            nodes = [one for one in live_nodes() if one != self._node]
        self._spread(nodes, "drop", (ref,), end)

    def _tidy_up(self) -> None:
        next_catch_up = 0.0
        while not self._has_ended.wait(TICK):
            for task in (self._parts.expire, self._drop_what_is_gone, self._drop_late_replicas):
                self._try(task)
            if time.monotonic() >= next_catch_up:
                self._try(self._leave_if_dead)
                self._try(self._catch_up)
                next_catch_up = time.monotonic() + CATCH_UP

    def _try(self, task: Callable[[], None]) -> None:
        """A task of the thread that tidies up, which goes on if this one fails."""
        with contextlib.suppress(RefstoreError, RayError, OSError, ValueError):
            task()

    def _drop_what_is_gone(self) -> None:
        """Replicas go when their source has gone by itself: with its owner, or evicted."""
        with self._lock:
            refs = list(self._holders)
        for ref in refs:
            if ref.node == self._node and ref.ref not in self._store:
                self._drop_replicas(ref, time.monotonic() + CATCH_UP)

    def _drop_late_replicas(self) -> None:
        now = time.monotonic()
        with self._lock:
            for name, when in list(self._dropped.items()):
                if now - when > DROPPED:
                    del self._dropped[name]
            names = list(self._dropped)
        self._store.delete_many(names)

    def _leave_if_dead(self) -> None:
        """Ray's processes outlive their raylet for a while, and the node never comes back."""
        if self._node not in live_nodes():
            try:
                self._leave()
            finally:
                os._exit(1)

    def _catch_up(self) -> None:
        """Takes versions that were published while this node could not be reached."""
        end = time.monotonic() + CATCH_UP
        table = self._agents.call_session("table", self._node, end=end)
        for name, (number, ref) in table.items():
            if self._known(name) < number:
                end = time.monotonic() + BEHIND
                self._try(partial(self._take, ref.node, name, number, ref, end))

    def _remove_stores_of_dead_nodes(self) -> None:
        """Removes those on this host: a node that died never comes back, though its processes may
        go on for a while. Those of an earlier session go when nobody is attached to them."""
        paths = list(Path(self._store.path).parent.glob(f"{self._prefix}*"))  # before the nodes
        mine = {store_name(self._prefix, self._token, node) for node in live_nodes()}
        of_session = store_name(self._prefix, self._token, "")
        for path in paths:
            if path.name in mine or not path.is_file():
                continue
            with contextlib.suppress(RefstoreError, OSError), Store(path, create=False) as store:
                if path.name.startswith(of_session) or store.stats().processes == 1:
                    store.unlink()
