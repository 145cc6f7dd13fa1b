"""Records for `logging`: which there are, and that nobody is told who did not ask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import helpers
import pytest
import workers
from children import child_process

import refstore


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "refstore"]


def test_making_and_attaching_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "refstore")
    path = str(folder / "store")
    with refstore.Store(path, capacity="1MiB", max_objects=100) as store:
        made = ("INFO", f"made store {path!r}, capacity 1048576, max_objects 100")
        attached = ("INFO", f"attached to store {path!r}, of the {store.backend} engine")
        assert records(caplog) == [made, attached]
        with refstore.Store(path):
            assert records(caplog) == [made, attached, attached]
        store.unlink()


def test_a_full_store_is_told(store: refstore.Store, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(refstore.StoreFullError) as caught:
        store.put(bytes(store.capacity + 1))
    assert ("WARNING", str(caught.value)) in records(caplog)


def test_a_recovery_is_told(store: refstore.Store, caplog: pytest.LogCaptureFixture) -> None:
    ref = store.put(b"x")
    with child_process(store.path) as child:
        child.do(workers.hold, ref)
        child.kill()
        assert store.recover()
        (told,) = [text for level, text in records(caplog) if level == "WARNING"]
        assert str(child.pid) in told


def test_the_calls_that_are_called_often_tell_nothing(
    store: refstore.Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1, "refstore")
    ref = store.put(b"x", name="n")
    with store.get(ref):
        store.delete("n")
    assert records(caplog) == []


def wait_for_a_name(store: refstore.Store) -> None:
    with pytest.raises(refstore.GetTimeoutError):
        store.get("absent", timeout=1.5)


def wait_for_names(store: refstore.Store) -> None:
    with pytest.raises(refstore.GetTimeoutError):
        store.wait_any(["absent", "missing"], timeout=1.5)


def wait_for_room(store: refstore.Store) -> None:
    with (
        child_process(store.path),
        store.get(store.put(bytes(12 << 20))),
        pytest.raises(refstore.StoreFullError),
    ):
        store.put(bytes(8 << 20), timeout=1.5)


def wait_for_a_maker(store: refstore.Store) -> None:
    with child_process(store.path) as child:
        child.do(workers.claim, 100, "made")
        with pytest.raises(refstore.GetTimeoutError):
            store.get_or_put("made", lambda: b"x", timeout=1.5)


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (wait_for_a_name, "get('absent')"),
        (wait_for_names, "wait_any() of 2 names"),
        (wait_for_room, "a put of 8388608 bytes"),
        (wait_for_a_maker, "get_or_put('made')"),
    ],
    ids=["name", "names", "room", "maker"],
)
def test_a_long_wait_is_told_once(
    store: refstore.Store, caplog: pytest.LogCaptureFixture, wait: Callable[..., None], what: str
) -> None:
    caplog.set_level(logging.INFO, "refstore")
    wait(store)
    told = [text for _, text in records(caplog) if "has waited" in text]
    assert told == [f"{what} has waited for a second in store {store.path!r}"]


def test_a_short_wait_is_not_told(store: refstore.Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "refstore")
    with pytest.raises(refstore.GetTimeoutError):
        store.get("absent", timeout=0.1)
    assert records(caplog) == []


def test_nobody_is_told_who_did_not_ask(engine: str) -> None:
    script = """
        import sys, refstore
        store = refstore.Store.temporary("1MiB")
        try:
            store.put(bytes(2 << 20))
        except refstore.StoreFullError:
            pass
        store.close()
    """
    assert helpers.run_clean(script) == ""


@pytest.mark.once("opens no store")
def test_logging_is_not_imported_for_nothing() -> None:
    assert helpers.run_clean("import refstore, sys; print('logging' in sys.modules)") == "False"


def test_what_waits_tells_of_a_full_store_once(
    store: refstore.Store, caplog: pytest.LogCaptureFixture
) -> None:
    with child_process(store.path), store.get(store.put(bytes(12 << 20))):
        for timeout in (0.0, 0.2):
            with pytest.raises(refstore.StoreFullError):
                store.put(bytes(8 << 20), timeout=timeout)
    assert len(records(caplog)) == 1


def test_evictions_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "refstore")
    path = str(folder / "cache")
    with refstore.Store(path, capacity="1MiB", max_objects=100, evict="lru") as store:
        for _ in range(200):
            store.put(bytes(10_000))
        told = [one for one in records(caplog) if "evicted" in one[1]]
        assert told == [("INFO", f"evicted 1 object from store {path!r}")]
        store.unlink()


def test_a_recovery_by_the_way_is_told(
    store: refstore.Store, caplog: pytest.LogCaptureFixture
) -> None:
    ref = store.put(bytes(12 << 20))
    with child_process(store.path) as child:
        child.do(workers.hold, ref)
        store.delete(ref)
        child.kill()
        store.put(bytes(12 << 20))
    assert records(caplog) == [
        ("WARNING", f"recovered what 1 dead process held in store {store.path!r}")
    ]
