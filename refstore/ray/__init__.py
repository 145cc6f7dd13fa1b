"""One store on each node of a Ray cluster: an object comes to a node once, for all its processes.

cluster = refstore.ray.start(capacity="8GiB")     # once; in tasks and actors refstore.ray.connect()
ref = cluster.put(weights)                        # in this node's store; `ref` goes anywhere
with cluster.get(ref) as buf:                     # on another node: pulled once, then read in place
    use(buf.array)

An agent on each node, an actor of Ray's, hands out what its store has. What is in a node's store is
read without a message, by processes that are not Ray's too. Needs `pip install '.[ray]'`.
"""

from __future__ import annotations

from refstore._errors import NodeLostError
from refstore._extras import missing_extra

try:
    import ray  # noqa: F401
except ImportError as error:
    raise missing_extra(__name__, "ray", error) from error

from refstore.ray._cluster import Cluster
from refstore.ray._connecting import connect, start
from refstore.ray._direct import transport
from refstore.ray._values import ClusterRef, Latest, Node, Published

__all__ = [
    "Cluster",
    "ClusterRef",
    "Latest",
    "Node",
    "NodeLostError",
    "Published",
    "connect",
    "start",
    "transport",
]

for _name in __all__:
    if _name != "NodeLostError":  # which stands beside the other errors
        globals()[_name].__module__ = __name__  # where users and their pickles find it
