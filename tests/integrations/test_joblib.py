"""`refstore.joblib`: how often arguments are put, what tasks get, and that nothing is left."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documented
import helpers
import joblib_tasks
import libraries
import numpy as np
import pool_tasks
import pytest

import refstore
from refstore import _children

joblib = libraries.Late("joblib")
of_joblib = libraries.Late("refstore.joblib")
loky = libraries.Late("joblib.externals.loky")

pytestmark = libraries.needed("joblib")

SIZE = 200_000  # elements of an array of 1.6 MB, which is large to joblib
BACKENDS = ["loky", "multiprocessing"]


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Start loky's resource tracker, which lives as long as this process, before any test."""
    from joblib.externals.loky.backend import resource_tracker

    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def without_workers(store: refstore.Store) -> Iterator[None]:
    """No test finds workers of another, or leaves any; its store is empty in the end."""
    yield
    of_joblib.uninstall()
    loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
    gc.collect()
    store.recover()
    store.clear()
    assert helpers.usage(store) == (0, 0, 0, 0)


def run(task: Any, *arguments: Any, times: int = 4, **options: Any) -> Any:
    parallel = joblib.Parallel(n_jobs=2, **options)
    return parallel(joblib.delayed(task)(*arguments) for _ in range(times))


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.joblib as module

    documented.require_all(module, store)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_argument_is_put_once_and_read_where_it_lies(
    store: refstore.Store, backend: str
) -> None:
    array = np.arange(SIZE, dtype="f8")
    with of_joblib.installed(store):
        for given in (array, array.reshape(2, -1).T, np.arange(2.0 * SIZE)[::2]):
            before = store.stats().puts
            assert run(pool_tasks.total, given, times=8, backend=backend) == [given.sum()] * 8
            assert store.stats().puts - before == 1
            assert helpers.usage(store) == (0, 0, 0, 0)
        assert all(run(pool_tasks.lies_in, array, store.path, backend=backend))
    before = store.stats().puts
    assert run(pool_tasks.total, array, backend=backend) == [array.sum()] * 4
    assert store.stats().puts == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_changed_between_calls_is_seen(store: refstore.Store, backend: str) -> None:
    array = np.ones(SIZE)
    with of_joblib.installed(store), joblib.Parallel(n_jobs=2, backend=backend) as parallel:
        for number in range(1, 4):
            array[:] = number
            got = parallel(joblib.delayed(pool_tasks.total)(array) for _ in range(4))
            assert got == [number * SIZE] * 4
            assert helpers.usage(store) == (0, 0, 0, 0)


