"""`refstore.pool.Pool`: nothing is left of calls that fail, are cancelled or lose a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pool_tasks
import pytest

import refstore
from refstore import _children
from refstore.pool import Pool

SIZE = 100_000
NOTHING = (0, 0, 0, 0)


def pool_on(store: refstore.Store, workers: int = 1) -> Pool:
    return Pool(workers, multiprocessing.get_context("forkserver"), store=store)


def is_empty(store: refstore.Store) -> bool:
    return helpers.usage(store) == NOTHING


def test_nothing_is_left_of_a_call_that_failed(store: refstore.Store) -> None:
    array = np.ones(SIZE)
    with pool_on(store) as pool:
        for error, message, arguments in (
            (ValueError, "of 800000 bytes", (pool_tasks.fail, array)),
            (Exception, "lambda|local object", (pool_tasks.echo, array, lambda: None)),
            (Exception, "lambda|local object", (pool_tasks.not_picklable, array)),
            (LookupError, "it does not want to", (pool_tasks.echo, (array, pool_tasks.Refusing()))),
        ):
            with pytest.raises(error, match=message):
                pool.submit(*arguments).result()
            assert helpers.eventually(lambda: is_empty(store))
        assert pool.submit(pool_tasks.total, array).result() == SIZE
    assert is_empty(store)


def test_a_future_keeps_neither_arguments_nor_objects(store: refstore.Store) -> None:
    with pool_on(store) as pool:
        array = np.ones(SIZE)
        future = pool.submit(pool_tasks.total, array)
        assert future.result() == SIZE
        known = weakref.ref(array)
        del array
        assert helpers.eventually(lambda: known() is None)
        assert helpers.eventually(lambda: is_empty(store))


def test_a_cancelled_call_is_never_put(store: refstore.Store) -> None:
    arrays = [np.full(SIZE, n) for n in range(10)]
    with pool_on(store) as pool:
        first = pool.submit(pool_tasks.say_and_wait, arrays[0], store, "first")
        rest = [pool.submit(pool_tasks.total, array) for array in arrays[1:]]
        store.get("first", timeout=helpers.BUSY_TIMEOUT).release()
        cancelled = [one for one in rest if one.cancel()]
        assert len(cancelled) >= 6
        assert sum(one.nbytes > SIZE for one in store.objects()) <= 3
        store.put(b"", name="go")
        assert first.result() == 0
        pool.shutdown(cancel_futures=True)
    store.clear()
    assert is_empty(store)


def test_a_worker_that_is_killed_leaves_nothing(store: refstore.Store) -> None:
    array = np.ones(SIZE)
    with pool_on(store, 2) as pool:
        for name in ("first", "second"):
            pool.submit(pool_tasks.say_and_wait, array, store, name)
        waiting = [pool.submit(pool_tasks.total, np.full(SIZE, n)) for n in range(6)]
        with store.get("first", timeout=helpers.BUSY_TIMEOUT) as buf:
            os.kill(buf.value["pid"], signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            waiting[-1].result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(pool_tasks.total, array)
    store.clear()
    assert is_empty(store)


def test_a_worker_that_kills_itself_leaves_nothing(store: refstore.Store) -> None:
    with pool_on(store) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(pool_tasks.kill_itself, np.ones(SIZE)).result()
    assert is_empty(store)


def test_a_result_whose_sender_was_killed_is_an_error(store: refstore.Store) -> None:
    from refstore._lending import Arrived, Lender
    from refstore._parcels import Parcel, Result, take

    lender = Lender(store)
    result = Arrived(Parcel(lender.handle, b"", []), 1, False).result(np.ones(SIZE), Result)
    function, (parcel,) = result.__reduce__()
    assert function is take
    store.delete_many(parcel.buffers)
    with pytest.raises(refstore.ObjectNotFoundError):
        take(parcel)
    lender.close()
    store.clear()
    assert is_empty(store)


PARENT = """
    import multiprocessing, sys
    import numpy as np
    import pool_tasks, refstore
    from refstore.pool import Pool

    if __name__ == "__main__":
        store = refstore.Store(sys.argv[1])
        given = store if sys.argv[3] == "given" else None
        pool = Pool(2, multiprocessing.get_context(sys.argv[2]), store=given)
        for name in ("first", "second"):
            pool.submit(pool_tasks.say_and_wait, np.ones(100_000), store, name)
        pool.submit(pool_tasks.total, np.zeros(100_000)).result()
"""


@contextlib.contextmanager
def program(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "parent.py"
    file.write_text(textwrap.dedent(PARENT))
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path, "REFSTORE_DIR": str(folder)}
    with subprocess.Popen([sys.executable, str(file), *arguments], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
    file.unlink()


@pytest.mark.parametrize("whose", ["given", "own"])
@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_a_parent_that_is_killed_leaves_nothing(
    make_store: Any, folder: Path, method: str, whose: str
) -> None:
    store = make_store()
    with program(folder, store.path, method, whose) as parent:
        names = ["first", "second"]
        store.wait_any(names, count=2, timeout=helpers.BUSY_TIMEOUT)
        workers = [store[name].value["pid"] for name in names]
        parent.kill()
        parent.wait()
    assert helpers.eventually(lambda: all(map(_children.has_ended, workers)))
    store.recover()
    assert sorted(one.name or "" for one in store.objects()) == names
    store.clear()
    assert is_empty(store)
    refstore.Store(str(folder / "other"), create=True).unlink()  # who makes one clears up
    assert helpers.stores(folder) == ["store"]
