"""`refstore.ray` against ray.put and ray.get, in one cluster of three nodes on this machine.

Each round measures both, one after the other, on objects that no node has seen; beside a ratio
stands that of Ray against Ray, which is what the machine's noise makes of 1.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import refstore.ray
from benchmarks.goals.row import Effort, Goal, Row, compared, seconds
from refstore.ray import ClusterRef, NodeLostError
from stress.measure import ratios, spread
from stress.support import MIB, duration

NODES = 3
READERS = 8  # on each node
ROUNDS = 21  # that count, at least
LARGE = 100 * 1000 * 1000  # bytes
LARGE_READS = 3  # times the rounds: a round of Ray differs from the next by a fifth
WEIGHTS = 5 * 1000 * 1000  # bytes
FIRST = {64: 1.2, 64 << 10: 1.2, MIB: 1.2, 8 * MIB: 1.5}  # goals by size
MORE = 5  # times the rounds, of first gets: of large replies the first few are slow
AGAIN = 5000  # gets in a row
LOSSES = 5  # nodes that die
MANY = 3000  # objects that such a node has had
_SESSION = "bench"
_NAME = "weights"


class Reader:
    """A process of a node."""

    def __init__(self) -> None:
        self.cluster = refstore.ray.connect(session=_SESSION)

    def touch(self, ref: ClusterRef) -> int:
        with self.cluster.get(ref) as buf:
            return int(buf.array[-1])

    def put_many(self, count: int) -> list[ClusterRef]:
        return [self.cluster.put(b"a little") for _ in range(count)]

    def touch_ray(self, refs: Sequence[Any]) -> int:
        return int(ray.get(refs[0])[-1])

    def wait(self, newer_than: int) -> int:
        version, buf = self.cluster.wait(_NAME, newer_than=newer_than)
        with buf:
            return version

    def first(self, ref: ClusterRef, refs: Sequence[Any]) -> list[float]:
        """Seconds of a first get of each: refstore's, Ray's, and Ray's of another."""
        found = [seconds(lambda: self.cluster.get(ref).release())]
        return found + [seconds(partial(ray.get, each)) for each in refs]

    def again(self, ref: ClusterRef, refs: Sequence[Any]) -> list[float]:
        """Seconds of a get of what is here: the cluster's, the store's, Ray's of a local object."""
        with self.cluster.get(ref) as buf:
            local = buf.ref
        mine = ray.put(np.zeros(1000, "u1"))
        get, get_here = self.cluster.get, self.cluster.store.get

        def loop(call: Callable[[Any], Any], key: Any) -> float:
            began = time.perf_counter()
            for _ in range(AGAIN):
                with call(key):
                    pass
            return (time.perf_counter() - began) / AGAIN

        for _ in range(2):  # the first warms what the second times
            found = [loop(get, ref), loop(get_here, local)]
        return [*found, seconds(lambda: ray.get(mine)), seconds(lambda: ray.get(refs[0]))]


def rows(effort: Effort) -> Sequence[Row]:
    """All figures."""
    rounds = max(ROUNDS, effort.worker_rounds // 5)
    with _cluster() as (nodes, cluster):
        readers = _readers()
        ray.get([each.touch.remote(cluster.put(np.ones(8))) for each in readers])
        return [
            *_read_by_all(cluster, readers, LARGE_READS * rounds),
            *_first_gets(cluster, readers[-1], MORE * rounds),
            *_gets_again(cluster, readers[-1], rounds),
            *_published(cluster, readers, rounds),
            _lost(nodes, cluster),
        ]


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[Any, refstore.ray.Cluster]]:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    nodes: Any = Cluster()
    try:
        for _ in range(NODES):
            nodes.add_node(num_cpus=2, object_store_memory=1200 * MIB)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        cluster = refstore.ray.start("1GiB", session=_SESSION)
        yield nodes, cluster
        cluster.stop()
    finally:
        ray.shutdown()
        nodes.shutdown()


def _readers() -> list[Any]:
    here = ray.get_runtime_context().get_node_id()
    nodes = sorted(_live(), key=lambda node: node != here)
    return [_reader(node) for node in nodes for _ in range(READERS)]


def _reader(node: str) -> Any:
    actor: Any = ray.remote(num_cpus=0)(Reader)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return actor.options(scheduling_strategy=where).remote()


def _live() -> set[str]:
    nodes: Any = ray.nodes  # which has no types
    return {one["NodeID"] for one in nodes() if one["Alive"]}


def _noise(first: Sequence[float], second: Sequence[float]) -> str:
    return f"Ray / Ray {ratios(second, first).text()}"


def _touch_all(readers: Sequence[Any], method: str, ref: object) -> None:
    ray.get([getattr(each, method).remote(ref) for each in readers])


