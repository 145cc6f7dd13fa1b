"""`refstore.dask` in one process: messages, the store of a host, what it replaces and refuses."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documented
import helpers
import numpy as np
import pytest
from children import child_process
from libraries import Late, needed

import refstore

distributed: Any = pytest.importorskip("distributed")
comm: Any = pytest.importorskip("distributed.comm")
clusters: Any = pytest.importorskip("dask_clusters")
ours: Any = pytest.importorskip("refstore.dask")
_families: Any = pytest.importorskip("refstore.dask._families")
_session: Any = pytest.importorskip("refstore.dask._session")
torch: Any = Late("torch")

SIZE = 100_000
PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "dask.md"


@pytest.fixture
def session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    session = _session.Session("dask-test", is_ours=True)
    yield session
    session.close()
    session.clear_away()


class Comm:
    """What of a connection is asked."""

    deserialize = True

    def closed(self) -> bool:
        return False


def context(session: Any, end: Comm) -> dict[str, Any]:
    """That of a message to another process with the same store."""
    told = {"refstore": session.introduce(end)}
    return {"sender": told, "recipient": told}


@needed("torch")
def test_a_tensor_can_be_written_and_nobody_sees_it(session: Any) -> None:
    end, tensor = Comm(), torch.arange(SIZE)
    header, frames = session.dumps("dask", tensor, context(session, end))
    assert frames == []
    copy = session.loads("dask", header, frames)
    copy += 1
    assert torch.equal(copy, tensor + 1)
    header, frames = session.dumps("dask", tensor, context(session, end))
    assert torch.equal(session.loads("dask", header, frames), tensor)


def test_a_message_is_of_no_use_when_its_sender_is_dead(session: Any) -> None:
    end = Comm()
    header, frames = session.dumps("dask", clusters.made(SIZE), context(session, end))
    for ref in session.keeper.store:
        session.keeper.store.delete(ref)
    # an OSError, after which distributed asks another worker
    with pytest.raises(comm.CommClosedError, match="is about is gone"):
        session.loads("dask", header, frames)


SEND = """
import sys, pickle
from refstore.dask import _session
session = _session.Session("dask-test", is_ours=True)
told = {"refstore": session.introduce(session)}
message = session.dumps("dask", bytes(100_000), {"sender": told, "recipient": told})
print(pickle.dumps(message).hex(), flush=True)
sys.stdin.readline()
"""


def test_what_has_arrived_stays_when_its_sender_dies(session: Any) -> None:
    store = session.keeper.store
    with helpers.script(SEND) as sender:
        header, frames = pickle.loads(bytes.fromhex(helpers.line(sender)))
        assert session.loads("dask", header, frames) == bytes(SIZE)
        (ref,) = store
        with store.get(ref):
            sender.kill()
            sender.wait(helpers.BUSY_TIMEOUT)
            store.recover()
            assert store.info(ref).owned  # by its receiver
    session.keeper.sweep()
    assert len(store) == 0


def test_what_others_put_goes_by_ref_and_stays(session: Any) -> None:
    end, store = Comm(), session.keeper.store
    ref = store.put(clusters.made(SIZE), name="mine")
    with store.get(ref) as buf:
        header, frames = session.dumps("dask", buf.array, context(session, end))
    array = session.loads("dask", header, frames)
    assert store.ref_of(array) == ref
    del array
    session.keeper.sweep()
    assert list(store) == [ref]
    store.delete(ref)


def test_who_hands_messages_on_is_not_told_of_a_store(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a scheduler: those to whom it sends them may be on other hosts
    monkeypatch.setattr(ours, "_current", session)
    hooks, end = ours._Hooks(), Comm()
    assert hooks.introduce(end).keys() == {"refstore"}
    end.deserialize = False
    assert hooks.introduce(end) == {}


def test_another_store_gets_bytes(session: Any) -> None:
    other = {"recipient": {"refstore": {"store": "other", "comm": 0}}, "sender": {}}
    contexts: list[dict[str, Any]] = [other, {"recipient": {}}, {"recipient": {"refstore": 5}}]
    for told in contexts:
        header, (frame,) = session.dumps("dask", clusters.made(SIZE), told)
        assert frame.nbytes == clusters.made(SIZE).nbytes
        assert header["refstore"] == {}
    assert len(session.keeper.store) == 0


def test_what_is_read_only_for_us_is_not_so_for_others(session: Any) -> None:
    session.places_arrivals = True
    header, frames = session.dumps("dask", clusters.made(SIZE), {"recipient": {}})
    placed = session.loads("dask", header, frames)
    assert session.keeper.store.ref_of(placed) is not None
    header, frames = session.dumps("dask", placed, {"recipient": {}})
    copy = _families.original("dask").loads(header, [bytearray(frame) for frame in frames])
    assert copy.flags.writeable


# --- the store of a host


@pytest.mark.once("opens no store")
def test_a_store_is_named_by_the_schedulers_address() -> None:
    assert _session.store_name("tcp://127.0.0.1:8786") == "dask-8786"
    assert _session.store_name("tls://localhost:99") == "dask-99"
    assert _session.store_name("tcp://192.0.2.77:8786") == "dask-192.0.2.77-8786"
    assert _session.store_name("tcp://[2001:db8::1]:8786") == "dask-2001:db8::1-8786"
    assert _session.store_name("inproc://192.0.2.1/1/2") == "dask-inproc-192.0.2.1-1-2"


ABANDON = """
import os, signal, sys
from refstore.dask import _session
session = _session.Session(sys.argv[1], is_ours=True)
session.keeper.place([memoryview(bytes(100_000))])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_cluster_left_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    assert helpers.run_script(ABANDON, "dask-1").returncode == -9
    with refstore.Store("dask-other") as other:
        other.put(b"what somebody keeps")
    assert helpers.stores(folder) == ["dask-1", "dask-other"]
    session = _session.Session("dask-2", is_ours=True)
    assert helpers.stores(folder) == ["dask-2", "dask-other"]
    session.close()
    assert helpers.stores(folder) == ["dask-other"]
    with refstore.Store("dask-other") as other:
        other.unlink()


