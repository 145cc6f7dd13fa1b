"""A Ray cluster of several nodes on this machine, and processes there that do as they are told."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import ray
from helpers import eventually
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import refstore
import refstore.ray
from refstore.ray import ClusterRef, _latest
from refstore.ray._names import REPLICA

MARKS = [
    pytest.mark.once("one cluster for all tests"),
    pytest.mark.filterwarnings("default"),  # Ray's own
    pytest.mark.timeout(240),
]
TRIES = 2  # a cluster may fail to come up beside other load
MEMORY = 160 << 20  # bytes of Ray's own store on each node
CAPACITY = "200MiB"
SESSION = "tests"


class Reader:
    """A process of a node."""

    def __init__(self, session: str) -> None:
        self.cluster = refstore.ray.connect(session=session)
        self.kept: dict[str, Any] = {}

    def pid(self) -> int:
        return os.getpid()

    def node(self) -> str:
        return self.cluster.node

    def is_coming(self) -> bool:
        return is_coming(self.cluster)

    def put(self, obj: Any, name: str | None = None) -> ClusterRef:
        return self.cluster.put(obj, name=name)

    def put_pattern(self, seed: int, size: int) -> ClusterRef:
        return self.cluster.put(helpers.pattern(seed, size))

    def value(self, ref: ClusterRef, timeout: float = 60) -> Any:
        """A copy of the value."""
        with self.cluster.get(ref, timeout=timeout) as buf:
            found = buf.value
            return bytes(found) if isinstance(found, memoryview) else _copied(found)

    def is_pattern(self, ref: ClusterRef, seed: int, timeout: float = 60) -> bool:
        return _is_pattern(self.cluster, ref, seed, timeout)

    def keep(self, ref: ClusterRef) -> None:
        self.kept[ref.ref.hex()] = self.cluster.get(ref)

    def kept_bytes(self, ref: ClusterRef) -> bytes:
        with self.kept.pop(ref.ref.hex()) as buf:
            return bytes(buf)

    def has(self, ref: ClusterRef) -> bool:
        return ref.replica in self.cluster.store

    def has_own(self, ref: ClusterRef) -> bool:
        return ref.ref in self.cluster.store

    def publish(self, name: str, obj: Any) -> refstore.ray.Published:
        return self.cluster.publish(name, obj)

    def publish_many(self, name: str, count: int) -> list[int]:
        return [self.cluster.publish(name, np.full(1000, k)).version for k in range(count)]

    def latest(self, name: str) -> tuple[int, Any]:
        version, buf = self.cluster.latest(name)
        with buf:
            return version, _copied(buf.value)

    def follow(self, name: str, until: int) -> list[tuple[int, bool]]:
        """Numbers of the versions seen, and whether each array is of one version."""
        seen = [(0, True)]
        while seen[-1][0] < until:
            version, buf = self.cluster.wait(name, newer_than=seen[-1][0], timeout=60)
            with buf:
                seen.append((version, len(set(buf.array.tolist())) == 1))
        return seen[1:]

    def wait(self, name: str, newer_than: int) -> int:
        version, buf = self.cluster.wait(name, newer_than=newer_than, timeout=60)
        buf.release()
        return version

    def hold(self, name: str) -> None:
        self.kept[name] = self.cluster.store.create(0, name=name, claim=True)

    def let_go(self, name: str) -> None:
        self.kept.pop(name).abort()

    def state(self) -> tuple[int, list[str], list[Any]]:
        store = self.cluster.store
        return len(store), store.names(), store.check()

    def clear(self) -> None:
        self.cluster.store.clear()

    def recover(self) -> None:
        self.cluster.store.recover()


def is_coming(cluster: refstore.ray.Cluster) -> bool:
    """Whether a replica is being written on this process's node."""
    return any(one.ref is None for one in cluster.store.objects(REPLICA))


def _copied(found: Any) -> Any:
    return np.array(found) if isinstance(found, np.ndarray) else found


def _is_pattern(cluster: refstore.ray.Cluster, ref: ClusterRef, seed: int, timeout: float) -> bool:
    with cluster.get(ref, timeout=timeout) as buf:
        return bytes(buf) == helpers.pattern(seed, ref.nbytes)


class Nodes:
    """The cluster, and who runs on it."""

    def __init__(self, cluster: Any, session: str) -> None:
        self.cluster, self.session = cluster, session
        self.here = refstore.ray.start(capacity=CAPACITY, session=session)

    def others(self) -> list[str]:
        """Nodes that this process is not on."""
        return [one.node for one in self.here.nodes() if one.node != self.here.node]

    def reader(self, node: str) -> Any:
        actor: Any = ray.remote(num_cpus=0)(Reader)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        return actor.options(scheduling_strategy=where).remote(self.session)

    def is_pattern(self, ref: ClusterRef, seed: int, timeout: float = 90) -> bool:
        return _is_pattern(self.here, ref, seed, timeout)

    def forget(self, name: str) -> None:
        """Leave no version in any store.

        The object first, while each node has a record of it: an agent that finds no record, and
        the object somewhere, would bring it again.
        """
        known = _latest.read(self.here.store, name)
        assert known is not None
        self.here.delete(known.ref)
        ray.get([self.reader(node).clear.remote() for node in self.others()])
        self.here.store.clear()

    def agent(self, node: str) -> int:
        """Process id of an agent that answers."""
        return next(one.agent_pid for one in self.here.nodes() if one.node == node)

    def gcs(self) -> int:
        """Process id of the cluster's GCS."""
        process: int = self.cluster.head_node.all_processes["gcs_server"][0].process.pid
        return process

    def raylet(self, node: str) -> int:
        """Process id of a node's raylet."""
        for one in self.cluster.list_all_nodes():
            if one.node_id == node:
                process: int = one.all_processes["raylet"][0].process.pid
                return process
        raise AssertionError(node)


@contextlib.contextmanager
def ray_nodes(count: int, session: str = SESSION) -> Iterator[Nodes]:
    """A cluster of so many nodes, whose stores lie in a folder of their own."""
    folder = tempfile.mkdtemp(prefix="refstore-ray-", dir=helpers.SHARED_MEMORY)
    try:
        with cluster_of(count, folder) as cluster:
            nodes = Nodes(cluster, session)
            yield nodes
            nodes.here.stop()
            # the agent of a dead node finds that out by itself
            assert eventually(lambda: not list(Path(folder).iterdir())), os.listdir(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cluster_of(count: int, folder: str) -> Iterator[Any]:
    """A cluster of so many nodes, and none of its processes afterwards."""
    environment = {
        "REFSTORE_DIR": folder,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cluster: Any = _started(count)
            try:
                yield cluster
            finally:
                ray.shutdown()
                cluster.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _started(count: int) -> Any:
    for attempt in range(TRIES):
        cluster: Any = Cluster()
        try:
            for _ in range(count):
                cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
            cluster.wait_for_nodes()
            ray.init(address=cluster.address, log_to_driver=False)
        except Exception:
            ray.shutdown()
            cluster.shutdown()
            if attempt + 1 == TRIES:
                raise
        else:
            return cluster
    raise AssertionError


def kill(pid: int) -> None:
    """Kill a process of Ray's, and see it gone."""
    end = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        select.select([end], [], [])
    finally:
        os.close(end)
