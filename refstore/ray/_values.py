"""Arguments, results and errors of a cluster's calls."""

from __future__ import annotations

from typing import Any, NamedTuple

from refstore import ObjectRef, PinnedBuffer
from refstore.ray._names import replica_name

__all__ = ["ClusterRef", "Latest", "Node", "Published"]


class ClusterRef:
    """An object's reference that is good on every node of the cluster. Immutable, hashable.

    Parameters:
        node: Ray's id of the node whose store has the object.
        ref: the object's ref there.
        nbytes: bytes of its payload.
        how: what the payload is, as `buf.header` has it.

    Example:
        >>> from refstore.ray import ClusterRef
        >>> ref = store.put(b"abc")
        >>> with store.get(ref) as buf:
        ...     everywhere = ClusterRef("c0ffee", ref, buf.nbytes, buf.header)
        >>> everywhere.node, everywhere.ref == ref, everywhere.nbytes
        ('c0ffee', True, 3)
    """

    __slots__ = ("_local", "how", "nbytes", "node", "ref", "replica")

    node: str
    ref: ObjectRef
    nbytes: int
    how: bytes
    replica: str  # name of a copy in the store of another node
    _local: ObjectRef | None  # in the store of this process's node, when it was seen last

    def __init__(self, node: str, ref: ObjectRef, nbytes: int, how: bytes) -> None:
        replica = replica_name(node, ref.hex())
        for field, value in zip(
            ("node", "ref", "nbytes", "how", "replica", "_local"),
            (node, ref, nbytes, how, replica, None),
            strict=True,
        ):
            object.__setattr__(self, field, value)

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"a ClusterRef cannot be changed: .{field}")

    def note(self, local: ObjectRef) -> None:
        """Remembers what it is in the store of this process's node."""
        object.__setattr__(self, "_local", local)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClusterRef):
            return NotImplemented
        return self.ref == other.ref and self.node == other.node

    def __hash__(self) -> int:
        return hash((self.node, self.ref))

    def __reduce__(self) -> tuple[Any, ...]:
        return ClusterRef, (self.node, self.ref, self.nbytes, self.how)

    def __repr__(self) -> str:
        return f"<ClusterRef {self.ref.hex()} of node {self.node[:8]}, {self.nbytes} bytes>"


class Published(NamedTuple):
    """A version of a name, as `publish()` returns it.

    Parameters:
        version: its number; later ones are greater.
        ref: the object.
        missed: nodes that could not be told; they take it when they can be reached again.

    Example:
        >>> from refstore.ray import Published
        >>> Published._fields
        ('version', 'ref', 'missed')
    """

    version: int
    ref: ClusterRef
    missed: tuple[str, ...] = ()


class Latest(NamedTuple):
    """The latest version of a name that this node has, pinned.

    Parameters:
        version: its number.
        buf: a PinnedBuffer over the object.

    Example:
        >>> from refstore.ray import Latest
        >>> Latest._fields
        ('version', 'buf')
    """

    version: int
    buf: PinnedBuffer


class Node(NamedTuple):
    """One node of a session, as `nodes()` has it.

    Parameters:
        node: Ray's id of the node.
        host: its name.
        agent_pid: process id of its agent.
        pulls: objects that were brought to its store.
        served: objects that its agent handed out.
        bytes: of what was brought to its store.
        capacity: bytes of its store.
        used: bytes of it that are allocated.
        objects: live ones in it, replicas among them.

    Example:
        >>> from refstore.ray import Node
        >>> Node._fields[:3]
        ('node', 'host', 'agent_pid')
    """

    node: str
    host: str
    agent_pid: int
    pulls: int
    served: int
    bytes: int
    capacity: int
    used: int
    objects: int
