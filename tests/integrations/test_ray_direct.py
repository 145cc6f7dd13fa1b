"""`refstore.ray.transport()`: arrays between actors by way of the stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import eventually

pytest.importorskip("ray")

import ray
import ray_nodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_nodes import Nodes

import refstore.ray

pytestmark = ray_nodes.MARKS


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes.ray_nodes(2, "default") as nodes:
        refstore.ray.transport()
        refstore.ray.transport()  # once more does nothing
        yield nodes


class Actor:
    def make(self, value: int) -> Any:
        return np.full((100, 1000), value)

    def total(self, array: Any) -> tuple[int, bool]:
        return int(array.sum()), array.flags.writeable


def actor(node: str) -> Any:
    library: Any = ray  # whose types do not know of this

    class Sender(Actor):
        make = library.method(tensor_transport="refstore")(Actor.make)

    made = library.remote(num_cpus=0, enable_tensor_transport=True)(Sender)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return made.options(scheduling_strategy=where).remote()


def objects(nodes: Nodes) -> list[int]:
    return [one.objects for one in nodes.here.nodes()]


@pytest.mark.parametrize("is_far", [False, True], ids=["of a node", "of two nodes"])
def test_an_array_goes_from_actor_to_actor(nodes: Nodes, is_far: bool) -> None:
    source = actor(nodes.here.node)
    target = actor(nodes.others()[0] if is_far else nodes.here.node)
    ref = source.make.remote(3)
    assert ray.get([target.total.remote(ref) for _ in range(3)]) == [(300_000, False)] * 3
    assert sum(objects(nodes)) == 1 + is_far
    del ref
    assert eventually(lambda: sum(objects(nodes)) == 0)