def test_it_is_the_default(store: refstore.Store) -> None:
    with of_joblib.installed(store):
        assert run(pool_tasks.total, np.ones(SIZE)) == [SIZE] * 4
        assert store.stats().puts == 1
        with joblib.parallel_config(backend="threading"):
            assert run(pool_tasks.total, np.ones(SIZE)) == [SIZE] * 4
        assert store.stats().puts == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_modes_and_sizes_are_those_of_joblib(
    store: refstore.Store, folder: Path, backend: str
) -> None:
    array = np.ones(SIZE)
    with of_joblib.installed(store):
        for mode, expected, count in (
            ("r", ("ndarray", False), 1),
            ("c", ("ndarray", True), 1),
            ("r+", ("memmap", True), 0),
        ):
            before = store.stats().puts
            got = run(joblib_tasks.described, array, mmap_mode=mode, backend=backend)
            assert got == [expected] * 4
            assert store.stats().puts - before == count
        before = store.stats().puts
        for limit in (None, "2M"):
            got = run(joblib_tasks.described, array, max_nbytes=limit, backend=backend)
            assert got[0][1]
        assert store.stats().puts == before
        run(joblib_tasks.described, array, max_nbytes=1000, backend=backend)
        assert store.stats().puts == before + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_is_mapped_by_the_task_as_ever(
    store: refstore.Store, folder: Path, backend: str
) -> None:
    path = folder / "array"
    file = np.memmap(path, "f8", "w+", shape=(SIZE,))
    file[:] = 1
    with of_joblib.installed(store):
        assert run(joblib_tasks.described, file, backend=backend)[0][0] == "memmap"
        assert run(pool_tasks.total, file[10:], backend=backend) == [SIZE - 10] * 4
        assert store.stats().puts == 0
    del file
    path.unlink()


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_may_be_written(make_store: Any, backend: str) -> None:
    large = make_store("128MiB", name="large")
    with of_joblib.installed(large):
        for size in (10, SIZE, 3_000_000):
            results = run(pool_tasks.ones, size, times=2, backend=backend)
            for array in results:
                array[:] = 2
                assert array.sum() == 2 * size
        assert helpers.lies_in(large.path, helpers.address(results[0]))
        del results, array
        assert helpers.is_unpinned(large)
        assert helpers.usage(large) == (0, 0, 0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_finds_no_room_goes_as_ever(make_store: Any, backend: str) -> None:
    small = make_store("1MiB", name="small")
    with of_joblib.installed(small):
        array = np.ones(SIZE)
        assert all(one.sum() == SIZE for one in run(pool_tasks.echo, array, backend=backend))
        assert small.stats().puts == 0


# --- generators, nested calls


# loky's thread may look for a call that has just been given up, and is about to end anyway
@pytest.mark.filterwarnings("ignore:Exception in thread ExecutorManager")
@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
def test_generators(store: refstore.Store, kind: str) -> None:
    array = np.ones(SIZE)
    with of_joblib.installed(store):
        results = run(pool_tasks.total, array, times=20, return_as=kind)
        assert next(results) == SIZE
        assert list(results) == [SIZE] * 19
        assert store.stats().puts == 1
        assert helpers.usage(store) == (0, 0, 0, 0)
        results = run(pool_tasks.echo, array, times=40, return_as=kind)
        assert next(results).sum() == SIZE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's own, of results that nobody took
            results.close()
        del results
        assert helpers.eventually(lambda: gc.collect() >= 0 and bool(store.recover()) is not None)
        assert run(pool_tasks.total, array) == [SIZE] * 4


@pytest.mark.parametrize("inner", ["threading", "loky"])
def test_nested_calls(store: refstore.Store, inner: str) -> None:
    array = np.ones(2 * SIZE)
    with of_joblib.installed(store):
        got = run(joblib_tasks.total_of_parts, array, inner, times=2)
        assert got == [2 * SIZE] * 2
        assert store.stats().puts == 1


# --- faults


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left_of_tasks_that_fail(store: refstore.Store, backend: str) -> None:
    array = np.ones(SIZE)
    refused = (array, pool_tasks.Refusing())
    # multiprocessing's pool waits for ever for the lock of a worker that it ends amid an answer
    times = 1 if backend == "multiprocessing" else 20
    with of_joblib.installed(store):
        with pytest.raises(ValueError, match="of 1600000 bytes"):
            run(pool_tasks.fail, array, times=times, backend=backend)
        with pytest.raises(LookupError, match="it does not want to"):
            run(pool_tasks.echo, refused, times=min(times, 4), backend=backend)
        assert helpers.usage(store) == (0, 0, 0, 0)
        assert run(pool_tasks.total, array, backend=backend) == [SIZE] * 4


def test_nothing_is_left_of_workers_that_are_killed(store: refstore.Store) -> None:
    array = np.ones(SIZE)
    with of_joblib.installed(store):
        for tasks in ([pool_tasks.kill_itself], [pool_tasks.echo] * 5 + [pool_tasks.kill_itself]):
            with pytest.raises(loky.process_executor.TerminatedWorkerError):
                joblib.Parallel(n_jobs=2)(joblib.delayed(task)(array) for task in tasks * 2)
            store.recover()
            gc.collect()
            assert helpers.usage(store) == (0, 0, 0, 0)
        assert run(pool_tasks.total, array) == [SIZE] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_whose_sender_was_killed_is_an_error_of_its_task(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    module: Any = importlib.import_module("refstore.joblib")
    take = module.take

    def too_late(parcel: Any) -> Any:
        store.clear()
        return take(parcel)

    monkeypatch.setattr(module, "take", too_late)
    with of_joblib.installed(store), pytest.raises(refstore.ObjectNotFoundError):
        run(pool_tasks.ones, SIZE, times=1, backend=backend)  # as above


PARENT = """
    import sys
    import numpy as np
    import pool_tasks, refstore, refstore.joblib
    from joblib import Parallel, delayed

    if __name__ == "__main__":
        store = refstore.Store(sys.argv[1])
        refstore.joblib.install(store)
        task = delayed(pool_tasks.say_and_wait)
        array = np.ones(200_000)
        Parallel(n_jobs=2, backend=sys.argv[2])(
            task(array, store, name) for name in ("first", "second")
        )
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parent_that_is_killed_leaves_nothing(
    store: refstore.Store, folder: Path, backend: str
) -> None:
    file = folder / "parent.py"
    file.write_text(textwrap.dedent(PARENT))
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path, "JOBLIB_TEMP_FOLDER": str(folder)}
    names = ["first", "second"]
    with subprocess.Popen(
        [sys.executable, str(file), store.path, backend], env=environment, stderr=subprocess.DEVNULL
    ) as parent:
        store.wait_any(names, count=2, timeout=helpers.BUSY_TIMEOUT)
        workers = [store[name].value["pid"] for name in names]
        parent.kill()
    store.recover()
    assert sorted(one.name or "" for one in store.objects() if one.state == "live") == names
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert helpers.eventually(lambda: all(map(_children.has_ended, workers)))
    file.unlink()


# --- what is installed


def test_a_parallel_outlives_what_was_installed(
    folder: Path, store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(folder))
    of_joblib.install(store)
    task = joblib.delayed(pool_tasks.total)
    with joblib.Parallel(n_jobs=2) as parallel:
        assert parallel(task(np.ones(SIZE)) for _ in range(4)) == [SIZE] * 4
        of_joblib.uninstall()
        assert parallel(task(np.ones(SIZE)) for _ in range(4)) == [SIZE] * 4
    assert store.stats().puts == 4


def test_it_is_installed_once(store: refstore.Store) -> None:
    before = dict(joblib.parallel.BACKENDS)
    of_joblib.install(store)
    with pytest.raises(RuntimeError, match="installed already: uninstall"):
        of_joblib.install()
    of_joblib.uninstall()
    of_joblib.uninstall()
    assert before == joblib.parallel.BACKENDS


def test_a_store_of_its_own_goes_when_it_is_uninstalled(
    folder: Path, store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with of_joblib.installed():
        assert run(pool_tasks.total, np.ones(SIZE)) == [SIZE] * 4
        assert len(helpers.stores(folder)) == 2
    assert helpers.stores(folder) == ["store"]
    loky.get_reusable_executor().shutdown(wait=True)
    with refstore.Store("another", create=True) as other:
        other.unlink()  # and with it the locks of the one that went before the workers


@pytest.mark.once("shows what its page shows")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/joblib.md", folder)
