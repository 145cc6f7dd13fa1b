"""Records for `logging`: which there are, and that nobody is told who did not ask."""

from __future__ import annotations

import logging

import helpers
import pytest
import workers
from helpers import child_process

import refstore


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "refstore"]


def test_making_and_attaching_are_told(folder, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
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
