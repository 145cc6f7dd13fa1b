"""zarr in tests: how its threads end, and what children do with a store of its."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from children import Session

import refstore


def end_threads() -> None:
    """End zarr's event loop and its threads: other tests count on having none beside them."""
    sync = importlib.import_module("zarr.core.sync")
    loop = sync.loop[0]
    if loop is not None:
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
        sync.cleanup_resources()


def collected(keys: Any) -> list[str]:
    """What an asynchronous iterator yields."""

    async def collect() -> list[str]:
        return [key async for key in keys]

    return asyncio.run(collect())


def opened(store: refstore.Store, path: str, mode: str = "r+") -> Any:
    """An array of a store, as zarr opens it."""
    zarr = importlib.import_module("zarr")
    module = importlib.import_module("refstore.zarr")
    return zarr.open_array(module.RefstoreStore(store), path=path, mode=mode)


# -- commands of children


def sum_of(session: Session, path: str) -> float:
    """Read an array; the sum of its elements."""
    return float(opened(session.store, path)[:].sum())


def fill(session: Session, path: str, value: float) -> None:
    """Write all elements of an array, and then say so; others read them meanwhile."""
    opened(session.store, path)[:] = value


def hold(session: Session, key: str) -> int:
    """Keep the buffer of a key; its bytes."""
    module = importlib.import_module("refstore.zarr")
    session.held[key] = module.RefstoreStore(session.store).get_sync(key)
    return len(session.held[key])


def of_pickle(session: Session, store: Any) -> tuple[str, bool, bytes]:
    """What a store of zarr's is that came here by pickle."""
    value = store.get_sync("key")
    path: str = store.store.path
    store.store.close()
    return path, store.read_only, value.to_bytes()
