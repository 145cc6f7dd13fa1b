"""`Store(pickler=, allow_pickle=)` and `register_serializer()`."""

from __future__ import annotations

import asyncio
import gc
import io
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore import aio, mapping, shared
from refstore.payload import arrays

FEW, MANY = 10, 5000  # bytes in the pickle, and beside it


class Picklers(io.StringIO):
    """As a module that has a Pickler: one that can pickle locks, as their kind."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return (threading.Lock, ()) if type(obj) is type(threading.Lock()) else NotImplemented


class InPython(pickle._Pickler):
    """As dill's, which looks into the dispatch table by get()."""


@pytest.fixture
def wary(store: refstore.Store) -> Iterator[refstore.Store]:
    with refstore.Store(store.path, create=False, allow_pickle=False) as opened:
        yield opened


def by(store: refstore.Store, pickler: Any) -> refstore.Store:
    return refstore.Store(store.path, create=False, pickler=pickler)


def set_item(store: refstore.Store, obj: Any) -> refstore.ObjectRef:
    store["set"] = obj
    return store.ref("set")


PUTS: dict[str, Callable[[refstore.Store, Any], refstore.ObjectRef]] = {
    "put": lambda store, obj: store.put(obj),
    "put many": lambda store, obj: store.put_many([b"first", obj])[1],
    "get or put": lambda store, obj: store.get_or_put("made", lambda: obj).ref,
    "by name": set_item,
    "aio": lambda store, obj: asyncio.run(aio.put(store, obj)),
}
GETS: dict[str, Callable[[refstore.Store, str], refstore.PinnedBuffer]] = {
    "get": lambda store, name: store.get(name),
    "to write": lambda store, name: store.get(name, writable=True),
    "get many": lambda store, name: store.get_many([name])[0],
    "wait": lambda store, name: store.wait(name),
    "get or put": lambda store, name: store.get_or_put(name, bytes),
    "by name": lambda store, name: store[name],
    "aio": lambda store, name: asyncio.run(aio.get(store, name)),
}


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("pickler", [Picklers, Picklers.Pickler])
def test_a_pickler_of_ones_own_pickles(store: refstore.Store, pickler: Any, put: str) -> None:
    numbers = np.arange(1000.0)
    with by(store, pickler) as own, store.get(PUTS[put](own, [threading.Lock(), numbers])) as buf:
        lock, back = buf.value
        assert type(lock) is type(threading.Lock())
        assert np.shares_memory(back, helpers.flat(buf))
        del back
    with pytest.raises(TypeError, match="pickle"):
        store.put(threading.Lock())


def test_a_pickler_in_python_pickles_arrays_in_place(store: refstore.Store) -> None:
    numbers = np.arange(1000.0)
    with by(store, InPython) as own, own.get(own.put({"a": numbers, "b": [numbers[:5]]})) as buf:
        value = buf.value
        assert value["a"].tolist() == numbers.tolist()
        assert np.shares_memory(value["a"], helpers.flat(buf))
        del value


def test_cloudpickle_pickles_what_pickle_cannot(store: refstore.Store) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    with by(store, cloudpickle) as own:
        ref = own.put({"add": lambda x: x + 1, "numbers": np.arange(1000.0)})
    with store.get(ref) as buf:
        value = buf.value
        assert value["add"](2) == 3
        assert not value["numbers"].flags.owndata
        del value


class InMemory(pickle.Pickler):
    """As multiprocessing's, which is not made as pickle's."""

    def __init__(self, file: Any, protocol: int) -> None:
        super().__init__(file, protocol)


@pytest.mark.parametrize("wrong", [3, "cloudpickle", pickle.dumps, dict, InMemory])
def test_what_is_no_pickler_is_refused(path: str, wrong: Any) -> None:
    makers: tuple[Callable[..., refstore.Store], ...] = (
        partial(refstore.Store, path),
        refstore.Store.temporary,
    )
    for make in makers:
        with pytest.raises(TypeError, match="pickler is"):
            make(pickler=wrong)


@pytest.mark.parametrize("put", PUTS)
def test_a_store_that_pickles_nothing_refuses_objects(wary: refstore.Store, put: str) -> None:
    for obj in ({"a": 1}, np.array([None]), "text"):
        with pytest.raises(ValueError, match="allow_pickle=False"):
            PUTS[put](wary, obj)
    assert len(wary) == 0
    for plain in (b"bytes", bytearray(5), np.arange(3)):
        wary.delete(PUTS[put](wary, plain))


@pytest.mark.parametrize("get", GETS)
def test_a_store_that_pickles_nothing_unpickles_nothing(
    store: refstore.Store, wary: refstore.Store, get: str
) -> None:
    store["object"], store["array"] = ["unpickled"], np.zeros(3, "i4,f8")
    with GETS[get](wary, "object") as buf:
        assert b"unpickled" in bytes(buf)
        with pytest.raises(ValueError, match="allow_pickle=False"):
            _ = buf.value
    with GETS[get](wary, "array") as buf:
        assert buf.value.dtype == np.dtype("i4,f8")
    assert helpers.is_unpinned(store)
    with GETS[get](store, "object") as buf:
        assert buf.value == ["unpickled"]


