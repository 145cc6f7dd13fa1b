"""`refstore cluster` on a cluster of two nodes on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from command import Command, in_a_process

pytest.importorskip("ray")
pytest.importorskip("jsonschema")

import ray
import ray_nodes
from command_schema import require
from ray_nodes import SESSION, Nodes

from refstore.ray._names import asked_name

pytestmark = ray_nodes.MARKS


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes.ray_nodes(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def reader(nodes: Nodes) -> Any:
    (node,) = nodes.others()
    return nodes.reader(node)


@pytest.fixture
def shared(nodes: Nodes, reader: Any) -> Iterator[Any]:
    """An object with a name that the other node holds a replica of, and a published one."""
    ref = nodes.here.put(b"x" * 2_000_000, name="batch")
    ray.get(reader.keep.remote(ref))
    number = nodes.here.publish("weights", b"y" * 1000).version
    yield ref, number
    ray.get(reader.kept_bytes.remote(ref))
    nodes.here.delete(ref)


def test_nodes_are_listed(nodes: Nodes, shared: Any, run: Command) -> None:
    said = run("cluster", "nodes", "--session", SESSION, "--json")
    assert said.status == 0, said.err
    require(said.json, "cluster nodes")
    rows = {one["node"]: one for one in said.json}
    assert set(rows) == {nodes.here.node, *nodes.others()}
    (other,) = nodes.others()
    assert rows[nodes.here.node]["served"] == rows[other]["pulls"] >= 2
    assert rows[other]["bytes"] >= 2_001_000
    table = run("cluster", "nodes", "--session", SESSION).out.splitlines()
    assert table[0].split()[:3] == ["NODE", "HOST", "AGENT"]
    assert {line.split()[0] for line in table[1:3]} == {one[:8] for one in rows}
    assert table[3].startswith("2 nodes, ")


def test_an_object_is_shown_once_with_its_replicas(
    nodes: Nodes, reader: Any, shared: Any, run: Command
) -> None:
    ref, number = shared
    ray.get(reader.hold.remote(asked_name(ref.replica)))
    said = run("cluster", "objects", "--session", SESSION, "--json")
    ray.get(reader.let_go.remote(asked_name(ref.replica)))
    assert said.status == 0, said.err
    require(said.json, "cluster objects")
    batch, weights = said.json  # the largest first
    assert (batch["name"], batch["ref"]) == ("batch", ref.ref.hex())
    assert (batch["node"], batch["replicas"]) == (nodes.here.node, nodes.others())
    assert batch["pins"] == 1
    assert weights["name"] == f"weights, version {number}"
    assert weights["replicas"] == nodes.others()
    table = run("cluster", "objects", "--session", SESSION, "--limit", "1").out.splitlines()
    assert table[1].split()[0] == "batch"
    assert len(table) == 3
    assert table[2].endswith("; 2 replicas")


def test_top_tells_a_line_for_each_look(shared: Any, run: Command) -> None:
    live = ("cluster", "top", "--session", SESSION, "--interval", "0.01")
    said = run(*live, "--count", "2", "--json")
    assert said.status == 0, said.err
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert len(lines) == 2
    for line in lines:
        require(line, "cluster top")
        assert len(line["nodes"]) == 2
    assert "--json" in run(*live).err  # stdout is no terminal


def test_top_draws_the_nodes(nodes: Nodes, shared: Any) -> None:
    terminal = pytest.importorskip("terminal")
    where = ("--session", SESSION, "--address", nodes.cluster.address)
    with terminal.on_terminal(80, 24, "cluster", "top", "--interval", "0.1", *where) as screen:
        screen.wait_for(lambda text: "2 nodes" in text and nodes.here.node[:8] in text)
        screen.press("q")
        assert screen.status() == 0


def test_a_program_of_its_own_joins_the_cluster(nodes: Nodes, shared: Any) -> None:
    where = ("--session", SESSION, "--address", nodes.cluster.address)
    said = in_a_process("cluster", "objects", *where, "--json")
    assert said.status == 0, said.err
    assert said.json[0]["name"] == "batch"
    assert said.err == ""


def test_a_session_that_does_not_run_is_said(
    nodes: Nodes, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refstore.cli import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    said = run("cluster", "nodes", "--session", "another")
    assert said.status == 2
    assert "no session 'another' has answered in this Ray cluster" in said.err
