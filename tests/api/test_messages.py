"""What the errors say: what was asked, what is the case, and what to do that helps."""

from __future__ import annotations

import errno
import math
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refstore
from refstore import _messages

MakeStore = Callable[..., refstore.Store]


def refusal(path: object, **options: Any) -> OSError:
    """The OSError of an opening that fails."""
    with pytest.raises(OSError, match=r"give|leave|without") as caught:
        refstore.Store(str(path), **options)
    error = caught.value
    assert error.filename == str(path)
    assert str(path) in str(error)
    return error


# --- opening


def test_a_store_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(folder / "absent", create=False)
    assert type(error) is FileNotFoundError
    assert error.errno == errno.ENOENT
    assert "there is no store at this path" in str(error)
    assert "refstore ls" not in str(error), "it lists no stores of other directories"
    assert "without create=False" in str(error)
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    error = refusal(folder / "absent", create=False)
    assert "no store named 'absent'; `" in str(error)
    assert "refstore ls` lists the existing ones; Store() without create=False" in str(error)


def test_an_unpickled_store_that_is_gone(store: refstore.Store, path: str) -> None:
    pickled = pickle.dumps(store)
    store.unlink()
    with pytest.raises(FileNotFoundError, match="there is no store at this path") as caught:
        pickle.loads(pickled)
    assert caught.value.filename == path
    assert "create=" not in str(caught.value)


@pytest.mark.parametrize("name", [5, b"name", None], ids=repr)
def test_what_is_no_name_of_a_store(name: Any) -> None:
    said = f"a store's name is a str or a path, not {type(name).__name__}$"
    with pytest.raises(TypeError, match=said):
        refstore.Store(name)


@pytest.mark.parametrize("create", [3, 1, "yes", np.True_], ids=repr)
def test_create_is_one_of_three(folder: Path, path: str, create: Any) -> None:
    with pytest.raises(TypeError, match=r"create is .*: it is True, False or None"):
        refstore.Store(path, create=create)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("create", [None, True, False])
def test_a_folder_that_is_not_there(folder: Path, create: bool | None) -> None:
    error = refusal(folder / "no" / "store", create=create)
    assert type(error) is FileNotFoundError
    assert f"no directory '{folder}/no'" in str(error)


def test_a_store_that_is_there(store: refstore.Store, path: str) -> None:
    error = refusal(path, create=True)
    assert type(error) is FileExistsError
    assert error.errno == errno.EEXIST
    assert "there is already a store of this name" in str(error)
    assert "create=True" in str(error)
    assert "remove" not in str(error)


def test_a_file_in_the_place_of_a_new_store(folder: Path) -> None:
    (folder / "text").write_text("no store")
    error = refusal(folder / "text", create=True)
    assert type(error) is FileExistsError
    assert "not a store has this name" in str(error)
    assert "remove" not in str(error)
    (folder / "text").unlink()


@pytest.mark.parametrize("create", [None, False])
def test_a_link_in_the_place_of_a_store(
    store: refstore.Store, folder: Path, create: bool | None
) -> None:
    (folder / "link").symlink_to("store")
    error = refusal(folder / "link", create=create)
    assert error.errno == errno.ELOOP
    assert "symbolic link" in str(error)
    assert repr(store.path) in str(error)
    (folder / "link").unlink()


@pytest.mark.parametrize("create", [None, False])
def test_a_folder_in_the_place_of_a_store(folder: Path, create: bool | None) -> None:
    (folder / "inner").mkdir()
    error = refusal(folder / "inner", create=create)
    assert type(error) is IsADirectoryError
    assert "a directory has this name" in str(error)
    (folder / "inner").rmdir()


@pytest.mark.parametrize("create", [None, True, False])
def test_a_file_on_the_way_to_a_store(folder: Path, create: bool | None) -> None:
    (folder / "text").touch()
    error = refusal(folder / "text" / "store", create=create)
    assert type(error) is NotADirectoryError
    assert "not a directory" in str(error)
    (folder / "text").unlink()


def deny(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """The system allows no opening of what begins so, as it does to others than root."""
    real = os.open

    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(prefix):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)


