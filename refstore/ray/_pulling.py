"""Bringing an object to this node's store, once, however many of the node's processes ask.

The replica's name is claimed while it comes: the store itself lets one process bring it and the
others wait, and lets another take over if that one dies. Up to SMALL bytes come in the reply of the
source's agent, and up to IN_REPLY bytes do for the first few nodes. More comes in parts; of
several parts by way of the node's own agent, since that can hand them on to other nodes before it
has all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.exceptions import RayError

from refstore import (
    GetTimeoutError,
    NodeLostError,
    ObjectExistsError,
    ObjectNotFoundError,
    PinnedBuffer,
    Store,
    StoreFullError,
    Writer,
)
from refstore.ray._calls import Agents, left
from refstore.ray._names import asked_name
from refstore.ray._parts import PART, Flight, Parts, part_count
from refstore.ray._transport import PlasmaTransport, Transport
from refstore.ray._values import ClusterRef

__all__ = ["IN_REPLY", "SMALL", "Puller"]

SMALL = 1 << 20  # bytes; they always ride in the reply
IN_REPLY = 8 << 20  # bytes that may ride in one: Ray allows 10 MiB
NAP = 0.2  # seconds between two looks whether another process still brings it
TURN = 1.0  # seconds at most that a process waits for what another has asked the agent for
LOOK = 0.02  # seconds to the first look whether that one still asks; each takes twice, NAP at most
DETOUR = 5.0  # seconds in which a node other than the source must answer
FETCHES = 3  # parts at once


def _overdue(ref: ClusterRef) -> GetTimeoutError:
    return GetTimeoutError(
        f"{ref!r} has not come to this node in time: that takes longer, or the agent of this node, "
        "or of the object's, is stopped or cannot be reached"
    )


class Puller:
    """Pulls of one process. That of an agent has `parts`, which it hands on."""

    def __init__(self, store: Store, node: str, agents: Agents, parts: Parts | None = None) -> None:
        self._store = store
        self._node = node
        self._agents = agents
        self._parts = parts
        self._transport: Transport = parts.transport if parts else PlasmaTransport()
        self._late = set[str]()  # nodes from which a reply did not come in time

    def pull(
        self,
        ref: ClusterRef,
        end: float,
        *,
        parent: str | None = None,
        evictable: bool = True,
    ) -> PinnedBuffer:
        """The replica of an object of another node, pinned.

        `parent`: the node to take parts from; else the source says which.

        Errors: ObjectNotFoundError, NodeLostError, GetTimeoutError, StoreFullError.
        """
        while True:
            with contextlib.suppress(ObjectNotFoundError):
                return self._store.get(ref.replica)
            if self._parts is None and ref.nbytes > PART:
                buf = self._have_it_brought(ref, end)
                if buf is not None:
                    return buf
                continue
            try:
                writer = self._store.create(
                    ref.nbytes,
                    header=ref.how,
                    name=ref.replica,
                    claim=True,
                    evictable=evictable,
                )
            except ObjectExistsError:
                buf = self._arrived(ref, min(left(end), NAP))
                if buf is not None:
                    return buf
                if not left(end):
                    raise _overdue(ref) from None
                continue
            with writer:
                self._fill(writer, ref, parent, end)
            with contextlib.suppress(ObjectNotFoundError):  # it was evicted at once
                return self._store.get(writer.ref)

    def _arrived(self, ref: ClusterRef, seconds: float) -> PinnedBuffer | None:
        """The replica, if another brings it in time."""
        with contextlib.suppress(GetTimeoutError, ObjectNotFoundError):
            return self._store.get(ref.replica, timeout=seconds)
        return None

    def _have_it_brought(self, ref: ClusterRef, end: float) -> PinnedBuffer | None:
        """One process asks the agent for all of its node, as a call takes milliseconds of both. If
        it fails, another asks; if it does not end for long, it may be stopped, and all do.

        The replica, if it was another that asked; None: look for it.
        """
        turn = time.monotonic() + min(TURN, left(end) / 2)
        question, look = self._question(ref), LOOK
        while isinstance(question, ObjectExistsError) and left(turn):
            buf = self._arrived(ref, min(left(turn), look))
            if buf is not None:
                return buf
            question, look = self._question(ref), min(2 * look, NAP)
        try:
            self._agents.call(self._node, "pull", ref, left(end), end=end)
        except GetTimeoutError:  # which says that of this node's agent alone
            raise _overdue(ref) from None
        finally:
            if isinstance(question, Writer):
                question.abort()
        return None

    def _question(self, ref: ClusterRef) -> Writer | ObjectExistsError | StoreFullError:
        """The claim of who asks for a replica, or why it is not ours."""
        try:
            return self._store.create(0, name=asked_name(ref.replica), claim=True)
        except (ObjectExistsError, StoreFullError) as error:
            return error

    def _fill(self, writer: Writer, ref: ClusterRef, parent: str | None, end: float) -> None:
        # a reply that nobody waits for is sent all the same; parts are kept for who asks again
        most = SMALL if ref.node in self._late else IN_REPLY
        if ref.nbytes <= most and self._fill_from_reply(writer, ref, parent or ref.node, end):
            return
        if self._parts is None:
            self._fill_by_parts(writer, ref, ref.node, end)
        else:
            flight, first = self._parts.begin(ref), []
            try:
                if parent is None:
                    parent, first = self._agents.call(ref.node, "join", ref, self._node, end=end)
                self._fill_by_parts(writer, ref, parent, end, flight, first)
            finally:
                flight.land()
        self._late.discard(ref.node)

    def _fill_from_reply(self, writer: Writer, ref: ClusterRef, parent: str, end: float) -> bool:
        """Whether there was one: the source may have given so many that others take parts."""

        def whole(node: str, end: float) -> Any:
            return self._agents.call(node, "fetch", ref, self._node, end=end)

        found = None
        if parent != ref.node:
            until = min(end, time.monotonic() + DETOUR)
            with contextlib.suppress(ObjectNotFoundError, GetTimeoutError, NodeLostError):
                while found is None and left(until):  # it is on its way there
                    found = whole(parent, until)
        if found is None:
            try:
                found = whole(ref.node, end)
            except GetTimeoutError:
                self._late.add(ref.node)
                raise
        if found is None:
            return False
        writer.write_at(0, found)
        return True

    def _fill_by_parts(
        self,
        writer: Writer,
        ref: ClusterRef,
        parent: str,
        end: float,
        flight: Flight | None = None,
        first: Sequence[Any] = (),
    ) -> None:
        """`first`: handles of the first parts, as far as they are known."""

        def fetch(index: int) -> None:
            handle = first[index] if index < len(first) else None
            handle = self._fetch_part(writer, ref, index, parent, end, handle)
            if flight is not None:
                flight.add(index, handle)

        count = part_count(ref.nbytes)
        if count == 1:
            fetch(0)
            return
        with ThreadPoolExecutor(min(FETCHES, count), "refstore.ray") as pool:
            try:
                for _ in pool.map(fetch, range(count)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_part(
        self, writer: Writer, ref: ClusterRef, index: int, parent: str, end: float, handle: Any
    ) -> Any:
        """Brings one part, from the parent, and if that has it no more, from the source.

        `handle`: the part's, if it is known. The one that it came by is returned.
        """
        while True:
            until = end if parent == ref.node else min(end, time.monotonic() + DETOUR)
            try:
                if handle is None:
                    handle = self._agents.call(parent, "part", ref, index, self._node, end=until)
                if handle is not None:
                    self._transport.fetch(handle, writer, index * PART, until)
                    return handle
            except (ObjectNotFoundError, NodeLostError):
                if parent == ref.node:
                    raise
                parent = ref.node
            except (RayError, OSError):  # who exported it has died, or does not answer
                parent, handle = ref.node, None
            if not left(end):
                raise _overdue(ref)