def test_a_dtype_that_is_not_numpys_own_is_not_unpickled(
    store: refstore.Store, wary: refstore.Store
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    store["array"] = np.zeros(3, ml_dtypes.bfloat16)
    for get in GETS.values():
        with pytest.raises(ValueError, match="dtype"):
            get(wary, "array")
    assert helpers.is_unpinned(store)


class Crafted:
    """Comes out of its pickle as a dtype that numpy would not make, and reads where it must not."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, (self.state[0], False, True), self.state[1:]


CRAFTED = {
    "a pointer in a field": Crafted("V8", 3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0),
    "a field outside": Crafted(
        "V8", 3, "|", None, ("a",), {"a": (np.dtype("i8"), 1 << 40)}, 8, 1, 0
    ),
    "a pointer": Crafted("O8", 3, "|", None, None, None, -1, -1, 0),
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_dtype_that_numpy_would_not_make_is_refused(crafted: str) -> None:
    dtype = pickle.loads(pickle.dumps(CRAFTED[crafted]))
    assert not arrays.is_numpys_own(dtype)
    assert arrays.names_code(b"\0p" + pickle.dumps(CRAFTED[crafted]))


@pytest.mark.parametrize(
    "dtype",
    [
        "i4,f8",
        np.dtype((np.record, [("a", "M8[s]"), ("b", "U3", (2, 2))])),
        np.dtype([("a", ">i4"), ("b", [("c", "S5"), ("d", "V3")])], align=True),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2], "itemsize": 9}),
    ],
)
def test_all_dtypes_of_numpy_go_without_pickles(wary: refstore.Store, dtype: Any) -> None:
    array = np.zeros(3, dtype)
    with wary.get(wary.put(array)) as buf:
        assert buf.array.dtype == array.dtype
        again = wary.create(buf.nbytes, header=buf.header)
    again.abort()


def test_a_dtype_that_names_code_is_refused_before_it_is_stored(
    store: refstore.Store, wary: refstore.Store
) -> None:
    dtype = np.dtype("i4", metadata={"x": threading})
    noted: Any = np.dtype("i4", metadata={"x": int})
    header = store.get(store.put(np.zeros(3, noted))).header
    for refused in (
        lambda: wary.put(np.zeros(3, dtype)),
        lambda: wary.create(shape=3, dtype=dtype),
        lambda: wary.create(12, header=header),
    ):
        with pytest.raises(ValueError, match="allow_pickle=False"):
            refused()
    assert len(wary) == 1


class LastLook:
    def __init__(self, buf: refstore.PinnedBuffer, seen: list[Any]) -> None:
        self.me, self.buf, self.seen = self, buf, seen

    def __del__(self) -> None:
        try:
            self.seen.append(self.buf.value)
        except ValueError as error:
            self.seen.append(error)


def test_a_finalizer_unpickles_nothing_either(store: refstore.Store, wary: refstore.Store) -> None:
    store["object"] = ["unpickled"]
    seen: list[Any] = []
    LastLook(wary.get("object"), seen)
    gc.collect()
    assert [type(one) for one in seen] == [ValueError]


def test_rules_and_tracking_go_together(store: refstore.Store) -> None:
    with refstore.Store(store.path, create=False, track=True, pickler=Picklers) as own:
        ref = own.put(threading.Lock())
        with own.get(ref) as buf:
            (holder,) = own.holders(ref)
            assert "test_pickling_rules.py" in str(holder.put_at)
            assert "test_pickling_rules.py" in holder.pinned_at[0]
            assert buf.kind == "object"
    with refstore.Store(store.path, create=False, track=True, allow_pickle=False) as own:
        own.create(5).abort()
        with pytest.raises(ValueError, match="allow_pickle=False"):
            own.put({})


def test_shared_collections_are_not_unpickled(store: refstore.Store, wary: refstore.Store) -> None:
    shared.SharedList.put(store, [{"a": 1}], name="list")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        shared.SharedList(wary, "list")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        shared.SharedDict.put(wary, {"a": 1})
    view: Any = mapping.StoreMapping(wary)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        view["a"] = {}


def test_the_rules_go_with_the_store(store: refstore.Store, wary: refstore.Store) -> None:
    store["object"] = {}
    with pickle.loads(pickle.dumps(wary)) as again, again.get("object") as buf:
        with pytest.raises(ValueError, match="allow_pickle=False"):
            again.put({})
        with pytest.raises(ValueError, match="allow_pickle=False"):
            _ = buf.value
    with by(store, Picklers.Pickler) as own, pickle.loads(pickle.dumps(own)) as again:
        again.put(threading.Lock())


def test_a_subclass_with_an_init_of_its_own_says_that_it_takes_none(path: str) -> None:
    class Named(refstore.Store):
        def __init__(self) -> None:
            super().__init__(path, capacity="1MiB", allow_pickle=False)

    with pytest.raises(refstore.RefstoreError, match="allow_pickle"):
        Named()


# --- serializers


class Text:
    def __init__(self, octets: Any) -> None:
        self.octets = octets


class Subclass(Text):
    pass


@pytest.fixture
def _registered() -> None:
    refstore.register_serializer(Text, lambda text: text.octets, Text)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("size", [0, FEW, MANY])
def test_a_registered_type_goes_by_its_functions(store: refstore.Store, size: int) -> None:
    data = helpers.pattern(5, size)
    ref = store.put({"one": Text(data), "other": [Text(bytearray(data))]})
    with store.get(ref) as buf:
        value = buf.value
        for text in (value["one"], value["other"][0]):
            assert bytes(text.octets) == data
            assert (type(text.octets) is memoryview) == (size == MANY)
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert bytes(value["one"].octets) == data  # which pins it
    del value, text
    helpers.assert_full_capacity_fits(store)


@pytest.mark.usefixtures("_registered")
def test_a_registration_is_of_the_type_alone(store: refstore.Store) -> None:
    with store.get(store.put([Subclass([1]), Subclass])) as buf:
        one, cls = buf.value
    assert (type(one), one.octets, cls) == (Subclass, [1], Subclass)


def always(data: bytes) -> Callable[[object], bytes]:
    return lambda _: data


def test_the_last_registration_holds(store: refstore.Store) -> None:
    for mark in (b"a", b"b"):
        refstore.register_serializer(Text, always(mark), Text)
        with store.get(store.put(Text(b""))) as buf:
            assert buf.value.octets == mark


def test_the_bytes_come_in_c_order_whatever_the_size(store: refstore.Store) -> None:
    refstore.register_serializer(Text, lambda text: text.octets, Text)
    for size in (3, 50):
        array = np.asfortranarray(np.arange(size * size).reshape(size, size))
        with store.get(store.put(Text(array))) as buf:
            assert bytes(buf.value.octets) == array.tobytes()


def test_a_class_of_the_main_program_goes_to_its_children(path: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            import refstore
            class Box:
                def __init__(self, octets):
                    self.octets = octets
            refstore.register_serializer(Box, lambda box: box.octets, lambda data: Box(bytes(data)))
            def work(store):
                box = store["to"].value
                assert type(box) is Box
                store["back"] = Box(box.octets * 2)
            if __name__ == "__main__":
                with refstore.Store(sys.argv[1], capacity="1MiB") as store:
                    store["to"] = Box(b"ab")
                    child = multiprocessing.get_context("spawn").Process(target=work, args=(store,))
                    child.start()
                    child.join()
                    print(store["back"].value.octets)
                    store.unlink()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program), path], check=True, capture_output=True, text=True
    )
    assert done.stdout == "b'abab'\n"


def test_structures_of_msgspec(store: refstore.Store) -> None:
    msgspec = pytest.importorskip("msgspec")
    order = msgspec.defstruct("Order", [("number", int), ("items", list[str])])
    decode = msgspec.msgpack.Decoder(order).decode
    refstore.register_serializer(order, msgspec.msgpack.encode, decode)
    orders = [order(1, ["a"]), order(2, ["b" * MANY])]
    with store.get(store.put(orders)) as buf:
        assert buf.value == orders


def test_a_reader_without_the_registration_is_told(store: refstore.Store, path: str) -> None:
    helpers.run_clean(
        """
        import sys, refstore
        class Text:
            pass
        refstore.register_serializer(Text, lambda text: b"", lambda data: Text())
        with refstore.Store(sys.argv[1], create=False) as store:
            store["text"] = Text()
        """,
        path,
    )
    with (
        store.get("text") as buf,
        pytest.raises(refstore.RefstoreError, match=r"__main__\.Text.*register_serializer"),
    ):
        _ = buf.value


def test_the_module_of_the_type_registers_it_where_it_is_read(
    store: refstore.Store, tmp_path: Path, path: str
) -> None:
    (tmp_path / "texts.py").write_text(
        "import refstore\n"
        "class Text: pass\n"
        "refstore.register_serializer(Text, lambda text: b'', lambda data: Text())\n"
    )
    source = """
        import sys, refstore
        sys.path.append(sys.argv[2])
        with refstore.Store(sys.argv[1], create=False) as store:
            if sys.argv[3] == "put":
                import texts
                store["text"] = texts.Text()
            else:
                assert type(store["text"].value).__module__ == "texts"
        """
    for act in ("put", "get"):
        helpers.run_clean(source, path, tmp_path, act)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("Text", bytes, bytes), TypeError, "is none"),
        ((dict, bytes, bytes), ValueError, "one way"),
        ((types.FunctionType, bytes, bytes), ValueError, "one way"),
        ((type, bytes, bytes), ValueError, "one way"),
        ((np.ndarray, bytes, bytes), ValueError, "one way"),
        ((Text, 1, bytes), TypeError, "dumps is"),
        ((Text, bytes, None), TypeError, "loads is"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(
    arguments: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        refstore.register_serializer(*arguments)


def test_a_serializer_that_returns_no_buffer_is_told(store: refstore.Store) -> None:
    refstore.register_serializer(Text, lambda text: "text", Text)
    with pytest.raises(TypeError, match="Text is to return bytes"):
        store.put([Text(b"")])
    assert len(store) == 0