def test_a_store_that_may_not_be_opened(
    store: refstore.Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        deny(patch, path)
        error = refusal(path, create=False)
    assert type(error) is PermissionError
    assert f"it belongs to user {os.geteuid()} and has mode 600" in str(error)


@pytest.mark.parametrize("create", [None, True])
def test_a_folder_in_which_no_store_may_be_made(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, create: bool | None
) -> None:
    with monkeypatch.context() as patch:
        deny(patch, str(folder))
        real = os.open
        patch.setattr(os, "open", lambda *a, **k: absent(path) if a[0] == path else real(*a, **k))
        error = refusal(path, create=create, capacity="1MiB")
    assert type(error) is PermissionError
    assert f"its directory belongs to user {os.geteuid()} and has mode 700" in str(error)


def absent(path: str) -> int:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def test_a_sentence_of_the_engines_stays(path: str) -> None:
    error = OSError(errno.EACCES, "a sentence", path)
    assert _messages.of_path(path, error) is error
    busy = _messages.busy(path, 5, "a put")
    assert _messages.of_path(path, busy) is busy
    unheard_of = OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    assert _messages.of_path(path, unheard_of) is unheard_of


def test_another_users_store(store: refstore.Store, path: str) -> None:
    error = _messages.other_user(path, 5)
    assert "foreign=True" in str(error)
    assert "--foreign" in str(error)


@pytest.mark.parametrize("content", [b"", b"text", b"\1" * 10_000], ids=len)
def test_nobody_is_told_to_remove_what_never_was_a_store(folder: Path, content: bytes) -> None:
    (folder / "text").write_bytes(content)
    with pytest.raises(refstore.StoreCorruptedError, match="is not a store of refstore") as caught:
        refstore.Store(folder / "text")
    assert "give another name" in str(caught.value)
    assert "remove" not in str(caught.value)
    (folder / "text").unlink()


def test_nobody_is_told_to_remove_a_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        with pytest.raises((refstore.RefstoreError, OSError)) as caught:
            refstore.Store(folder / "socket")
    assert "remove" not in str(caught.value)
    (folder / "socket").unlink()


def test_a_store_that_was_damaged_can_be_removed(store: refstore.Store, folder: Path) -> None:
    (folder / "broken").write_bytes(Path(store.path).read_bytes()[: 1 << 16])
    with pytest.raises(refstore.StoreCorruptedError, match="truncated") as caught:
        refstore.Store(folder / "broken")
    text = str(caught.value)
    assert 0 < text.index("give another name") < text.index("remove it")
    (folder / "broken").unlink()


# --- REFSTORE_DIR


def refusal_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What both ways to make a store say where no store can be."""
    said = []
    with monkeypatch.context() as patch:
        patch.setenv("REFSTORE_DIR", str(folder))
        for make in (refstore.Store, refstore.Store.temporary):
            with pytest.raises(OSError, match="REFSTORE_DIR is") as caught:
                make(capacity="1MiB")
            said.append(str(caught.value))
    for text in said:
        assert f"REFSTORE_DIR is {str(folder)!r}" in text
        assert "set it to" in text or "set REFSTORE_DIR to" in text or "run: chmod" in text
    assert said[0] == said[1]
    return said[0]


def test_a_chosen_folder_that_holds_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "its file system" in refusal_of(Path("/proc"), monkeypatch)


def test_a_chosen_folder_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal_of(folder / "no" / "inner", monkeypatch)
    assert f"there is no '{folder}/no' to make it in" in said
    assert "takes no new files" in refusal_of(Path("/proc/absent"), monkeypatch)


def test_a_file_in_place_of_a_chosen_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "text").touch()
    assert "which is not a directory" in refusal_of(folder / "text", monkeypatch)
    assert "Not a directory" in refusal_of(folder / "text" / "x", monkeypatch)
    (folder / "text").unlink()


def test_a_chosen_folder_that_is_not_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    assert "which is open to other users" in refusal_of(folder / "open", monkeypatch)
    (folder / "open").rmdir()


def test_a_chosen_folder_that_may_not_be_written(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)

    with refstore.Store(path, capacity="1MiB") as store:
        engine = store._module
        store.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "make_file", forbidden)
        assert "Permission denied" in refusal_of(folder, monkeypatch)


def test_another_folder_is_not_put_down_to_refstore_dir(folder: Path) -> None:
    with pytest.raises(OSError, match=r"/proc.* file system|file system .*/proc") as caught:
        refstore.Store("/proc/store", capacity="1MiB")
    assert "REFSTORE_DIR" not in str(caught.value)
    assert "no store named" not in str(caught.value)


# --- a full store


def test_what_is_larger_than_the_capacity_needs_a_larger_store(store: refstore.Store) -> None:
    with pytest.raises(refstore.StoreFullError, match="more than the capacity") as caught:
        store.put(bytes(store.capacity + 5))
    assert f"a capacity of {store.capacity + 5} or more" in str(caught.value)
    assert "elete" not in str(caught.value)


def test_too_many_objects_need_a_larger_max_objects(make_store: MakeStore) -> None:
    store = make_store(max_objects=2)
    for number in range(2):
        store.put(number)
    with pytest.raises(
        refstore.StoreFullError, match=r"all 2 object slots \(max_objects\) are in use"
    ) as caught:
        store.put(3)
    assert "Delete objects, or make a store with a larger max_objects" in str(caught.value)
    assert "larger store" not in str(caught.value)


def test_what_is_being_written_comes_back_by_abort(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    with store.create(700_000), pytest.raises(refstore.StoreFullError) as caught:
        store.put(bytes(700_000))
    written = next(holder.bytes for holder in caught.value.holders)
    text = str(caught.value)
    assert f"Objects being written by create() hold {written} bytes" in text
    for way in ("abort()", "seal()", "`with`"):
        assert way in text
    with pytest.raises(refstore.StoreFullError) as caught:  # it is sealed
        store.put(bytes(700_000))
    assert "written by create()" not in str(caught.value)


def test_no_room_in_one_piece_comes_by_deleting(make_store: MakeStore) -> None:
    store = make_store("1MiB")
    kept = store.put(bytes(700_000))
    with pytest.raises(refstore.StoreFullError, match="no free extent") as caught:
        store.put(bytes(700_000))
    assert "Delete or release objects, or make a larger store" in str(caught.value)
    store.delete(kept)


# --- what is no object to put


WRAPS: list[Callable[[Any], object]] = [lambda it: it, lambda it: [it], lambda it: {"a": (it,)}]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("data", [b"abc", np.arange(3.0), {"a": 1}], ids=["b", "a", "o"])
def test_a_buffer_says_how_what_it_holds_is_put(
    store: refstore.Store, data: Any, wrap: Any
) -> None:
    before = store.stats().used
    with store.get(store.put(data, name="n")) as buf:
        with pytest.raises(TypeError, match=r"put\(buf\.value\).* put\(buf\.array\)"):
            store.put(wrap(buf))
        copy = store.get(store.put(buf.value, name="copy"))
        assert copy.kind == buf.kind
        assert bytes(copy) == bytes(buf)
        if buf.kind != "object":
            again = store.get(store.put(buf.array))
            assert bytes(again) == bytes(buf)
            store.delete(again.ref)
            again.release()
    copy.release()
    del store["n"], store["copy"]
    assert store.stats().used == before


def test_a_writer_says_how_what_it_holds_is_put(store: refstore.Store) -> None:
    with store.create(3) as writer:
        with pytest.raises(TypeError, match=r"seal it and send its ref; put\(w\.array\)"):
            store.put(writer)
        memoryview(writer)[:] = b"abc"
        assert bytes(store.get(store.put(writer.array))) == b"abc"


# --- timeouts


WAITS: dict[str, Callable[[refstore.Store, Any], object]] = {
    "put": lambda store, timeout: store.put(b"x", timeout=timeout),
    "create": lambda store, timeout: store.create(1, timeout=timeout),
    "get": lambda store, timeout: store.get("there", timeout=timeout),
}


@pytest.mark.parametrize("use", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize(
    ("timeout", "error", "said"),
    [
        ("a", TypeError, "timeout is 'a': give seconds, or None, not str"),
        ([], TypeError, "not list"),
        (1j, TypeError, "not complex"),
        (-1, ValueError, "timeout is -1: it cannot be negative"),
        (-0.5, ValueError, "timeout is -0.5"),
        (math.nan, ValueError, "nor NaN"),
        pytest.param(-(10**400), ValueError, "it cannot be negative", id="-10**400"),
    ],
    ids=repr,
)
def test_a_timeout_is_seconds(
    store: refstore.Store, use: Any, timeout: Any, error: type[Exception], said: str
) -> None:
    store.put(b"y", name="there")
    with pytest.raises(error, match=said):
        use(store, timeout)
    assert len(store) == 1


@pytest.mark.parametrize("use", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("timeout", [0, 0.0, False, np.float32(0)], ids=repr)
def test_every_zero_is_no_wait(store: refstore.Store, use: Any, timeout: Any) -> None:
    store.put(b"y", name="there")
    use(store, timeout)
    with pytest.raises(refstore.ObjectNotFoundError):
        store.get("missing", timeout=timeout)


@pytest.mark.parametrize("use", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("timeout", [0.5, math.inf, None, np.float32(1), 2**70, 10**400], ids=type)
def test_a_timeout_does_not_matter_to_what_need_not_wait(
    store: refstore.Store, use: Any, timeout: Any
) -> None:
    store.put(b"y", name="there")
    use(store, timeout)


# --- names that are taken


def test_a_name_that_is_taken_says_what_helps(store: refstore.Store) -> None:
    store.put(b"x", name="n")
    for use in (lambda: store.put(b"y", name="n"), lambda: store.create(1, name="n")):
        with pytest.raises(refstore.ObjectExistsError, match="give replace=True or another name"):
            use()


def test_a_seal_under_a_name_taken_meanwhile_says_what_is_lost(
    store: refstore.Store,
) -> None:
    used = store.stats().used
    writer = store.create(1000, name="n")
    ref = store.put(b"x", name="n")
    with pytest.raises(
        refstore.ObjectExistsError, match="are discarded: write them again"
    ) as caught:
        writer.seal()
    assert "create(replace=True), or under another name" in str(caught.value)
    assert caught.value.key == "n"
    assert caught.value.__suppress_context__
    assert writer.closed
    store.delete(ref)
    del writer, caught
    assert store.stats().used == used


# --- keys


KEYS: dict[str, Callable[[refstore.Store, Any], object]] = {
    "get": lambda store, key: store.get(key),
    "delete": lambda store, key: store.delete(key),
    "refcount": lambda store, key: store.refcount(key),
    "holders": lambda store, key: store.holders(key),
    "[]": lambda store, key: store[key],
}


@pytest.mark.parametrize("use", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("key", [5, b"name", np.str_, ("a",)], ids=repr)
def test_what_is_no_key(store: refstore.Store, use: Any, key: object) -> None:
    with pytest.raises(TypeError, match="give an ObjectRef or a name") as caught:
        use(store, key)
    assert type(key).__name__ in str(caught.value)


NAMINGS: dict[str, Callable[[refstore.Store, Any], object]] = {
    "put": lambda store, name: store.put(b"", name=name),
    "create": lambda store, name: store.create(1, name=name),
    "[]=": lambda store, name: store.__setitem__(name, b""),
}


@pytest.mark.parametrize("use", NAMINGS.values(), ids=NAMINGS.keys())
@pytest.mark.parametrize("name", [3, b"name", b"0123456789abcdef"], ids=repr)
def test_what_is_no_name(store: refstore.Store, use: Any, name: object) -> None:
    with pytest.raises(TypeError, match=f"^a name is a str, not {type(name).__name__}$"):
        use(store, name)
    assert len(store) == 0


def test_none_in_brackets_is_no_name(store: refstore.Store) -> None:
    with pytest.raises(TypeError, match="a name is a str, not NoneType"):
        store[None] = b"x"  # type: ignore[index]
    assert len(store) == 0


@pytest.mark.parametrize("use", KEYS.values(), ids=KEYS.keys())
def test_the_bytes_of_a_ref_are_no_key(store: refstore.Store, use: Any) -> None:
    with pytest.raises(TypeError, match=r"ObjectRef\(raw\)"):
        use(store, bytes(store.put(b"x")))


def test_brackets_take_no_ref(store: refstore.Store) -> None:
    ref = store.put(b"x")
    with pytest.raises(TypeError, match=r"use get\(ref\)"):
        store[ref]  # type: ignore[index]
    with pytest.raises(TypeError, match="takes a name"):
        store[ref] = b"y"  # type: ignore[index]
    with pytest.raises(TypeError, match=r"delete\(ref\)"):
        del store[ref]  # type: ignore[arg-type]
    assert bytes(store.get(ref)) == b"x"


@pytest.mark.parametrize("use", KEYS.values(), ids=KEYS.keys())
def test_a_lone_surrogate_is_no_name(store: refstore.Store, use: Any) -> None:
    with pytest.raises(ValueError, match="lone surrogate") as caught:
        use(store, "a\ud800")
    assert r"'a\ud800'" in str(caught.value)
