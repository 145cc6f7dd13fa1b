"""`refstore.ray` on a cluster of three nodes on this machine: objects, versions, the session."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import eventually

pytest.importorskip("ray")

import ray
import ray_nodes
from ray_nodes import SESSION, Nodes

import refstore
import refstore.ray
from refstore.ray import ClusterRef, Latest, NodeLostError
from refstore.ray._agent import FEW
from refstore.ray._parts import PART
from refstore.ray._pulling import IN_REPLY, SMALL

pytestmark = ray_nodes.MARKS


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes.ray_nodes(3) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def readers(nodes: Nodes) -> list[Any]:
    """Two processes on each node but this one."""
    return [nodes.reader(node) for node in nodes.others() for _ in range(2)]


@pytest.fixture(autouse=True)
def no_object_left(nodes: Nodes, readers: list[Any]) -> Iterator[None]:
    yield
    nodes.here.store.clear()
    assert eventually(lambda: all(len(state[1]) == 0 for state in states(readers)), 20), states(
        readers
    )
    assert [state[2] for state in states(readers)] == [[]] * len(readers)
    assert nodes.here.store.check() == []


def states(readers: list[Any]) -> list[tuple[int, list[str], list[Any]]]:
    found: list[tuple[int, list[str], list[Any]]] = ray.get([one.state.remote() for one in readers])
    return found


def pulls(nodes: Nodes) -> int:
    return sum(one.pulls for one in nodes.here.nodes())


VALUES = [
    b"",
    b"some bytes",
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(3000).reshape(30, 100)),
    np.broadcast_to(np.float32(7), (1000, 1000)),
    np.array(["2026-01-01"], "M8[D]"),
    {"weights": np.ones((400, 500), "f4"), "step": 3},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_another_node_gets_what_was_put(nodes: Nodes, readers: list[Any], value: Any) -> None:
    ref = nodes.here.put(value)
    found = ray.get(readers[0].value.remote(ref))
    if isinstance(value, dict):
        assert found["step"] == value["step"]
        np.testing.assert_array_equal(found["weights"], value["weights"])
    else:
        np.testing.assert_array_equal(found, value)


SIZES = [1, 100_000, IN_REPLY, IN_REPLY + 1, PART, PART + 1, 2 * PART, 3 * PART + 7]


@pytest.mark.parametrize("size", SIZES)
def test_a_node_brings_an_object_once(nodes: Nodes, readers: list[Any], size: int) -> None:
    before = pulls(nodes)
    ref = nodes.here.put(helpers.pattern(size, size))
    assert all(ray.get([one.is_pattern.remote(ref, size) for one in readers]))
    assert all(ray.get([one.is_pattern.remote(ref, size) for one in readers]))
    assert pulls(nodes) - before == 2
    assert helpers.eventually(lambda: nodes.here.store.stats().pinned == 0)
    stores = {one.node: one.objects for one in nodes.here.nodes()}
    assert list(stores.values()) == [1, 1, 1]


def test_many_nodes_take_a_middling_object_in_parts(nodes: Nodes, readers: list[Any]) -> None:
    data = helpers.pattern(5, SMALL + 1)
    ref = nodes.here.put(data)
    agent = nodes.here._agents.handle(nodes.here.node)

    def reply(node: str) -> Any:
        return ray.get(agent.fetch.remote(ref, node))

    first = agent.fetch.remote(ref, "node 0")
    assert bytes(ray.get(first)) == data
    worker: Any = ray._private.worker.global_worker.core_worker
    assert worker.object_exists(first, memory_store_only=True), "it came by way of Ray's own store"
    assert all(bytes(reply(f"node {k}")) == data for k in range(1, FEW))
    assert reply("one more") is None
    assert reply("node 0") is not None
    assert all(ray.get([one.is_pattern.remote(ref, 5) for one in readers]))
    nodes.here.delete(ref)


def test_nothing_is_sent_for_what_is_here(nodes: Nodes) -> None:
    before = pulls(nodes)
    ref = nodes.here.put(b"here")
    with nodes.here.get(ref) as buf, nodes.here.get(ref, writable=True) as own:
        memoryview(own)[0:1] = b"H"
        assert bytes(buf) == b"here"
        assert bytes(own) == b"Here"
    assert pulls(nodes) == before


def test_an_object_of_another_process_comes_here(nodes: Nodes, readers: list[Any]) -> None:
    ref = ray.get(readers[0].put.remote(b"there", "name"))
    with nodes.here.get(ref) as buf, nodes.here.get(ref, writable=True) as own:
        memoryview(own)[0:1] = b"T"
        assert (bytes(buf), bytes(own)) == (b"there", b"There")
    nodes.here.delete(ref)


def test_delete_takes_the_replicas_and_spares_the_pins(nodes: Nodes, readers: list[Any]) -> None:
    ref = nodes.here.put(b"pinned")
    ray.get([one.keep.remote(ref) for one in readers])
    ray.get(readers[0].publish.remote("other", b""))
    nodes.here.delete(ref)
    assert not any(ray.get([one.has.remote(ref) for one in readers]))
    assert ray.get([one.kept_bytes.remote(ref) for one in readers]) == [b"pinned"] * len(readers)
    for cluster_call in (nodes.here.get, nodes.here.delete):
        with pytest.raises(refstore.ObjectNotFoundError):
            cluster_call(ref)
    with pytest.raises(refstore.ObjectNotFoundError):
        ray.get(readers[0].value.remote(ref))
    nodes.forget("other")


def test_replicas_go_when_their_source_goes_by_itself(nodes: Nodes, readers: list[Any]) -> None:
    ref = nodes.here.put(b"short-lived")
    ray.get(readers[0].value.remote(ref))
    nodes.here.store.delete(ref.ref)
    assert eventually(lambda: not ray.get(readers[0].has.remote(ref)))


def test_a_replica_that_was_evicted_comes_again(nodes: Nodes, readers: list[Any]) -> None:
    refs = [nodes.here.put(helpers.pattern(k, 30 << 20)) for k in range(4)]
    more = [ray.get(readers[0].put_pattern.remote(k, 60 << 20)) for k in range(2)]
    for k, ref in enumerate(refs * 2):
        assert ray.get(readers[0].is_pattern.remote(ref, k % 4))
    for ref in more:
        nodes.here.delete(ref)


def test_a_replica_for_which_there_is_no_room(nodes: Nodes, readers: list[Any]) -> None:
    big = ray.get(readers[0].put_pattern.remote(1, 150 << 20))
    ref = nodes.here.put(bytes(60 << 20))
    with pytest.raises(refstore.StoreFullError):
        ray.get(readers[0].value.remote(ref, 1))
    nodes.here.delete(big)
    assert len(ray.get(readers[0].value.remote(ref))) == 60 << 20


def test_prefetch_waits_for_nothing(nodes: Nodes, readers: list[Any]) -> None:
    ref = ray.get(readers[0].put_pattern.remote(3, 5 << 20))
    nodes.here.prefetch([ref, nodes.here.put(b"here")])
    assert eventually(lambda: ref.replica in nodes.here.store)
    nodes.here.delete(ref)


# --- versions


def test_each_node_has_a_version_when_publish_returns(nodes: Nodes, readers: list[Any]) -> None:
    last = 0
    for value in (1, 2, 3):
        published = nodes.here.publish("w", np.full(5 << 17, value))
        assert published.version > last
        assert published.missed == ()
        last = published.version
        found = ray.get([one.latest.remote("w") for one in readers])
        assert [version for version, _ in found] == [last] * len(readers)
        assert all((array == value).all() for _, array in found)
        version, buf = nodes.here.latest("w")
        with buf:
            assert version == last
            assert buf.ref == published.ref.ref
    assert [one.objects for one in nodes.here.nodes()] == [2, 2, 2]
    nodes.forget("w")


def test_versions_of_two_publishers_never_go_backwards(nodes: Nodes, readers: list[Any]) -> None:
    count = 12
    followers = [one.follow.remote("v", 2 * count) for one in readers[:4]]
    publishers = [nodes.reader(node) for node in nodes.others()]
    numbers = ray.get([one.publish_many.remote("v", count) for one in publishers])
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 2 * count + 1))
    for seen in ray.get(followers):
        versions = [version for version, _ in seen]
        assert versions == sorted(set(versions))
        assert versions[-1] == 2 * count
        assert all(is_whole for _, is_whole in seen)
    # an agent may just have brought one that is late already
    assert eventually(lambda: [one.objects for one in nodes.here.nodes()] == [2, 2, 2])
    nodes.forget("v")


def test_a_version_that_is_deleted_comes_back_to_no_node(nodes: Nodes, readers: list[Any]) -> None:
    nodes.here.publish("w", np.ones(5 << 17))
    nodes.forget("w")
    with pytest.raises(refstore.ObjectNotFoundError):
        nodes.here.latest("w")


def test_a_wait_ends_with_a_publication(nodes: Nodes, readers: list[Any]) -> None:
    waiting = [one.wait.remote("x", 0) for one in readers]
    first = nodes.here.publish("x", b"1").version
    assert ray.get(waiting) == [first] * len(readers)
    waiting = [one.wait.remote("x", first) for one in readers]
    second = nodes.here.publish("x", b"2").version
    assert ray.get(waiting) == [second] * len(readers)
    with pytest.raises(refstore.GetTimeoutError):
        nodes.here.wait("x", newer_than=second, timeout=0.01)
    version, buf = nodes.here.wait("x", newer_than=first)
    with buf:
        assert (version, bytes(buf)) == (second, b"2")
    nodes.forget("x")


def test_a_version_that_nobody_published(nodes: Nodes) -> None:
    with pytest.raises(refstore.ObjectNotFoundError):
        nodes.here.latest("no such name")
    with pytest.raises(refstore.GetTimeoutError):
        nodes.here.wait("no such name", timeout=0.01)


@pytest.mark.parametrize("name", ["", "x" * 245])
def test_names_that_no_version_can_have(nodes: Nodes, name: str) -> None:
    for call in (nodes.here.latest, nodes.here.wait, lambda n: nodes.here.publish(n, b"")):
        with pytest.raises(ValueError, match="1 to 244 bytes"):
            call(name)


@pytest.mark.parametrize(("timeout", "error"), [("5", TypeError), (-1, ValueError)])
def test_timeouts_that_no_call_can_have(nodes: Nodes, timeout: Any, error: Any) -> None:
    with pytest.raises(error, match="timeout is"):
        nodes.here.nodes(timeout=timeout)
    with pytest.raises(error, match="timeout is"):
        nodes.here.publish("n", b"", timeout=timeout)
    with pytest.raises(error, match="timeout is"):
        refstore.ray.connect(session="other", timeout=timeout)


# --- the session


def test_start_again_is_harmless(nodes: Nodes) -> None:
    assert refstore.ray.start(session=SESSION) is nodes.here
    assert refstore.ray.start(ray_nodes.CAPACITY, session=SESSION) is nodes.here
    with pytest.raises(ValueError, match="capacity"):
        refstore.ray.start("100MiB", session=SESSION)


def test_a_session_that_does_not_run(nodes: Nodes) -> None:
    with pytest.raises(refstore.GetTimeoutError, match=r"refstore\.ray\.start\(\) starts one"):
        refstore.ray.connect(session="other", timeout=0.01)


def test_a_store_that_cannot_be_made_is_its_own_error(nodes: Nodes) -> None:
    for capacity in ("no size", 1 << 60):
        with pytest.raises(ValueError, match="capacity"):
            refstore.ray.start(capacity, session="third")
    third = refstore.ray.start("10MiB", session="third")  # nothing of these tries is in the way
    third.stop()


@pytest.mark.parametrize("session", ["", "a/b", "ä", "x" * 65])
def test_names_that_no_session_can_have(nodes: Nodes, session: str) -> None:
    with pytest.raises(ValueError, match="cannot name a session"):
        refstore.ray.connect(session=session)


def test_a_second_session_has_stores_of_its_own(nodes: Nodes) -> None:
    other = refstore.ray.start("10MiB", session="second")
    assert other.store.path != nodes.here.store.path
    assert len(other.nodes()) == 3
    other.stop()
    assert refstore.ray.start("20MiB", session="second").store.capacity >= 20 << 20
    refstore.ray.connect(session="second").stop()


def test_a_cluster_is_this_nodes_where_it_is_unpickled(nodes: Nodes, readers: list[Any]) -> None:
    assert pickle.loads(pickle.dumps(nodes.here)) is nodes.here

    def is_there(cluster: refstore.ray.Cluster) -> bool:
        node: str = ray.get_runtime_context().get_node_id()
        return cluster.node == node

    task: Any = ray.remote(num_cpus=0)(is_there)
    assert ray.get(task.remote(nodes.here))


def test_a_ref_is_a_value(nodes: Nodes) -> None:
    ref = nodes.here.put(b"x")
    again = pickle.loads(pickle.dumps(ref))
    assert (again, hash(again)) == (ref, hash(ref))
    assert (again.node, again.ref, again.nbytes, again.how) == (ref.node, ref.ref, 1, ref.how)
    assert again != nodes.here.put(b"x")
    assert ref != ref.ref
    with pytest.raises(AttributeError, match="cannot be changed"):
        ref.nbytes = 2
    assert ClusterRef.__module__ == Latest.__module__ == "refstore.ray"
    assert NodeLostError is refstore.NodeLostError


def test_a_node_that_joins_later_is_taken_in(nodes: Nodes, readers: list[Any]) -> None:
    nodes.here.publish("w", b"published before")
    ref = nodes.here.put(b"put before")
    added = nodes.cluster.add_node(num_cpus=1, object_store_memory=ray_nodes.MEMORY)
    late = nodes.reader(added.node_id)
    assert ray.get(late.value.remote(ref)) == b"put before"
    assert ray.get(late.wait.remote("w", 0)) == 1 or ray.get(late.latest.remote("w"))
    published = nodes.here.publish("w", b"published after")
    assert published.missed == ()
    version, value = ray.get(late.latest.remote("w"))
    assert (version, bytes(value)) == (published.version, b"published after")
    nodes.forget("w")
    nodes.cluster.remove_node(added)
