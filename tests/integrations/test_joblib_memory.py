"""`joblib.Memory` by way of a store: what is kept, shown, evicted and cleared."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import libraries
import numpy as np
import pytest

import refstore

joblib = libraries.Late("joblib")
of_joblib = libraries.Late("refstore.joblib")

pytestmark = libraries.needed("joblib")

SIZE = 100_000
calls: list[int] = []


def twice(number: int) -> Any:
    calls.append(number)
    return {"numbers": np.full(SIZE, 2.0 * number), "text": str(number)}


def octets(number: int) -> bytes:
    calls.append(number)
    return bytes([number]) * 10


@pytest.fixture(autouse=True)
def _nothing_called() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def memory(store: refstore.Store, **options: Any) -> Any:
    assert of_joblib.install  # whose module registers the name
    return joblib.Memory(store.path, backend="refstore", verbose=0, **options)


def test_a_result_is_made_once_and_shown_where_it_lies(store: refstore.Store, path: str) -> None:
    cached = memory(store, mmap_mode="r").cache(twice)
    assert not cached.check_call_in_cache(3)
    cached(3)
    result = cached(3)
    assert cached.check_call_in_cache(3)
    assert calls == [3]
    assert (result["text"], result["numbers"][0]) == ("3", 6)
    assert not result["numbers"].flags.writeable
    assert helpers.lies_in(path, helpers.address(result["numbers"]))


@pytest.mark.parametrize("mode", [None, "c"])
def test_a_result_may_be_written_and_stays_what_it_was(store: refstore.Store, mode: Any) -> None:
    cached = memory(store, mmap_mode=mode).cache(twice)
    cached(1)
    for _ in range(2):
        numbers = cached(1)["numbers"]
        assert numbers[0] == 2
        numbers[0] = 5
    assert calls == [1]


def test_bytes_stay_bytes(store: refstore.Store) -> None:
    cached = memory(store).cache(octets)
    assert [cached(7), cached(7)] == [b"\7" * 10] * 2
    assert type(cached(7)) is bytes


def test_another_process_finds_the_result(store: refstore.Store, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            import sys
            import joblib, refstore.joblib
            def work(number):
                print("works")
                return number + 1
            cached = joblib.Memory(sys.argv[1], backend="refstore", verbose=0).cache(work)
            if __name__ == "__main__":
                import work
                print(work.cached(41))
            """
        )
    )
    command = [sys.executable, "work.py", store.path]
    said = [
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert said == ["works\n42\n", "42\n"]


def test_what_is_cleared_is_made_again(store: refstore.Store) -> None:
    kept = memory(store)
    one, other = kept.cache(twice), kept.cache(octets)
    one(1), other(1), one(2)
    one.call_and_shelve(2).clear()
    assert not one.check_call_in_cache(2)
    assert one.check_call_in_cache(1)
    one.clear(warn=False)
    assert not one.check_call_in_cache(1)
    assert other.check_call_in_cache(1)
    kept.clear(warn=False)
    assert store.names() == []
    assert not other.check_call_in_cache(1)


def test_results_are_evicted_when_the_store_is_full(store: refstore.Store) -> None:
    cached = memory(store).cache(twice)
    for number in range(40):
        cached(number)
    assert calls == list(range(40))
    assert store.stats().evictions > 0
    assert cached(0)["numbers"][0] == 0
    assert store.check() == []


def test_the_oldest_go_when_the_size_is_reduced(store: refstore.Store) -> None:
    kept = memory(store)
    cached = kept.cache(twice)
    for number in range(4):
        cached(number)
    kept.reduce_size(bytes_limit=2.5 * SIZE * 8)
    assert [cached.check_call_in_cache(number) for number in range(4)] == [False, False, True, True]
    kept.reduce_size(age_limit=datetime.timedelta(0))
    assert not cached.check_call_in_cache(3)


def test_a_result_that_cannot_be_kept_is_returned(store: refstore.Store) -> None:
    cached = memory(store).cache(refused)
    with pytest.warns(Warning, match="not cached"):
        assert cached(1) is not None


def refused(number: int) -> Any:
    return lambda: number


def test_a_function_with_a_long_path(store: refstore.Store) -> None:
    def work(number: int) -> int:
        calls.append(number)
        return number

    work.__module__ = ".".join(["a_package_of_some_length"] * 12)
    cached = memory(store).cache(work)
    assert (cached(5), cached(5), calls) == (5, 5, [5])


@pytest.mark.parametrize("options", [{"mmap_mode": "r+"}, {"compress": True}])
def test_what_a_store_cannot_do_is_refused(store: refstore.Store, options: Any) -> None:
    with pytest.raises(ValueError, match=r"mmap_mode|compress"):
        memory(store, **options)


def test_the_store_is_made_as_asked(folder: Path) -> None:
    assert of_joblib.install
    path = str(folder / "results")
    kept = joblib.Memory(
        path, backend="refstore", verbose=0, backend_options={"capacity": "2MiB", "evict": "lru"}
    )
    kept.cache(twice)(1)
    with refstore.Store(path, create=False) as store:
        assert (store.capacity, store.evict) == (2 << 20, "lru")
        store.unlink()


def test_a_cached_function_goes_to_workers_with_its_store(store: refstore.Store) -> None:
    cached = memory(store, mmap_mode="r").cache(twice)
    again = pickle.loads(pickle.dumps(cached))
    assert helpers.forked(lambda: again(2)) == 0
    assert cached(2)["text"] == "2"
    assert calls == []
