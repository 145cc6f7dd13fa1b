"""`refstore.ray` when processes of the cluster are killed, stopped, or amid a transfer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import eventually, halted

pytest.importorskip("ray")

import ray
import ray_nodes
from ray_nodes import Nodes, is_coming, kill

import refstore
from refstore.ray import ClusterRef, NodeLostError, _session
from refstore.ray._names import asked_name
from refstore.ray._parts import PART, PATIENCE
from refstore.ray._pulling import IN_REPLY

pytestmark = ray_nodes.MARKS

LARGE = 90 << 20  # bytes, in several parts


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes.ray_nodes(3) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def there(nodes: Nodes) -> Any:
    """A process of another node."""
    return nodes.reader(nodes.others()[0])


@pytest.fixture(autouse=True)
def no_object_left(nodes: Nodes) -> Iterator[None]:
    yield
    nodes.here.store.recover()
    nodes.here.store.clear()
    assert nodes.here.store.check() == []
    assert nodes.here.store.stats().used == 0


def node_of(there: Any) -> str:
    node: str = ray.get(there.node.remote())
    return node


def getting(nodes: Nodes, pool: ThreadPoolExecutor, ref: ClusterRef, seed: int) -> Future[bool]:
    """A get that is amid its transfer."""
    future = pool.submit(nodes.is_pattern, ref, seed)
    assert eventually(lambda: is_coming(nodes.here) or future.done())
    return future


def test_the_producer_may_die(nodes: Nodes, there: Any) -> None:
    producer = nodes.reader(node_of(there))
    ref = ray.get(producer.put_pattern.remote(1, 100_000))
    kill(ray.get(producer.pid.remote()))
    assert nodes.is_pattern(ref, 1)
    nodes.here.delete(ref)


def test_an_agent_that_was_killed_comes_back_to_its_store(nodes: Nodes, there: Any) -> None:
    ref, other = (ray.get(there.put_pattern.remote(k, 3 << 20)) for k in (1, 2))
    assert nodes.is_pattern(ref, 1)
    kill(nodes.agent(ref.node))
    assert nodes.is_pattern(ref, 1, timeout=0)
    assert nodes.is_pattern(other, 2)
    for one in (ref, other):
        nodes.here.delete(one)  # also the replica of which the agent has forgotten
    assert ref.replica not in nodes.here.store


@pytest.mark.parametrize("size", [IN_REPLY, LARGE])
def test_the_sources_agent_may_die_amid_a_transfer(nodes: Nodes, there: Any, size: int) -> None:
    ref = ray.get(there.put_pattern.remote(3, size))
    agent = nodes.agent(ref.node)
    with ThreadPoolExecutor(1) as pool:
        future = getting(nodes, pool, ref, 3)
        kill(agent)
        assert future.result()
    nodes.here.delete(ref)


def test_the_destinations_agent_may_die_amid_a_transfer(nodes: Nodes, there: Any) -> None:
    ref = ray.get(there.put_pattern.remote(4, LARGE))
    agent = nodes.agent(nodes.here.node)
    with ThreadPoolExecutor(1) as pool:
        future = getting(nodes, pool, ref, 4)
        kill(agent)
        assert future.result()
    nodes.here.delete(ref)


def test_who_brings_an_object_may_die(nodes: Nodes, there: Any) -> None:
    """The claim of its name ends with it, and the next one brings it."""
    ref = nodes.here.put(helpers.pattern(5, 30 << 20))
    doomed = nodes.reader(node_of(there))
    pid = ray.get(doomed.pid.remote())
    with halted(nodes.agent(nodes.here.node)):
        lost = doomed.is_pattern.remote(ref, 5)
        assert eventually(lambda: ray.get(there.is_coming.remote()))
        kill(pid)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(lost)
        waiting = there.is_pattern.remote(ref, 5)
    assert ray.get(waiting)
    nodes.here.delete(ref)


def test_who_asks_for_a_whole_node_may_be_stopped(nodes: Nodes, there: Any) -> None:
    """The others wait for what it has asked for, and then ask themselves."""
    ref = nodes.here.put(helpers.pattern(14, PART + 1))
    question = asked_name(ref.replica)
    ray.get(there.hold.remote(question))
    other = nodes.reader(node_of(there))
    assert ray.get(other.is_pattern.remote(ref, 14))
    ray.get(there.let_go.remote(question))
    nodes.here.delete(ref)


def test_an_agent_that_is_stopped_is_a_timeout(nodes: Nodes, there: Any) -> None:
    pulled, ref, late = (ray.get(there.put_pattern.remote(k, 1000)) for k in (6, 7, 8))
    assert nodes.is_pattern(pulled, 6)
    with halted(nodes.agent(ref.node)):
        began = time.monotonic()
        for call, one in ((nodes.here.get, ref), (nodes.here.delete, late)):
            with pytest.raises(refstore.GetTimeoutError, match="has not answered"):
                call(one, timeout=0.5)
        assert time.monotonic() - began < helpers.BUSY_TIMEOUT
        assert nodes.is_pattern(pulled, 6, timeout=0)
    assert nodes.is_pattern(ref, 7)
    assert eventually(lambda: not ray.get(there.has_own.remote(late)))  # which it did do later
    for one in (pulled, ref):
        nodes.here.delete(one)


def test_what_did_not_come_in_a_reply_comes_in_parts(nodes: Nodes, there: Any) -> None:
    ref = ray.get(there.put_pattern.remote(13, IN_REPLY))
    late = nodes.here._puller._late
    with halted(nodes.agent(ref.node)), pytest.raises(refstore.GetTimeoutError):
        nodes.here.get(ref, timeout=0.3)
    assert late == {ref.node}
    assert nodes.is_pattern(ref, 13)
    assert late == set()
    nodes.here.delete(ref)


def test_a_node_waits_for_a_version_that_is_on_its_way_to_its_parent(
    nodes: Nodes, there: Any
) -> None:
    source, parent = node_of(there), nodes.others()[1]
    before = {one.node: one.served for one in nodes.here.nodes()}
    ref = ray.get(there.put_pattern.remote(14, IN_REPLY))
    with ThreadPoolExecutor(1) as pool:
        with halted(nodes.agent(source)):
            arguments = ([nodes.here.node], 60.0, source, "late", 1, ref)
            end = time.monotonic() + 60
            missed = pool.submit(nodes.here._agents.call, parent, "take", *arguments, end=end)
            assert eventually(lambda: is_coming(nodes.here))
            time.sleep(1.2 * PATIENCE)  # longer than one question of a node to its parent
        assert missed.result() == []
    after = {one.node: one.served for one in nodes.here.nodes()}
    assert [after[node] - before[node] for node in (source, parent)] == [1, 1]
    nodes.forget("late")


def test_a_node_that_missed_a_version_takes_it_later(nodes: Nodes, there: Any) -> None:
    nodes.here.publish("w", b"1")
    node = node_of(there)
    with halted(nodes.agent(node)):
        published = nodes.here.publish("w", b"2", timeout=3)
        assert published.missed == (node,)
        assert bytes(ray.get(there.latest.remote("w"))[1]) == b"1"
    assert ray.get(there.wait.remote("w", published.version - 1)) == published.version
    assert bytes(ray.get(there.latest.remote("w"))[1]) == b"2"
    nodes.forget("w")


def test_the_session_may_die(nodes: Nodes, there: Any) -> None:
    first = nodes.here.publish("w", b"1").version
    session: Any = ray.get_actor(f"session/{nodes.session}", namespace="refstore")
    pid: int = ray.get(session.pid.remote())
    kill(pid)
    assert eventually(lambda: publishes(nodes, first))
    nodes.forget("w")


def test_a_session_begins_on_the_node_that_starts_it(nodes: Nodes) -> None:
    here = nodes.raylet(nodes.here.node)
    for number in range(6):  # else it would be there by chance
        name = f"begun {number}"
        assert _session.start_session(name, {})
        session: Any = ray.get_actor(f"session/{name}", namespace="refstore")
        found = parent_of(ray.get(session.pid.remote()))
        ray.kill(session)
        assert found == here


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def publishes(nodes: Nodes, after: int) -> bool:
    return nodes.here.publish("w", b"2", timeout=60).version > after


def test_a_raylet_that_is_stopped_is_a_timeout(nodes: Nodes, there: Any) -> None:
    ref, small = (ray.get(there.put_pattern.remote(k, size)) for k, size in ((8, LARGE), (9, 1000)))
    with halted(nodes.raylet(ref.node)):
        with pytest.raises(refstore.GetTimeoutError):
            nodes.here.get(ref, timeout=1)
        assert nodes.is_pattern(small, 9), "agents answer each other without it"
    assert nodes.is_pattern(ref, 8)
    for one in (ref, small):
        nodes.here.delete(one)


def test_a_node_that_dies_loses_what_no_other_has(nodes: Nodes) -> None:
    node = nodes.others()[-1]
    doomed = nodes.reader(node)
    pid = ray.get(doomed.pid.remote())
    pulled, lost = (ray.get(doomed.put_pattern.remote(k, 5 << 20)) for k in (9, 10))
    assert nodes.is_pattern(pulled, 9)
    for one in (nodes.agent(node), nodes.raylet(node), pid):  # which would go on for a while
        kill(one)
    with pytest.raises(NodeLostError) as raised:
        nodes.here.get(lost, timeout=120)
    assert raised.value.node == node
    assert nodes.is_pattern(pulled, 9, timeout=0)
    for call in (nodes.here.get, nodes.here.delete):
        with pytest.raises(NodeLostError):
            call(lost)
    assert nodes.here.publish("w", b"x").missed in ((), (node,))
    assert nodes.here.publish("w", b"y").missed == ()
    nodes.forget("w")


def test_what_was_pulled_outlives_the_gcs(nodes: Nodes, there: Any) -> None:
    """The last test: of this cluster nothing can be started any more."""
    ref = ray.get(there.put_pattern.remote(11, 5 << 20))
    assert nodes.is_pattern(ref, 11)
    more = ray.get(there.put_pattern.remote(12, 5 << 20))
    with halted(nodes.gcs()):
        assert nodes.is_pattern(ref, 11, timeout=0)
        assert nodes.is_pattern(more, 12)
    for one in (ref, more):
        nodes.here.delete(one)
