"""Who asks for a replica, and what the source offers: without a cluster, on one store."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import helpers
import pytest

pytest.importorskip("ray")

from ray.exceptions import ObjectStoreFullError

from refstore import GetTimeoutError, Store, Writer
from refstore.ray import ClusterRef
from refstore.ray._agent import AHEAD, Agent
from refstore.ray._names import asked_name
from refstore.ray._parts import PART, Parts
from refstore.ray._pulling import Puller

DATA = b"brought"


class Agents:
    """The node's agent, which brings what it is asked for, and says how often it was asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked = 0

    def call(self, node: str, method: str, ref: ClusterRef, seconds: float, *, end: float) -> None:
        assert (node, method) == ("here", "pull")
        self.asked += 1
        if end <= time.monotonic():
            raise GetTimeoutError("the agent has no time")
        self.store.put(DATA, name=ref.replica)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.temporary("4MiB", max_objects=64) as store:
        yield store


@pytest.fixture
def agents(store: Store) -> Agents:
    return Agents(store)


@pytest.fixture
def ref(store: Store) -> ClusterRef:
    made = store.put(b"")
    store.delete(made)
    return ClusterRef("there", made, PART + 1, b"")


def pull(store: Store, agents: Any, ref: ClusterRef, seconds: float = 60) -> bytes:
    puller = Puller(store, "here", agents)
    with puller.pull(ref, time.monotonic() + seconds) as buf:
        return bytes(buf)


def test_a_process_that_is_alone_asks(store: Store, agents: Agents, ref: ClusterRef) -> None:
    assert pull(store, agents, ref) == DATA
    assert agents.asked == 1
    assert store.names() == [ref.replica]
    assert [one.state for one in store.objects()] == ["live"], "its claim is left"


@pytest.fixture
def question(store: Store, ref: ClusterRef) -> Writer:
    """The claim of another that asks."""
    return store.create(0, name=asked_name(ref.replica), claim=True)


@pytest.fixture
def waiting(
    store: Store, agents: Agents, ref: ClusterRef, question: Writer
) -> Iterator[Future[bytes]]:
    """A pull of what another has asked for."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(pull, store, agents, ref)


def test_what_another_has_asked_for_is_waited_for(
    store: Store, agents: Agents, ref: ClusterRef, question: Writer, waiting: Future[bytes]
) -> None:
    store.put(DATA, name=ref.replica)
    assert waiting.result() == DATA
    assert agents.asked == 0
    question.abort()


def test_if_the_other_fails_the_next_one_asks(
    agents: Agents, question: Writer, waiting: Future[bytes]
) -> None:
    question.abort()
    assert waiting.result() == DATA
    assert agents.asked == 1


def test_who_waits_looks_less_and_less_often(
    store: Store,
    agents: Agents,
    ref: ClusterRef,
    question: Writer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = list[float]()

    def not_yet(_: Puller, __: ClusterRef, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            question.abort()

    monkeypatch.setattr(Puller, "_arrived", not_yet)
    assert pull(store, agents, ref) == DATA
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.2, 0.2]


def test_who_has_no_time_does_not_say_that_there_is_no_object(
    store: Store, agents: Agents, ref: ClusterRef, question: Writer
) -> None:
    brought = store.create(0, name=ref.replica, claim=True)
    small = ClusterRef("there", ref.ref, 3, store_header(store))
    for wanted in (ref, small):
        with pytest.raises(GetTimeoutError, match="has not come to this node in time"):
            pull(store, agents, wanted, 0)
    for claim in (question, brought):
        claim.abort()


def store_header(store: Store) -> bytes:
    with store.get(store.put(b"abc")) as buf:
        header: bytes = buf.header
    return header


def test_where_no_slot_is_left_it_is_asked_for_without_a_claim(
    store: Store, ref: ClusterRef
) -> None:
    class LetsOneGo(Agents):
        def call(self, *arguments: Any, **options: Any) -> None:
            store.delete(refs.pop())
            super().call(*arguments, **options)

    refs = helpers.put_until_full(store, itertools.repeat(b"x"), evictable=False)
    assert pull(store, LetsOneGo(store), ref) == DATA


class Transport:
    """Exports so many parts, and has no room for more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def export(self, part: memoryview) -> Any:
        if self.room == 0:
            raise ObjectStoreFullError("no room")
        self.room -= 1
        return len(part)

    def fetch(self, handle: Any, into: Any, offset: int, end: float) -> None:
        raise AssertionError


@pytest.mark.parametrize("room", [0, 1, AHEAD + 1])
def test_a_source_offers_what_it_can_export(store: Store, room: int) -> None:
    with store.get(store.put(b"small")) as buf:
        ref = ClusterRef("here", buf.ref, AHEAD * PART + 1, buf.header)
        agent = made_agent(store, room)
        parent, handles = agent.join(ref, "there")
        assert parent == "here"
        assert handles == ([5] + AHEAD * [0])[: min(room, AHEAD)]


def test_a_part_is_exported_once_however_many_nodes_ask(store: Store) -> None:
    with store.get(store.put(b"small")) as buf:
        ref = ClusterRef("here", buf.ref, buf.nbytes, buf.header)
        agent = made_agent(store, 1)  # a second export is an error
        with ThreadPoolExecutor(8) as nodes:
            asked = [nodes.submit(agent.part, ref, 0, f"node {k}") for k in range(50)]
        assert [each.result() for each in asked] == 50 * [ref.nbytes]


def made_agent(store: Store, room: int) -> Agent:
    agent = Agent.__new__(Agent)
    agent._store, agent._node = store, "here"
    agent._parts = Parts(store, Transport(room))
    agent._lock = threading.Lock()
    agent._holders, agent._served = {}, defaultdict(lambda: (0, 0))
    return agent