def test_another_capacity_needs_a_store_that_nobody_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask import config

    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    with config.set({"refstore.capacity": "1MiB"}):
        assert helpers.run_script(ABANDON, "dask-1").returncode == -9
    with config.set({"refstore.capacity": "2MiB"}):
        first = _session.Session("dask-1", is_ours=True)
    assert first.keeper.store.capacity == 2 << 20
    with child_process(first.keeper.store.path):
        first.close()
        with config.set({"refstore.capacity": "3MiB"}):
            second = _session.Session("dask-1", is_ours=True)
        assert second.keeper.store.capacity == 2 << 20
    second.close()


def test_a_store_with_a_name_of_its_own_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    session = _session.Session("mine", is_ours=False)
    session.close()
    session.clear_away()
    assert helpers.stores(folder) == ["mine"]
    with refstore.Store("mine") as store:
        store.unlink()


def test_a_forked_child_leaves_nothing_of_its_parents(session: Any) -> None:
    (placed,), _ = session.keeper.place([memoryview(bytes(SIZE))])
    assert helpers.forked(session.close) == 0
    assert placed.buf.ref in session.keeper.store
    placed.buf.release()


# --- distributed


@pytest.fixture
def installed() -> Iterator[None]:
    ours.install()
    yield
    ours.uninstall()


@pytest.mark.once("opens no store")
def test_it_gives_back_what_it_replaced() -> None:
    from dask import config

    def state() -> tuple[Any, ...]:
        families = [_families._families()[name] for name in _families.FAMILIES]
        keys = ["distributed.client.preload", "distributed.worker.preload"]
        return (*families, comm.Comm.handshake_info, *map(config.get, keys))

    before = state()
    ours.install()
    during = state()
    assert all(one != other for one, other in zip(before, during, strict=True))
    ours.install()
    assert state() == during
    ours.uninstall()
    assert state() == before


@pytest.mark.once("opens no store")
@pytest.mark.parametrize("missing", ["families", "handshake_info"])
def test_a_version_that_lacks_something_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    module: Any = sys.modules["distributed.protocol.serialize"]
    where = module if missing == "families" else comm.Comm
    monkeypatch.delattr(where, missing)
    with pytest.raises(RuntimeError, match=rf"version {distributed.__version__} has nothing"):
        ours.install()
    assert not _families.is_installed()


@pytest.mark.once("opens no store")
@pytest.mark.usefixtures("installed")
def test_without_a_store_all_is_as_ever() -> None:
    from distributed.protocol import deserialize, serialize

    array = clusters.made(SIZE)
    others: list[Any] = [{}, {"refstore": {"store": "s", "comm": 1}}]
    for told in [None, *({"recipient": other} for other in others)]:
        header, frames = serialize(array, context=told)
        assert sum(map(len, frames)) == SIZE
        assert np.array_equal(deserialize(header, frames), array)
    with pytest.raises(comm.CommClosedError, match="a store that was left"):
        deserialize({**header, "refstore": {"token": b""}}, [])


@pytest.mark.once("opens no store")
def test_a_scheduler_has_no_part() -> None:
    scheduler = object.__new__(distributed.Scheduler)
    ours.dask_setup(scheduler)
    assert ours._current is None


@pytest.mark.parametrize("name", ours.__all__)
def test_the_examples_run(store: refstore.Store, name: str) -> None:
    dask = pytest.importorskip("dask")
    documented.run_examples(name, getattr(ours, name), store, dask=dask)


@pytest.mark.once("opens no store")
def test_without_distributed_the_extra_is_named() -> None:
    source = "import sys; sys.modules['distributed'] = None; import refstore.dask"
    result = helpers.run_script(source)
    assert "pip install '.[dask]'" in result.stderr
    source = "import sys, refstore; sys.exit('distributed' in sys.modules)"
    assert helpers.run_script(source).returncode == 0


@pytest.mark.once("its program makes the store")
@pytest.mark.skipif(not PAGE.exists(), reason="needs the sources")
def test_the_page_begins_with_what_works(folder: Path) -> None:
    _, program, *_ = re.split(r"^```\w*\n", PAGE.read_text(), flags=re.MULTILINE)
    result = helpers.run_script(program, env={"REFSTORE_DIR": str(folder)})
    assert result.stdout == "100000000\n", result.stderr
    assert helpers.stores(folder) == []
