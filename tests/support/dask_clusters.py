"""Clusters of Dask in processes of their own, and what their workers do for the tests."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import engines
import helpers
import numpy as np
import pytest

import refstore
import refstore.dask

Array = helpers.Array
ENOUGH = 60.0  # seconds for what other processes do by themselves, on a busy machine
PLAIN = ["json"]  # a preload that does nothing


# --- in workers


def session() -> Any:
    return refstore.dask._current


def sweep(collect: bool = False) -> int:
    """Look for what nobody needs any more; objects that are there still."""
    if session() is None:
        return 0
    if collect:  # an exception keeps what its task looked at
        gc.collect()
    session().keeper.sweep()
    return len(session().keeper.store)


def made(size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 255, size, dtype="u1")


def is_shared(value: Any) -> bool:
    """Whether an array's memory is the store's."""
    return session() is not None and session().keeper.store.ref_of(value) is not None


def seen(value: Any) -> tuple[int, bool, bool]:
    """Sum of an array, whether it lies in the store, and whether it can be written."""
    return int(value.sum(dtype="i8")), is_shared(value), bool(value.flags.writeable)


def added(value: Any, number: int) -> int:
    """The sum after work in place."""
    value += number
    return int(value.sum(dtype="i8"))


def configure(name: str, value: Any) -> None:
    import dask.config

    dask.config.set({name: value})


class Weights:
    """An actor that changes in place what it hands out."""

    def __init__(self, size: int) -> None:
        self.values = np.zeros(size, "i8")

    def step(self) -> Array:
        self.values += 1
        return self.values


# --- clusters


class Cluster:
    """A cluster on this host, its client, and the store that they share."""

    def __init__(self, spec: distributed.SpecCluster, client: distributed.Client) -> None:
        self._spec, self.client = spec, client
        self.store: refstore.Store = session().keeper.store

    @property
    def addresses(self) -> list[str]:
        """Of the workers, by their number."""
        return [self._spec.workers[k].worker_address for k in sorted(self._spec.workers)]

    def pid(self, number: int) -> int:
        return int(self._spec.workers[number].pid)

    def on(
        self, number: int, call: Callable[..., Any], *arguments: Any, or_others: bool = False
    ) -> Any:
        """Have one of the workers do something; the future of it."""
        where = {"workers": [self.addresses[number]], "allow_other_workers": or_others}
        return self.client.submit(call, *arguments, pure=False, **where)

    def do(self, number: int, call: Callable[..., Any], *arguments: Any) -> Any:
        return self.on(number, call, *arguments).result(timeout=ENOUGH)

    def kill(self, number: int) -> None:
        """SIGKILL a worker; its nanny starts another one."""
        killed = self.addresses[number]
        os.kill(self.pid(number), signal.SIGKILL)
        self.await_that(lambda: self.addresses[number] not in (killed, None))
        known = self.client.scheduler_info
        self.await_that(lambda: self.addresses[number] in known()["workers"])

    def await_that(self, is_so: Callable[[], bool]) -> None:
        """Look again and again, and have all processes look for what nobody needs any more."""
        until = time.monotonic() + ENOUGH
        for tries in itertools.count(1):
            if is_so():
                return
            assert time.monotonic() < until, "it does not come to be so"
            self.client.run(sweep, tries % 10 == 0, on_error="ignore")
            sweep(tries % 10 == 0)

    def is_empty(self) -> bool:
        return len(self.store) == 0 and self.store.stats().used == 0

    def settle(self) -> None:
        """Nothing is left once nobody needs it."""
        self.await_that(self.is_empty)
        assert self.store.check() == []


@contextlib.contextmanager
def running(
    engine: str, *workers: dict[str, Any], capacity: str = "64MiB", **config: Any
) -> Iterator[Cluster]:
    """A cluster with such workers in a folder of its own, where it leaves nothing."""
    import dask.config

    folder = Path(tempfile.mkdtemp(prefix="refstore-test-", dir=helpers.SHARED_MEMORY))
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0"}}
    common = {"nthreads": 1, "memory_limit": 0, "dashboard": False}
    spec = {
        number: {"cls": distributed.Nanny, "options": {**common, **options}}
        for number, options in enumerate(workers)
    }
    with pytest.MonkeyPatch.context() as patch, dask.config.set(config):
        patch.setenv("REFSTORE_DIR", str(folder))
        patch.setenv(engines.VARIABLE, engine)
        dask.config.set({"refstore.capacity": capacity})
        # which would give up copies of what several workers have, at its own time
        dask.config.set({"distributed.scheduler.active-memory-manager.start": False})
        refstore.dask.install()
        try:
            with (
                distributed.SpecCluster(workers=spec, scheduler=scheduler) as cluster,
                distributed.Client(cluster, direct_to_workers=True) as client,
            ):
                yield Cluster(cluster, client)
        finally:
            refstore.dask.uninstall()
        assert helpers.stores(folder) == []
        with refstore.Store.temporary("64KiB"):
            pass  # by which locks go that a worker had which distributed killed as it ended
        assert list(folder.iterdir()) == []
        folder.rmdir()
