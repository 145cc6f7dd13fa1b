"""The exceptions: their words, their keys, and that they travel."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import traceback
from typing import Any

import pytest

import refstore


def test_a_missing_name_is_said_in_plain_words(store: refstore.Store) -> None:
    with pytest.raises(refstore.ObjectNotFoundError) as caught:
        store.get("some name")
    text = str(caught.value)
    assert "some name" in text
    assert not text.startswith(("'", '"')), "a KeyError shows the repr of its message"


class Mine(refstore.ObjectNotFoundError):
    def __init__(self, message: str) -> None:
        pass  # what Python sets before is all that it has


class Both(refstore.ObjectNotFoundError, FileNotFoundError):
    """A program's own, for those who expect the one or the other."""


def missing(store: refstore.Store) -> refstore.ObjectNotFoundError:
    with pytest.raises(refstore.ObjectNotFoundError) as caught:
        store.get("m")
    return caught.value


def test_the_message_is_there_whoever_asks_for_it_first(store: refstore.Store) -> None:
    text = str(missing(store))
    assert missing(store).args == (text,)
    assert repr(missing(store)) == f"ObjectNotFoundError({text!r})"
    assert "".join(traceback.format_exception(missing(store))).endswith(f"Error: {text}\n")
    for back in (pickle.loads(pickle.dumps(missing(store))), copy.copy(missing(store))):
        assert (back.args, back.key) == ((text,), "m")
    with pytest.raises(Mine, match="gone"):
        raise Mine("gone")
    with pytest.raises(FileNotFoundError):
        raise Both("gone", key="m")
    error = missing(store)
    error.key = "another"
    assert str(error) == text
    error = missing(store)
    error.args = ("mine",)
    assert (str(error), error.args) == ("mine", ("mine",))


class OfAnotherTask(RuntimeError):
    """An error of a library that hands on what happened elsewhere, with that as its cause."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        self.args = (cause,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cause, name)


def test_an_error_that_is_two_at_once_tells_the_key_of_its_cause(store: refstore.Store) -> None:
    dual = type("Dual", (OfAnotherTask, refstore.ObjectNotFoundError), {})(missing(store))
    assert dual.key == "m"


class WithoutKey(refstore.ObjectNotFoundError):
    def __init__(self) -> None:
        self.args = ("of its own",)


def test_an_error_without_a_key_has_none() -> None:
    for error in (WithoutKey(), refstore.ObjectNotFoundError.__new__(refstore.ObjectNotFoundError)):
        assert getattr(error, "key", None) is None
        with pytest.raises(AttributeError, match="has no attribute 'key'"):
            error.key  # noqa: B018
    assert str(WithoutKey()) == "of its own"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a cached property has a lock there")
def test_a_key_is_the_key_though_another_thread_asks_for_the_message(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = missing(store)
    look = type(error).__dict__["key"].func

    def look_late(error: refstore.ObjectNotFoundError) -> Any:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=str, args=(error,))
            other.start()
            other.join()
        return look(error)

    monkeypatch.setattr(type(error).__dict__["key"], "func", look_late)
    assert error.key == "m"


def test_a_missing_ref_is_said_in_hex(store: refstore.Store) -> None:
    ref = store.put(b"x")
    store.delete(ref)
    with pytest.raises(refstore.ObjectNotFoundError) as caught:
        store.get(ref)
    assert ref.hex() in str(caught.value)


def test_errors_travel_between_processes(store: refstore.Store) -> None:
    store["n"] = b"x"
    caught: list[BaseException] = []
    for call in (lambda: store.get("m"), lambda: store.put(b"y", name="n")):
        with pytest.raises(refstore.RefstoreError) as info:
            call()
        caught.append(info.value)
    for error in caught:
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)


def test_an_error_about_an_object_has_its_key(store: refstore.Store) -> None:
    ref = store.put(b"x", name="n")
    with pytest.raises(refstore.ObjectExistsError) as taken:
        store.put(b"y", name="n")
    assert taken.value.key == "n"
    store.delete(ref)
    for key in ("n", ref):
        for use in (store.get, store.delete, store.refcount, store.holders):
            with pytest.raises(refstore.ObjectNotFoundError) as missing:
                use(key)
            assert missing.value.key == key
    with refstore.Store.temporary("1MiB") as other:
        with pytest.raises(refstore.ObjectNotFoundError, match="another store") as foreign:
            other.get(ref)
        assert foreign.value.key == ref
    back = pickle.loads(pickle.dumps(foreign.value))
    assert (back.key, str(back)) == (ref, str(foreign.value))


@pytest.mark.parametrize("call", ["get", "delete", "ref", "refcount", "info", "adopt", "disown"])
def test_none_is_no_key(store: refstore.Store, call: str) -> None:
    with pytest.raises(TypeError, match="a name is a str, not NoneType"):
        getattr(store, call)(None)
