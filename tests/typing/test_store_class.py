"""`Store` as a class: what it says that it takes, and what it is in a condition."""

from __future__ import annotations

import gc
import inspect
import pydoc
import re
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import refstore

if TYPE_CHECKING:
    from typing_extensions import assert_type

TAKES = [
    *("name", "capacity", "max_objects", "create", "backend", "evict", "mode", "foreign", "track"),
    *("pickler", "allow_pickle"),
]


class Narrow(refstore.Store):
    """A subclass that takes something else."""

    def __init__(self, file: str) -> None:
        super().__init__(file, capacity="1MiB")


class Plain(refstore.Store):
    """A subclass that takes the same."""


if TYPE_CHECKING:  # mypy is the test

    def types(plain: Plain) -> None:
        with plain as entered:
            assert_type(entered, Plain)
        assert_type(Plain.temporary(), Plain)
        assert_type(Plain("a", backend="native"), Plain)
        refstore.Store(backend="nativ")  # type: ignore[arg-type]


@pytest.mark.once("opens no store")
@pytest.mark.parametrize("cls", [refstore.Store, Plain])
def test_the_signature_is_the_constructors(cls: type[refstore.Store]) -> None:
    signature = inspect.signature(cls)
    assert list(signature.parameters) == TAKES
    assert signature.parameters["mode"].default == 0o600
    assert signature.parameters["create"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.once("opens no store")
def test_a_subclass_says_what_it_takes_itself() -> None:
    assert str(inspect.signature(Narrow)) == "(file: 'str')"


@pytest.mark.once("opens no store")
def test_help_shows_the_parameters() -> None:
    text = pydoc.plain(pydoc.render_doc(refstore.Store)).replace("|", "")
    head = " ".join(text.split("A store on")[0].split())  # some Pythons give each its own line
    assert re.search(r"Store\( ?name: ", head)
    assert "capacity: " in head


def test_a_stores_own_class_says_the_same(store: refstore.Store) -> None:
    assert list(inspect.signature(type(store)).parameters) == TAKES


def test_an_empty_store_is_true(store: refstore.Store) -> None:
    assert len(store) == 0
    assert store
    ref = store.put(b"x")
    assert store
    store.delete(ref)
    store.close()
    assert store, "nor does a closed one make way for another"


def test_a_subclass_may_be_false_if_it_likes(path: str) -> None:
    class Moody(refstore.Store):
        def __bool__(self) -> bool:
            return False

    with Moody(path, capacity="1MiB") as store:
        assert not store
        store.unlink()


def test_a_class_that_nobody_uses_any_more_is_collected(path: str) -> None:
    class Brief(refstore.Store):
        """Made for one store."""

    with Brief(path, capacity="1MiB") as store:
        assert type(store) is type(Brief(path))
        store.unlink()
    classes = [weakref.ref(Brief), weakref.ref(type(store))]
    del Brief, store
    gc.collect()
    assert [cls() for cls in classes] == [None, None]


def test_temporary_makes_one_of_the_same_class(folder: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with Plain.temporary("1MiB") as store:
        assert isinstance(store, Plain)


@pytest.mark.once("a program of its own")
def test_python_without_docstrings_has_a_store() -> None:
    script = "import refstore; refstore.Store.temporary(capacity='1MiB').close()"
    for options in ("-O", "-OO"):
        done = subprocess.run(
            [sys.executable, options, "-W", "error", "-c", script], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
