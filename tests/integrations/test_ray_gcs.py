"""A cluster whose GCS is killed: what its nodes have is read on, and the next session tidies up.

Ray ends every process of such a cluster, the driver too, so that each is a program of its own.
"""

from __future__ import annotations

import socket
from pathlib import Path

import helpers
import pytest

pytest.importorskip("ray")

import ray_nodes

import refstore

pytestmark = ray_nodes.MARKS

ENDS_WITHOUT_ITS_GCS = """
    import sys, ray, ray_nodes
    with ray_nodes.cluster_of(2, sys.argv[1]) as cluster:
        nodes = ray_nodes.Nodes(cluster, "gcs")
        there = nodes.reader(nodes.others()[0])
        pulled, more = ray.get([there.put_pattern.remote(seed, 5 << 20) for seed in (1, 2)])
        mine = ray.get(there.put_pattern.remote(3, 1000))
        assert nodes.is_pattern(pulled, 1)
        ray_nodes.kill(nodes.gcs())
        assert nodes.is_pattern(pulled, 1, timeout=0)
        assert nodes.is_pattern(more, 2), "brought by an agent that was known"
        nodes.here.delete(mine)
        print(nodes.here.store.path, pulled.replica, more.replica)
"""
COMES_AFTER_IT = """
    import os, sys, helpers, ray_nodes
    with ray_nodes.cluster_of(1, sys.argv[1]) as cluster:
        nodes = ray_nodes.Nodes(cluster, "gcs")
        assert helpers.eventually(lambda: len(os.listdir(sys.argv[1])) == 1)
        nodes.here.stop()
"""


@pytest.fixture
def one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clusters have one address, as those of a machine have whose Ray is started again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    monkeypatch.setenv("RAY_GCS_SERVER_PORT", str(number))


def driver(source: str, folder: Path) -> str:
    path = str(Path(ray_nodes.__file__).parent)
    done = helpers.run_script(source, folder, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("one_port")
def test_what_its_nodes_have_outlives_a_gcs_that_is_killed(folder: Path) -> None:
    path, *replicas = driver(ENDS_WITHOUT_ITS_GCS, folder).split()
    assert len(list(folder.iterdir())) == 2
    with refstore.Store(path, create=False) as store:  # by somebody who is not Ray's
        store.recover()
        assert store.check() == []
        for seed, name in enumerate(replicas, start=1):
            with store.get(name) as buf:
                assert bytes(buf) == helpers.pattern(seed, 5 << 20)
    driver(COMES_AFTER_IT, folder)
    assert list(folder.iterdir()) == []
