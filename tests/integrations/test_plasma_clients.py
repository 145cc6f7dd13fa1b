"""`refstore.plasma` beside the store: what Arrow's own tests do not ask."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arrow_workers
import documented
import helpers
import libraries
import numpy as np
import plasmas
import pytest
import signals
from children import child_process

import refstore

plasma = libraries.Late("refstore.plasma")
pyarrow = libraries.Late("pyarrow")

pytestmark = libraries.needed("pyarrow")

RAW = b"twenty bytes, no more"[:20]
OTHER = RAW[::-1]
LONG = int(1000 * helpers.BUSY_TIMEOUT)


def an_id(raw: bytes = RAW) -> Any:
    return plasma.ObjectID(raw)


@pytest.fixture
def client(store: refstore.Store) -> Any:
    with plasmas.connected(store.path) as client:
        yield client


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.plasma as module

    documented.require_all(module, store)
    assert store.holders() == []


@pytest.mark.once("opens no store")
def test_what_is_exported_is_named_by_the_module() -> None:
    import refstore.plasma as module

    assert {getattr(module, name).__module__ for name in module.__all__} == {"refstore.plasma"}
    assert b"refstore.plasma\x94" in pickle.dumps(an_id())
    assert pickle.loads(pickle.dumps(an_id())) == an_id()
    assert repr(an_id()) == f"ObjectID({RAW.hex()})"
    assert {an_id(): 1}[an_id()] == 1


# --- the same objects, by the store's calls


def test_a_store_sees_the_data_and_the_metadata(store: refstore.Store, client: Any) -> None:
    client.create_and_seal(an_id(), b"data", b"metadata")
    with store.get(RAW.hex()) as buf:
        assert (bytes(buf), buf.meta, buf.kind) == (b"data", b"metadata", "bytes")
    assert store.info(RAW.hex()).evictable


def test_a_client_sees_what_a_store_has_put(store: refstore.Store, client: Any) -> None:
    store.put(np.arange(6).reshape(2, 3), name=RAW.hex(), meta=b"metadata")
    assert np.array_equal(client.get(an_id()), np.arange(6).reshape(2, 3))
    ((metadata, data),) = client.get_buffers([an_id()], with_meta=True)
    assert (metadata, data.size) == (b"metadata", 48)
    assert client.list()[an_id()]["metadata_size"] == 8


def test_names_that_are_no_ids_are_the_stores_alone(store: refstore.Store, client: Any) -> None:
    store.put(b"other", name="other")
    store.put(b"nameless")
    client.put(1, an_id())
    assert list(client.list()) == [an_id()]
    assert client.evict(1) > 0
    assert client.evict(1) == 0
    assert "other" in store


@pytest.mark.parametrize("size", [0, 1, 256, 257, 65_536, 65_537, 1_000_000])
def test_metadata_of_any_length_come_back(client: Any, size: int) -> None:
    metadata = helpers.pattern(size, size)
    client.create_and_seal(an_id(), b"data", metadata)
    assert client.get_buffers([an_id()], with_meta=True)[0][0] == metadata
    assert client.get_metadata([an_id()])[0].to_pybytes() == metadata
    assert client.get_buffers([an_id()])[0].to_pybytes() == b"data"
    told = client.list()[an_id()]
    assert (told["data_size"], told["metadata_size"]) == (4, size)
    assert client.evict(1) == 4 + size


def test_metadata_that_look_like_ours_come_back(client: Any) -> None:
    from refstore.plasma.objects import BEHIND

    client.create_and_seal(an_id(), b"data", BEHIND + b"1")
    ((metadata, data),) = client.get_buffers([an_id()], with_meta=True)
    assert (metadata, data.to_pybytes()) == (BEHIND + b"1", b"data")


def test_another_client_tells_sizes_and_times(store: refstore.Store, client: Any) -> None:
    client.create_and_seal(an_id(), b"data", b"x" * 70_000)
    client.create(an_id(OTHER), 4, b"x" * 70_000)
    other = plasma.connect(store.path)
    told = other.list()
    assert (told[an_id()]["data_size"], told[an_id()]["metadata_size"]) == (4, 70_000)
    assert told[an_id()]["construct_duration"] == -1
    assert client.list()[an_id()]["construct_duration"] >= 0
    assert (told[an_id(OTHER)]["data_size"], told[an_id(OTHER)]["state"]) == (70_004, "created")
    other.disconnect()


@pytest.mark.parametrize("value", [b"", b"bytes", bytearray(b"array"), b"x" * 2_000_000, "text"])
def test_what_was_put_comes_back_as_what_it_was(client: Any, value: Any) -> None:
    back = client.get(client.put(value))
    assert (type(back), back) == (type(value), value)


def test_arrays_and_tables_are_not_copied(store: refstore.Store, client: Any) -> None:
    back = client.get(client.put([np.arange(1000), pyarrow.table({"x": np.arange(1000)})]))
    for array in (back[0], back[1]["x"].chunk(0).to_numpy()):
        assert helpers.lies_in(store.path, helpers.address(array))
        assert not array.flags.writeable


# --- how long things live


def test_a_buffer_outlives_its_object_its_client_and_the_store(
    store: refstore.Store, client: Any
) -> None:
    client.create_and_seal(an_id(), b"data" * 1000)
    (buffer,) = client.get_buffers([an_id()])
    part = buffer.slice(4, 4)
    client.delete([an_id()])
    client.disconnect()
    del buffer
    helpers.fill_with_junk(store)
    assert part.to_pybytes() == b"data"
    del part
    helpers.assert_full_capacity_fits(store)


def test_what_is_in_use_is_neither_evicted_nor_counted(client: Any) -> None:
    client.create_and_seal(an_id(), b"x" * 1000)
    client.create_and_seal(an_id(OTHER), b"x" * 100)
    (buffer,) = client.get_buffers([an_id()])
    assert client.evict(10_000) == 100
    assert client.contains(an_id())
    del buffer
    assert client.evict(10_000) == 1000


def test_what_another_client_uses_by_now_is_not_evicted(store: refstore.Store, client: Any) -> None:
    first, second, third = (client.put_raw_buffer(b"x" * 10) for _ in range(3))
    assert client.evict(1) == 10  # from here on it knows which are the next
    other = plasma.connect(store.path)
    (buffer,) = other.get_buffers([second])
    assert client.evict(1) == 10
    assert [client.contains(one) for one in (first, second, third)] == [False, True, False]
    del buffer
    other.disconnect()


def test_what_was_used_last_is_evicted_last(client: Any) -> None:
    first, second, third = (client.put_raw_buffer(b"x" * 10) for _ in range(3))
    client.get_buffers([first])
    assert client.evict(11) == 20
    assert list(client.list()) == [first]
    assert (second in client.list(), third in client.list()) == (False, False)


def test_a_full_store_evicts_what_nobody_uses(client: Any, store: refstore.Store) -> None:
    size = store.capacity // 4
    kept = client.put_raw_buffer(bytes(size))
    (buffer,) = client.get_buffers([kept])
    others = [client.put_raw_buffer(bytes(size)) for _ in range(6)]
    assert client.contains(kept)
    assert client.contains(others[-1])
    assert not client.contains(others[0])
    with pytest.raises(plasma.PlasmaStoreFull) as caught:
        client.create(an_id(), store.capacity)
    assert isinstance(caught.value.__cause__, refstore.StoreFullError)
    assert isinstance(caught.value, refstore.RefstoreError)
    del buffer


def test_what_a_client_gives_up_never_was(store: refstore.Store) -> None:
    for give_up in (lambda client: client.disconnect(), lambda client: None):
        client = plasma.connect(store.path)
        client.create(an_id(), 1000)
        with pytest.raises(plasma.PlasmaObjectExists):
            client.create(an_id(), 1000)
        give_up(client)
        del client
        gc.collect()
        assert store.stats().used == 0
    again = plasma.connect(store.path)
    again.create(an_id(), 1000)
    again.disconnect()


def test_what_a_killed_client_has_begun_is_free_for_others(
    store: refstore.Store, client: Any
) -> None:
    with child_process(store.path) as child:
        child.do(arrow_workers.connect)
        child.do(arrow_workers.begin, RAW, 1000)
        with pytest.raises(plasma.PlasmaObjectExists):
            client.create(an_id(), 1000)
        assert client.get_buffers([an_id()], timeout_ms=0) == [None]
        child.kill()
    client.create(an_id(), 1000)
    assert len(client.list()) == 1


def test_what_a_killed_client_has_sealed_stays(store: refstore.Store, client: Any) -> None:
    with child_process(store.path) as child:
        child.do(arrow_workers.connect)
        child.do(arrow_workers.begin, RAW, 1000)
        child.do(arrow_workers.seal, RAW)
        assert child.do(arrow_workers.hold, RAW) == b"\7" * 1000
        assert client.list()[an_id()]["ref_count"] == 1
        child.kill()
        store.recover()
    assert client.list()[an_id()]["ref_count"] == 0
    assert client.get_buffers([an_id()])[0].to_pybytes() == b"\7" * 1000


def test_a_forked_child_uses_the_client_and_ends_nothing(
    store: refstore.Store, client: Any
) -> None:
    client.create_and_seal(an_id(), b"data")
    client.create(an_id(OTHER), 4)
    client.subscribe()

    def work() -> None:
        assert client.get_buffers([an_id()])[0].to_pybytes() == b"data"
        client.put(1)
        client.disconnect()

    assert helpers.forked(work) == 0
    store.recover()
    client.seal(an_id(OTHER))
    assert len(client.list()) == 3


# --- waiting


def test_get_waits_for_all_and_returns_them_in_order(store: refstore.Store, client: Any) -> None:
    with child_process(store.path) as child:
        child.do(arrow_workers.connect)
        child.tell(arrow_workers.fetch, [RAW, OTHER, RAW], -1)
        assert child.receive() == ("said", "waiting")
        client.put("second", an_id(OTHER))
        client.put("first", an_id(RAW))
        assert child.answer() == ["first", "second", "first"]


def test_what_came_first_is_pinned_while_the_rest_is_waited_for(
    store: refstore.Store, client: Any
) -> None:
    client.put_raw_buffer(b"x", an_id())

    def act() -> None:
        assert store.info(RAW.hex()).pins == 1
        client.delete([an_id()])
        client.put_raw_buffer(b"y", an_id(OTHER))

    with signals.done_while_waiting(act):
        found = client.get_buffers([an_id(), an_id(OTHER)], timeout_ms=LONG)
    assert [buffer.to_pybytes() for buffer in found] == [b"x", b"y"]


def test_a_wait_ends_with_its_time(client: Any) -> None:
    client.put(1, an_id())
    found = client.get([an_id(), an_id(OTHER)], timeout_ms=20)
    assert found == [1, plasma.ObjectNotAvailable]


# --- what is refused


@pytest.mark.parametrize("raw", [b"", RAW + b"x", "x" * 20, None, 20])
def test_an_id_is_twenty_bytes(raw: Any) -> None:
    with pytest.raises(ValueError, match="made of 20 bytes"):
        plasma.ObjectID(raw)


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda client, one: client.create(one, 1),
    "seal": lambda client, one: client.seal(one),
    "put": lambda client, one: client.put(1, one),
    "get": lambda client, one: client.get([one], 0),
    "get_buffers": lambda client, one: client.get_buffers([one], 0),
    "contains": lambda client, one: client.contains(one),
    "delete": lambda client, one: client.delete([one]),
    "hash": lambda client, one: client.hash(one),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_id_is_refused(client: Any, call: str) -> None:
    with pytest.raises(TypeError, match=r"^b'twenty.* is no ObjectID"):
        CALLS[call](client, RAW)


@pytest.mark.parametrize("call", CALLS)
def test_a_disconnected_client_is_refused(store: refstore.Store, call: str) -> None:
    client = plasma.connect(store.path)
    client.disconnect()
    client.disconnect()
    with pytest.raises((ValueError, plasma.PlasmaObjectNotFound)):
        CALLS[call](client, an_id())


def test_an_object_is_sealed_once_and_by_who_created_it(store: refstore.Store, client: Any) -> None:
    other = plasma.connect(store.path)
    client.create(an_id(), 1)
    with pytest.raises(plasma.PlasmaObjectNotFound, match="was not created by this client"):
        other.seal(an_id())
    client.seal(an_id())
    with pytest.raises(plasma.PlasmaObjectNotFound, match="is sealed already"):
        client.seal(an_id())
    other.disconnect()


def test_a_failed_put_leaves_nothing(store: refstore.Store, client: Any) -> None:
    client.put(1, an_id())
    for value in (2, b"2"):
        with pytest.raises(plasma.PlasmaObjectExists):
            client.put(value, an_id())
    with pytest.raises(plasma.PlasmaObjectExists):
        client.put_raw_buffer(b"2", an_id())
    with pytest.raises(pickle.PicklingError):
        client.put(lambda: None, an_id(OTHER))
    with pytest.raises(ValueError, match="negative"):
        client.create(an_id(OTHER), -1)
    with pytest.raises(TypeError, match="bytes-like"):
        client.put_raw_buffer("text", an_id(OTHER))
    assert client.get(an_id()) == 1
    assert len(store) == 1
    client.put(2, an_id(OTHER))


def test_a_serialization_context_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="copyreg"):
        client.put(1, serialization_context=object())
    with pytest.raises(TypeError, match="copyreg"):
        client.get(client.put(1), serialization_context=object())


# --- stores


def test_connecting_makes_a_store_if_it_is_told_how_large(folder: Path) -> None:
    path = folder / "plasma"
    first = plasma.connect(path, capacity="1MiB")
    second = plasma.connect(str(path))
    first.put("text", an_id())
    assert second.get(an_id()) == "text"
    assert second.store_capacity() == 1 << 20
    with refstore.Store(path) as store:
        assert store.evict == "lru"
        store.unlink()
    first.disconnect()
    second.disconnect()


def test_connecting_waits_for_a_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stores = folder / "plasma", []

    def make(seconds: float) -> None:
        stores.append(refstore.Store(path, capacity="1MiB"))

    monkeypatch.setattr("refstore.plasma.time.sleep", make)
    with pytest.raises(FileNotFoundError):
        plasma.connect(path, num_retries=1)
    plasma.connect(path).disconnect()
    assert len(stores) == 1
    stores[0].unlink()
    stores[0].close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_process_removes_the_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with plasma.start_plasma_store(1 << 20) as (name, process):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.001)
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        assert os.path.exists(name)
        process.send_signal(number)
        assert not os.path.exists(name)
        assert process.wait() == process.poll() == (0 if number == signal.SIGTERM else -9)
        with pytest.raises(FileNotFoundError):
            plasma.connect(name, num_retries=1)


def test_a_store_ends_with_its_block_also_by_an_error(folder: Path) -> None:
    def fail() -> None:
        with plasma.start_plasma_store(1 << 20, plasma_directory=folder) as (name, _):
            assert Path(name).parent == folder
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert helpers.stores(folder) == []


@pytest.mark.parametrize(
    "options", [{"use_valgrind": True}, {"use_profiler": True}, {"external_store": "hashtable://"}]
)
def test_what_a_store_cannot_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="asked for"), plasma.start_plasma_store(1000, **options):
        pass


def test_threads_share_a_client(client: Any) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                one = client.put_raw_buffer(b"%d %d" % (number, i), metadata=b"%d" % i)
                ((metadata, data),) = client.get_buffers([one], with_meta=True)
                assert (metadata, data.to_pybytes()) == (b"%d" % i, b"%d %d" % (number, i))
                client.delete([one])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert client.list() == {}


@pytest.mark.once("shows what its page shows")
@libraries.needed("pyarrow")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/plasma.md", folder)