def _read_by_all(
    cluster: refstore.ray.Cluster, readers: Sequence[Any], rounds: int
) -> Iterator[Row]:
    data = np.ones(LARGE, np.uint8)
    ours, rays, others = list[float](), list[float](), list[float]()
    pulls = sum(one.pulls for one in cluster.nodes())
    used = 0.0
    for _ in range(rounds + 1):
        for found in (rays, others):
            found.append(seconds(partial(_touch_all, readers, "touch_ray", [ray.put(data)])))
        ref = cluster.put(data)
        ours.append(seconds(partial(_touch_all, readers, "touch", ref)))
        used = max(one.used for one in cluster.nodes()) / LARGE
        cluster.delete(ref)
    pulls = sum(one.pulls for one in cluster.nodes()) - pulls
    what = f"{LARGE // 10**6} MB read by {READERS} processes on each of {NODES} nodes / ray.get"
    yield compared(
        f"{what} ({_noise(rays[1:], others[1:])})",
        ours[1:],
        rays[1:],
        Goal(1.15),
        duration,
        str(rounds),
    )
    each = pulls / (rounds + 1) / (NODES - 1)
    for text, value, bound in (
        ("transfers of an object to a node", each, 1.0),
        ("bytes in a node's store / an object's", used, 1.01),
    ):
        yield Row(text, "-", f"{value:.3f}", spread([value]), f"<= {bound:g}", value <= bound)


def _first_gets(cluster: refstore.ray.Cluster, reader: Any, rounds: int) -> Iterator[Row]:
    for size, bound in FIRST.items():
        found = []
        for _ in range(rounds + 1):
            data = np.ones(size, np.uint8)
            ref, refs = cluster.put(data), [ray.put(data), ray.put(data)]
            found.append(ray.get(reader.first.remote(ref, refs)))
            cluster.delete(ref)
        ours, rays, others = zip(*found[1:], strict=True)
        yield compared(
            f"first get of {size} bytes from another node / ray.get ({_noise(rays, others)})",
            ours,
            rays,
            Goal(bound),
            duration,
            str(rounds),
        )


def _gets_again(cluster: refstore.ray.Cluster, reader: Any, rounds: int) -> Iterator[Row]:
    ref, refs = cluster.put(np.ones(1000, "u1")), [ray.put(np.ones(1000, "u1"))]
    found = [ray.get(reader.again.remote(ref, refs)) for _ in range(rounds + 1)][1:]
    ours, stores, rays, _ = zip(*found, strict=True)
    yield compared("get again / store.get", ours, stores, Goal(2), duration, str(rounds))
    yield compared(
        "get again / ray.get of a local object", ours, rays, Goal(0.01), duration, str(rounds)
    )
    cluster.delete(ref)


def _published(cluster: refstore.ray.Cluster, readers: Sequence[Any], rounds: int) -> Iterator[Row]:
    data = np.ones(WEIGHTS, np.uint8)
    ours, rays, others = list[float](), list[float](), list[float]()
    version = 0

    def read_all() -> None:
        refs = [ray.put(data)]
        ray.get([each.touch_ray.remote(refs) for each in readers])

    for _ in range(rounds + 1):
        rays.append(seconds(read_all))
        others.append(seconds(read_all))
        waiting = [each.wait.remote(version) for each in readers]
        while cluster_waits(cluster) < READERS:
            time.sleep(0.001)
        began = time.perf_counter()
        version = cluster.publish(_NAME, data).version
        ray.get(waiting)
        ours.append(time.perf_counter() - began)
    yield compared(
        f"{WEIGHTS // 10**6} MB published until {NODES * READERS} readers have it / ray.put and "
        f"their gets ({_noise(rays[1:], others[1:])})",
        ours[1:],
        rays[1:],
        Goal(1.0),
        duration,
        str(rounds),
    )


def _lost(nodes: Any, cluster: refstore.ray.Cluster) -> Row:
    """From the death of a node until a get of what it had says so, beside Ray's own list."""
    ours, rays = list[float](), list[float]()
    for _ in range(LOSSES):
        added = nodes.add_node(num_cpus=1, object_store_memory=100 * MIB)
        refs = ray.get(_reader(added.node_id).put_many.remote(MANY))
        began = time.perf_counter()
        nodes.remove_node(added, allow_graceful=False)
        with ThreadPoolExecutor(1) as pool:
            listed = pool.submit(_until_gone, added.node_id)
            ours.append(_until_lost(cluster, refs) - began)
            rays.append(listed.result() - began)
    what = "NodeLostError after a node's death / Ray's list of nodes calls it dead"
    return compared(what, ours, rays, Goal(1.2), duration, str(LOSSES))


def _until_lost(cluster: refstore.ray.Cluster, refs: list[ClusterRef]) -> float:
    """Its agent may outlive a node's death, as Ray sees it, for a while."""
    while True:
        try:
            cluster.get(refs.pop(), timeout=300).release()
        except NodeLostError:
            return time.perf_counter()
        time.sleep(0.01)


def _until_gone(node: str) -> float:
    while node in _live():
        time.sleep(0.01)
    return time.perf_counter()


def cluster_waits(cluster: refstore.ray.Cluster) -> int:
    """Processes that wait in this node's store."""
    return cluster.store.stats().waiting
