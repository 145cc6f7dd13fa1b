"""`Cluster`: what the processes of a node do with a session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from refstore import ObjectNotFoundError, ObjectRef, PinnedBuffer, Store
from refstore.ray import _latest
from refstore.ray._calls import Agents, end_of, left
from refstore.ray._looks import nodes_of
from refstore.ray._names import latest_name
from refstore.ray._pulling import Puller
from refstore.ray._session import end_session
from refstore.ray._values import ClusterRef, Latest, Node, Published

__all__ = ["Cluster"]

GRACE = 5.0  # seconds in which this node's agent must say who has not answered in time
START = 60.0  # seconds in which what is fetched ahead must have come


class Cluster:
    """A session, as the processes of one node see it: what start() and connect() return.

    It pickles as its session's name, and is this node's where it is unpickled.

    Parameters:
        session: name of the session.
        store: this node's store.
        node: Ray's id of this node.
    """

    __slots__ = ("_agents", "_get", "_puller", "node", "session", "store")

    store: Store
    node: str
    session: str

    def __init__(self, session: str, store: Store, node: str) -> None:
        self.session, self.store, self.node = session, store, node
        self._agents = Agents(session)
        self._puller = Puller(store, node, self._agents)
        self._get = store.get

    def __repr__(self) -> str:
        return f"<Cluster {self.session!r}, node {self.node[:8]}>"

    # --- objects

    def put(
        self,
        obj: object,
        *,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
    ) -> ClusterRef:
        """Stores a copy of an object in this node's store, as `Store.put()`; nothing is sent.

        Parameters:
            obj: the object.
            name: publishes the object under this name, in this node's store.
            replace: an object of that name is deleted, in one step with the publication.
            timeout: seconds to wait for space; None: for ever.

        Returns:
            Its ref for all nodes.

        Errors:
            Exception: as of `Store.put()`.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> with cluster.get(cluster.put(b"abc")) as buf:
            ...     bytes(buf)
            b'abc'
        """
        return self.globalize(self.store.put(obj, name=name, replace=replace, timeout=timeout))

    def globalize(self, ref_or_name: ObjectRef | str) -> ClusterRef:
        """Makes a ref for all nodes of an object of this node's store.

        Parameters:
            ref_or_name: the object. Its `meta` stays here: replicas have none.

        Returns:
            The ref.

        Errors:
            ObjectNotFoundError: there is no such object in this store.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> cluster.globalize(cluster.store.put(b"abc")).nbytes
            3
        """
        with self._get(ref_or_name) as buf:
            return ClusterRef(self.node, buf.ref, buf.nbytes, buf.header)

    def get(
        self, ref: ClusterRef, *, timeout: float | None = 30, writable: bool = False
    ) -> PinnedBuffer:
        """Pins an object; if it is another node's, a replica, which is brought here once.

        What is here is found without a message. An agent that restarts meanwhile is waited for.

        Parameters:
            ref: the object.
            timeout: seconds to wait for it to come; None: until its node is dead.
            writable: whether the buffer is a private copy-on-write view.

        Returns:
            The PinnedBuffer. A replica is evictable while nobody pins it, and goes with its source.

        Errors:
            ObjectNotFoundError: its node says that there is no such object.
            NodeLostError: its node is dead, and there is no replica here.
            GetTimeoutError: it has not come in that time.
            StoreFullError: there is no space for a replica in this node's store.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> with cluster.get(cluster.put({"step": 1})) as buf:
            ...     buf.value
            {'step': 1}
        """
        local = ref._local
        if local is not None and not writable:
            try:
                return self._get(local)
            except ObjectNotFoundError:  # a replica that was evicted, or all is gone
                pass
        if ref.node == self.node:
            buf = self._get(ref.ref)
        else:
            buf = self._puller.pull(ref, end_of(timeout))
        ref.note(buf.ref)
        if not writable:
            return buf
        with buf:
            return self._get(buf.ref, writable=True)

    def prefetch(self, refs: Iterable[ClusterRef]) -> None:
        """Has objects brought to this node, and waits for none of them.

        Parameters:
            refs: the objects.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> cluster.prefetch([cluster.put(b"abc")])
        """
        agent = self._agents.handle(self.node)
        for ref in refs:
            if ref.node != self.node and ref.replica not in self.store:
                agent.prefetch.remote(ref, START)

    def delete(self, ref: ClusterRef, *, timeout: float | None = 30) -> None:
        """Deletes an object at its node, and its replicas on all others; pins stay good.

        Parameters:
            ref: the object.
            timeout: seconds to wait for its node.

        Errors:
            ObjectNotFoundError: its node says that there is no such object.
            NodeLostError: its node is dead.
            GetTimeoutError: its node has not answered.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> ref = cluster.put(b"abc")
            >>> cluster.delete(ref)
            >>> ref.ref in cluster.store
            False
        """
        end = end_of(timeout)
        self._agents.call(ref.node, "delete", ref, min(left(end), START), end=end)

    # --- versions

    def publish(self, name: str, obj: object, *, timeout: float | None = 30) -> Published:
        """Makes an object the latest version of a name, on every node when it returns.

        An older version never takes the place of a later one, on no node. The version before is
        deleted; pins stay good.

        Parameters:
            name: the name, of at most 244 bytes in UTF-8. It is not one of the store's names.
            obj: the object.
            timeout: seconds to wait for space here, and for the other nodes.

        Returns:
            The version's number, its ref, and the nodes that missed it.

        Errors:
            GetTimeoutError: this node's agent or the session has not answered.
            Exception: as of `Store.put()`.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> first = cluster.publish("weights", [1.0]).version
            >>> cluster.publish("weights", [2.0]).version > first
            True
        """
        latest_name(name)
        end = end_of(timeout)
        local = self.store.put(obj, timeout=left(end), owned=True)  # until it is published
        ref = self.globalize(local)
        number, missed = self._agents.call(
            self.node, "publish", name, ref, left(end), end=end + GRACE
        )
        return Published(number, ref, tuple(missed))

    def latest(self, name: str) -> Latest:
        """Pins the latest version of a name that this node has, without a message.

        Parameters:
            name: the name.

        Returns:
            Its number, and a PinnedBuffer.

        Errors:
            ObjectNotFoundError: no version has come to this node.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> number = cluster.publish("weights", [1.0]).version
            >>> version, buf = cluster.latest("weights")
            >>> with buf:
            ...     version == number, buf.value
            (True, [1.0])
        """
        full = latest_name(name)
        while True:
            with self._get(full) as head:
                number, local = _latest.parse(head)
            try:
                return Latest(number, self._get(local))
            except ObjectNotFoundError:  # replaced meanwhile, or deleted by somebody else
                if full in self.store and self.store.ref(full) == head.ref:
                    raise

    def wait(
        self, name: str, *, newer_than: SupportsIndex = 0, timeout: float | None = None
    ) -> Latest:
        """Waits in this node's store for a version later than one that is known.

        Parameters:
            name: the name.
            newer_than: number of the version that is known.
            timeout: seconds to wait; None: for ever.

        Returns:
            The latest version: its number, and a PinnedBuffer.

        Errors:
            GetTimeoutError: none has come.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> number = cluster.publish("weights", [1.0]).version
            >>> cluster.wait("weights", newer_than=number - 1).version == number
            True
        """
        full, known = latest_name(name), int(newer_than)
        end = end_of(timeout)
        seen: ObjectRef | None = None
        while True:
            seconds = None if timeout is None else left(end)
            with self.store.wait(full, newer_than=seen, timeout=seconds) as head:
                seen, (number, local) = head.ref, _latest.parse(head)
            if number > known:
                try:
                    return Latest(number, self._get(local))
                except ObjectNotFoundError:
                    continue

    # --- the session

    def nodes(self, *, timeout: float | None = 30) -> list[Node]:
        """Asks all live nodes what they have.

        Parameters:
            timeout: seconds to wait for their agents.

        Returns:
            A Node each; one whose agent does not answer is left out.

        Errors:
            TypeError, ValueError: the timeout is no number, or negative.

        Example:
            >>> import refstore.ray
            >>> cluster = refstore.ray.connect()
            >>> cluster.node in [one.node for one in cluster.nodes()]
            True
        """
        return nodes_of(self._agents, end_of(timeout))

    def stop(self) -> None:
        """Ends the session: its agents, its stores, and files that dead nodes left on live hosts.

        Buffers that are pinned stay good.

        Example:
            >>> import refstore.ray
            >>> refstore.ray.connect().stop()
        """
        end_session(self._agents)
        self.store.close()
