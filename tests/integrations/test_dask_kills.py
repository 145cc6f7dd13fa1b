"""`refstore.dask` when workers are killed: what others have, and that nothing is left."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import engines
import pytest

distributed: Any = pytest.importorskip("distributed")
ours: Any = pytest.importorskip("refstore.dask")
clusters: Any = pytest.importorskip("dask_clusters")
_keeper: Any = pytest.importorskip("refstore.dask._keeper")

SIZE = 1_000_000

pytestmark = [
    pytest.mark.once("the cluster says itself of which engine its store is"),
    pytest.mark.timeout(120),
]
both_engines = pytest.mark.parametrize("engine", engines.available())


def total(seed: int = 0) -> int:
    return int(clusters.made(SIZE, seed).sum(dtype="i8"))


def hold(value: Any) -> int:
    """Keep an array beside what the worker has, until release() or the end of the process."""
    clusters.session().held = value
    return os.getpid()


def held() -> Any:
    return clusters.seen(clusters.session().held)


def release() -> None:
    del clusters.session().held


@both_engines
def test_what_a_killed_worker_made_stays_with_those_who_have_it(engine: str) -> None:
    with clusters.running(engine, {"data": ours.Data}, {}) as cluster:
        future = cluster.on(0, clusters.made, SIZE, or_others=True)
        cluster.do(1, hold, future)
        mine = cluster.client.gather(future)
        kept = cluster.on(0, clusters.made, SIZE, 1, or_others=True)  # which nobody else has
        distributed.wait([kept])
        cluster.kill(0)
        cluster.await_that(lambda: len(cluster.store) == 0)
        assert cluster.store.stats().condemned == 1
        assert cluster.do(1, held) == (total(), True, False)
        assert clusters.seen(mine)[0] == total()
        # passed on, it is put anew; what is lost is computed again
        assert cluster.do(0, clusters.seen, future)[0] == total()
        assert cluster.do(0, clusters.seen, kept)[0] == total(seed=1)
        cluster.do(1, release)
        del mine, future, kept
        cluster.settle()
        # the one that received it dies, and the one that sent it lives
        future = cluster.on(0, clusters.made, SIZE)
        cluster.do(1, hold, future)
        del future
        cluster.await_that(lambda: cluster.store.stats().pinned == 1)
        cluster.kill(1)
        cluster.settle()


def scatter_to(cluster: Any, number: int) -> None:
    cluster.client.scatter(clusters.made(SIZE), workers=[cluster.addresses[number]], hash=False)


@both_engines
def test_a_message_that_nobody_reads_leaves_nothing(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_keeper, "GRACE", 0.0)
    with clusters.running(engine, {}) as cluster, ThreadPoolExecutor() as threads:
        scatter_to(cluster, 0)  # it has a connection from now on
        cluster.settle()
        os.kill(cluster.pid(0), signal.SIGSTOP)
        sent = threads.submit(scatter_to, cluster, 0)
        flights = clusters.session().keeper._flights
        try:
            while not flights:
                assert not sent.done()
            for _ in range(3):
                clusters.sweep()
            on_its_way = len(cluster.store)
        finally:
            cluster.kill(0)
        assert on_its_way == 2  # the object and the token of its message
        with pytest.raises(OSError, match=r"update_data|closed"):
            sent.result(clusters.ENOUGH)
        cluster.settle()
        assert not flights
