"""Ray Direct Transport by way of the nodes' stores. Experimental: Ray calls its interface alpha.

What a method of an actor returns goes into its node's store; a receiver gets it as `Cluster.get()`
does, and Ray's reference counting deletes it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.experimental

from refstore import RefstoreError
from refstore.ray._connecting import connect
from refstore.ray._values import ClusterRef

__all__ = ["transport"]

NAME = "refstore"
# None: this Ray has no such interface
Interface: Any = getattr(ray.experimental, "TensorTransportManager", None)


@dataclass
class Stored:
    """Refs that travel in place of arrays, in the form that Ray's own metadata have."""

    tensor_meta: list[Any]
    tensor_device: str | None
    refs: tuple[ClusterRef, ...]


class Direct(Interface or object):  # type: ignore[misc]
    """See ray.experimental.TensorTransportManager."""

    def tensor_transport_backend(self) -> str:
        return NAME.upper()

    @staticmethod
    def is_one_sided() -> bool:
        return True

    @staticmethod
    def can_abort_transport() -> bool:
        return True

    def actor_has_tensor_transport(self, actor: Any) -> bool:
        return True  # each finds its node's store when it needs that

    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[Any]) -> Stored:
        cluster = connect()
        return Stored(
            tensor_meta=[(array.shape, array.dtype) for array in rdt_object],
            tensor_device="cpu" if rdt_object else None,
            refs=tuple(cluster.put(array) for array in rdt_object),
        )

    def get_communicator_metadata(
        self, src_actor: Any, dst_actor: Any, backend: str | None = None
    ) -> Any:
        return None  # the refs say all

    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: Any,
        communicator_metadata: Any,
        target_buffers: list[Any] | None = None,
    ) -> list[Any]:
        cluster, found = connect(), []
        for index, ref in enumerate(tensor_transport_metadata.refs):
            with cluster.get(ref) as buf:
                if target_buffers:
                    np.copyto(target_buffers[index], buf.array)
                    found.append(target_buffers[index])
                else:
                    found.append(buf.array)  # which pins it
        return found

    def send_multiple_tensors(
        self, tensors: list[Any], tensor_transport_metadata: Any, communicator_metadata: Any
    ) -> None:
        raise AssertionError("the receiver gets the arrays by itself")

    def garbage_collect(self, obj_id: str, tensor_transport_meta: Any, tensors: list[Any]) -> None:
        cluster = connect()
        for ref in tensor_transport_meta.refs:
            with contextlib.suppress(
                RefstoreError, OSError
            ):  # it has gone with its node, or before
                cluster.delete(ref)

    def abort_transport(self, obj_id: str, communicator_metadata: Any) -> None:
        """Does nothing: a get that fails leaves nothing behind."""


def transport() -> None:
    """Registers the stores as a Ray Direct Transport for numpy arrays. Experimental.

    Call it once, before the actors are made. A method with `@ray.method(tensor_transport=
    "refstore")` of an actor class with `@ray.remote(enable_tensor_transport=True)` returns arrays
    by way of its node's store, in the session "default"; Ray deletes them with the last reference.

    Errors:
        RuntimeError: this Ray has no such interface.

    Example:
        >>> import refstore.ray
        >>> refstore.ray.transport()
    """
    register: Any = getattr(ray.experimental, "register_tensor_transport", None)
    if Interface is None or register is None:
        raise RuntimeError(
            f"Ray {ray.__version__} has no interface for transports of arrays: Ray 2.60 has it"
        )
    with contextlib.suppress(ValueError):  # it is registered already
        register(NAME, ["cpu"], Direct, np.ndarray)
