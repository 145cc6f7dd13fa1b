"""Labels and commands: what other processes call this one, in whatever they ask."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import workers
from children import child_process

import refstore
from refstore import _identity
from refstore._looking import Look


@pytest.fixture(autouse=True)
def no_label(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("REFSTORE_LABEL", raising=False)
    yield
    refstore.label("")


def test_a_label_stands_before_the_command_in_all_reports(store: refstore.Store, path: str) -> None:
    with child_process(path) as child:
        command = child.do(workers.command)
        child.do(workers.set_label, "actor 3")
        ref = child.do(workers.put, b"x", "n")
        child.do(workers.hold, ref)
        named = f"actor 3: {command}"
        assert [one.command for one in store.holders()] == [named]
        assert store.info(ref).command == named
        with Look(path) as look:
            (seen,) = [one for one in look.processes() if one.pid == child.pid]
            assert (seen.label, seen.command) == ("actor 3", command)
        with pytest.raises(refstore.StoreFullError) as full:
            store.put(bytes(store.capacity))
        assert named in str(full.value)
        child.kill()
    store.recover()
    assert store.info(ref).command == named
    with Look(path) as look:
        assert [one.command for one in look.recoveries()] == [named]


def test_a_label_holds_for_what_was_opened_and_put_before(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with store.get(ref):
        for label in ("one", "a longer one", "two", ""):
            refstore.label(label)
            named = f"{label}: {plain()}" if label else plain()
            assert store.info(ref).command == named
            assert [one.command for one in store.holders()] == [named]


def plain() -> str:
    return " ".join(_identity.command().decode().split())


def test_a_label_holds_for_what_is_opened_after(make_store: object) -> None:
    refstore.label("early")
    with refstore.Store.temporary("1MiB") as store:
        assert store.info(store.put(b"x")).command.startswith("early: ")


def test_the_environment_labels_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_identity, "_given", None)
    monkeypatch.setenv("REFSTORE_LABEL", "from outside")
    with refstore.Store.temporary("1MiB") as store:
        ref = store.put(b"x")
        assert store.info(ref).command.startswith("from outside: ")
        refstore.label("from inside")
        assert store.info(ref).command.startswith("from inside: ")


def test_a_bad_label_in_the_environment_is_cleaned_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_identity, "_given", None)
    monkeypatch.setattr(_identity, "_warned_of", set())
    monkeypatch.setenv("REFSTORE_LABEL", "a\nb")
    says = "REFSTORE_LABEL must not hold control characters"
    with pytest.warns(refstore.RefstoreWarning, match=says):
        store = refstore.Store.temporary("1MiB")
    with store:
        assert store.info(store.put(b"x")).command.startswith("a?b: ")
    with pytest.raises(ValueError, match="a label must not hold control characters"):
        refstore.label("a\nb")


def test_a_forked_child_has_its_parents_label_until_it_sets_one(store: refstore.Store) -> None:
    refstore.label("parent")
    ref = store.put(b"x")
    with child_process(store, "fork") as child:
        child.do(workers.hold, ref)
        assert [one.command.partition(": ")[0] for one in store.holders()] == ["parent"]
        other = child.do(workers.put, b"y")
        assert store.info(other).command.startswith("parent: ")
        child.do(workers.set_label, "child")
        assert [one.command.partition(": ")[0] for one in store.holders()] == ["child"]
        assert store.info(other).command.startswith("child: ")
        assert store.info(ref).command.startswith("parent: ")
        assert store.info(ref).pid == os.getpid()


def test_a_long_label_is_cut_at_a_character(store: refstore.Store) -> None:
    refstore.label("ü" * 100)
    assert store.info(store.put(b"x")).command == f"{'ü' * 15}: {plain()}"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_that_is_given_a_store_is_called_by_its_name(
    store: refstore.Store, method: str
) -> None:
    with child_process(store, method) as child:
        child.do(workers.hold, store.put(b"x"))
        (holder,) = store.holders()
        assert holder.command == child.do(workers.command)
        assert holder.command.startswith(child.process.name)
