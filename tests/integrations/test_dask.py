"""`refstore.dask` in clusters: what goes by ref, between whom, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import engines
import numpy as np
import pytest
from libraries import Late

import refstore

distributed: Any = pytest.importorskip("distributed")
ours: Any = pytest.importorskip("refstore.dask")
clusters: Any = pytest.importorskip("dask_clusters")

SIZE = 1_000_000
pandas: Any = Late("pandas")
pyarrow: Any = Late("pyarrow")

pytestmark = [
    pytest.mark.once("the cluster says itself of which engine its store is"),
    pytest.mark.timeout(120),
]
# What the workers of the cluster are, by their number.
FIRST, SECOND, KEEPING, PLAIN = range(4)


@pytest.fixture(scope="module", params=engines.available())
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    workers: list[dict[str, Any]] = [{}, {}, {"data": ours.Data}, {"preload": clusters.PLAIN}]
    with clusters.running(request.param, *workers) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Any) -> Iterator[None]:
    yield
    cluster.settle()


def total(size: int = SIZE, seed: int = 0) -> int:
    return int(clusters.made(size, seed).sum(dtype="i8"))


def test_an_array_that_a_client_scatters_is_there_once(cluster: Any) -> None:
    workers = cluster.addresses[:PLAIN]
    future = cluster.client.scatter(clusters.made(SIZE), workers=workers, broadcast=True)
    assert [cluster.do(k, clusters.seen, future) for k in (FIRST, SECOND, KEEPING)] == [
        (total(), True, False)
    ] * 3
    assert cluster.store.stats().used < 1.1 * SIZE


def test_by_way_of_the_scheduler_it_is_too(cluster: Any) -> None:
    workers = cluster.addresses[:PLAIN]
    data = clusters.made(SIZE)
    future = cluster.client.scatter(data, workers=workers, broadcast=True, direct=False)
    assert [cluster.do(k, clusters.seen, future) for k in (FIRST, SECOND, KEEPING)] == [
        (total(), True, False)
    ] * 3
    assert cluster.store.stats().used < 1.1 * SIZE


@pytest.mark.parametrize("maker", [FIRST, KEEPING])
def test_an_array_that_a_worker_made_is_there_once(cluster: Any, maker: int) -> None:
    future = cluster.on(maker, clusters.made, SIZE)
    readers = [k for k in (FIRST, SECOND, KEEPING) if k != maker]
    assert [cluster.do(k, clusters.seen, future) for k in readers] == [(total(), True, False)] * 2
    assert cluster.store.stats().used < 1.1 * SIZE
    is_keeping = maker == KEEPING
    assert cluster.do(maker, clusters.seen, future) == (total(), is_keeping, not is_keeping)


def test_a_worker_without_it_sends_and_receives_as_ever(cluster: Any) -> None:
    theirs = cluster.on(PLAIN, clusters.made, SIZE, 1)
    assert cluster.do(FIRST, clusters.seen, theirs) == (total(seed=1), False, True)
    assert cluster.do(KEEPING, clusters.seen, theirs) == (total(seed=1), True, False)
    ours = cluster.on(KEEPING, clusters.made, SIZE, 2)
    assert cluster.do(PLAIN, clusters.seen, ours) == (total(seed=2), False, True)
    theirs = [cluster.addresses[PLAIN]]
    scattered = cluster.client.scatter(clusters.made(SIZE, 3), workers=theirs, direct=False)
    assert cluster.do(PLAIN, clusters.seen, scattered) == (total(seed=3), False, True)


def test_what_a_client_gathers_is_not_copied(cluster: Any) -> None:
    future = cluster.on(FIRST, clusters.made, SIZE)
    value = cluster.client.gather(future)
    assert clusters.seen(value) == (total(), True, False)
    del future
    cluster.await_that(lambda: cluster.store.stats().pinned == 1)
    assert value.sum(dtype="i8") == total()


def test_through_the_scheduler_a_client_gets_a_copy_of_its_own(cluster: Any) -> None:
    future = cluster.on(KEEPING, clusters.made, SIZE)
    value = cluster.client.gather(future, direct=False)
    assert clusters.seen(value) == (total(), False, True)


def test_what_is_small_goes_with_its_message(cluster: Any) -> None:
    future = cluster.on(FIRST, clusters.made, 10_000)
    assert cluster.do(SECOND, clusters.seen, future) == (total(10_000), False, True)
    assert len(cluster.store) == 0


def test_what_the_store_has_no_space_for_goes_as_bytes(cluster: Any) -> None:
    size = cluster.store.capacity + 1
    future = cluster.on(KEEPING, np.zeros, size, "u1")
    assert cluster.do(FIRST, clusters.seen, future) == (0, False, True)
    assert len(cluster.store) == 0


def test_who_works_in_place_is_told(cluster: Any) -> None:
    future = cluster.on(KEEPING, clusters.made, SIZE)
    for worker in (FIRST, KEEPING):
        # result() would raise it, and the client keep it with the frames that it came through
        error = cluster.on(worker, clusters.added, future, 1).exception(clusters.ENOUGH)
        assert isinstance(error, ValueError)
        assert str(error) == "output array is read-only"
    assert cluster.do(SECOND, clusters.seen, future)[0] == total()


def test_it_works_in_place_where_that_is_wanted(cluster: Any) -> None:
    workers = cluster.addresses
    cluster.client.run(clusters.configure, "refstore.writable", True, workers=workers[:2])
    try:
        future = cluster.on(KEEPING, np.zeros, SIZE // 8, "i8")
        # not by ref to the other one, once it has been changed here
        here = cluster.do(FIRST, clusters.added, future, 1)
        assert here == SIZE // 8
        assert cluster.do(KEEPING, clusters.seen, future) == (0, True, False)
        assert cluster.do(SECOND, clusters.seen, future)[0] in (0, here)
        assert cluster.do(SECOND, clusters.seen, future)[2]
    finally:
        cluster.client.run(clusters.configure, "refstore.writable", False, workers=workers[:2])


def test_what_an_actor_changes_in_place_is_never_stale(cluster: Any) -> None:
    actor = cluster.client.submit(
        clusters.Weights, SIZE // 8, actor=True, workers=[cluster.addresses[FIRST]]
    ).result()
    for step in range(1, 4):
        values = actor.step().result()
        assert np.array_equal(values, np.full(SIZE // 8, step))
        assert clusters.is_shared(values)
    del values, actor


NAMES = ["bytes", "dates", "frame", "list", "masked", "mixed", "objects", "order", "records"]
NAMES += ["series", "slice", "steps", "table"]


def tables() -> dict[str, Any]:
    numbers = np.arange(SIZE // 8)
    records = np.zeros(len(numbers), [("a", "i8"), ("b", "f8")]).view(np.recarray)
    names = [f"name {k % 10}" for k in range(len(numbers))]
    return {
        "frame": pandas.DataFrame({"a": numbers, "b": numbers / 2, "s": names}),
        "series": pandas.Series(numbers, name="n", index=numbers * 2),
        "table": pyarrow.table({"a": numbers, "s": names}),
        "slice": pyarrow.table({"a": numbers}).slice(5, 20_000),
        "masked": np.ma.masked_greater(numbers, 5),
        "records": records,
        "order": np.asfortranarray(numbers.reshape(5, -1)),
        "steps": numbers[::2],
        "dates": numbers.astype("M8[s]"),
        "list": [numbers, numbers + 1],
        "mixed": {"a": numbers, "text": "x", "frames": [pandas.DataFrame({"a": numbers})]},
        "bytes": bytes(SIZE),
        "objects": np.array([*names, None], dtype=object),
    }


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one.equals(other)) if hasattr(one, "equals") else bool(one == other)


@pytest.mark.parametrize("name", NAMES)
def test_tables_come_as_they_went(cluster: Any, name: str) -> None:
    value = tables()[name]
    sent = np.asarray(value) if name == "records" else value  # distributed makes an array of it
    future = cluster.client.scatter(value, workers=[cluster.addresses[FIRST]], hash=False)
    passed_on = cluster.on(SECOND, list, [future])
    for last in (SECOND, KEEPING):
        (back,) = cluster.client.gather(cluster.on(last, list, passed_on))
        assert equal(back, sent)


def is_in_pieces_of_the_store(table: Any) -> bool:
    columns = [table[name] for name in ("a", "b")]
    return all(clusters.is_shared(np.asarray(column)) for column in columns)


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_a_table_is_there_once(cluster: Any, kind: str) -> None:
    columns = {"a": np.arange(SIZE // 8), "b": np.arange(SIZE // 8) / 2}
    table = pandas.DataFrame(columns) if kind == "pandas" else pyarrow.table(columns)
    first = cluster.client.scatter(table, workers=[cluster.addresses[FIRST]], hash=False)
    for worker in (SECOND, KEEPING, FIRST):
        assert cluster.do(worker, is_in_pieces_of_the_store, first)
    assert cluster.store.stats().used < 2.1 * SIZE


def lose_the_next() -> None:
    """What is sent next is gone before it arrives."""
    session = clusters.session()
    send = session._send

    def send_once(*arguments: Any) -> Any:
        session._send = send
        told = send(*arguments)
        for ref, _ in told["objects"]:
            session.keeper.store.delete(refstore.ObjectRef(ref))
        session.has_lost = True
        return told

    session._send = send_once


def has_lost() -> bool:
    return bool(clusters.session().has_lost)


def test_what_is_gone_when_it_arrives_is_asked_for_again(cluster: Any) -> None:
    future = cluster.on(FIRST, clusters.made, SIZE)
    cluster.do(FIRST, lose_the_next)
    assert cluster.do(SECOND, clusters.seen, future)[0] == total()
    assert cluster.do(FIRST, has_lost)
