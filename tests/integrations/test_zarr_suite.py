"""zarr's own tests of stores, and its state machines, on `RefstoreStore`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import engines
import pytest
import zarrs
from hypothesis import HealthCheck, settings
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.stateful import run_state_machine_as_test

import refstore
from refstore._names import NAME_LIMIT

stateful: Any = pytest.importorskip("zarr.testing.stateful")
suite: Any = pytest.importorskip("zarr.testing.store")
buffers: Any = pytest.importorskip("zarr.core.buffer")
RefstoreStore: Any = pytest.importorskip("refstore.zarr").RefstoreStore


@pytest.fixture(autouse=True, scope="module")
def no_threads_left() -> Iterator[None]:
    yield
    zarrs.end_threads()


class TestRefstoreStore(suite.StoreTests[RefstoreStore, buffers.cpu.Buffer]):  # type: ignore[misc]
    """All that zarr asks of a store."""

    store_cls = RefstoreStore
    buffer_cls = buffers.cpu.Buffer

    async def set(self, store: Any, key: str, value: Any) -> None:
        store.store.put(value.to_bytes(), name=key, replace=True)

    async def get(self, store: Any, key: str) -> Any:
        with store.store.get(key) as buf:
            return self.buffer_cls.from_bytes(bytes(buf))

    @pytest.fixture
    def store_kwargs(self, make_store: Any) -> dict[str, Any]:
        return {"store": make_store()}

    @pytest.fixture
    def store(self, open_kwargs: dict[str, Any]) -> Any:
        return asyncio.run(RefstoreStore.open(**open_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> Any:
        return RefstoreStore(**store_kwargs)

    def test_store_repr(self, store: Any) -> None:
        assert repr(store) == f"RefstoreStore({store.store!r}, read_only=False)"
        assert str(store) == store.store.path

    def test_store_supports_writes(self, store: Any) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        asyncio.run(test(*arguments, **options))

    return run


for name, member in inspect.getmembers(TestRefstoreStore, inspect.iscoroutinefunction):
    if name.startswith("test_"):
        setattr(TestRefstoreStore, name, in_a_loop(member))


class NamedStore(RefstoreStore):  # type: ignore[misc]
    """Is given no key that is too long for a name, as zarr's machines sometimes make one."""

    async def set(self, key: str, value: Any) -> None:
        if len(key.encode()) > NAME_LIMIT:
            raise UnsatisfiedAssumption  # not by assume(), which is for the test's own thread
        await super().set(key, value)


@pytest.mark.filterwarnings("ignore:The data type:Warning")
@pytest.mark.parametrize("machine", ["ZarrStoreStateMachine", "ZarrHierarchyStateMachine"])
def test_it_agrees_with_zarrs_model(machine: str, store: refstore.Store) -> None:
    make: Any = lambda: getattr(stateful, machine)(NamedStore(store))  # noqa: E731
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=engines.rounds(15, 3),
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
