"""`refstore.torch.install()`: tensors in messages go as refs, and go with whoever is killed."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import libraries
import pytest
from children import child_process, child_processes

import refstore

torch, of_torch = libraries.Late("torch"), libraries.Late("refstore.torch")
torch_workers = libraries.Late("torch_workers")

pytestmark = [libraries.needed("torch"), pytest.mark.usefixtures("torch_in_children")]


@pytest.fixture(autouse=True)
def uninstalled(folder: Path) -> Iterator[None]:
    """A process stays attached to the stores about which it has read messages."""
    yield
    of_torch.uninstall()


@pytest.fixture
def installed(store: refstore.Store) -> Iterator[refstore.Store]:
    """A store by way of which this process sends tensors."""
    assert of_torch.install(store) is store
    yield store
    of_torch.uninstall()


@contextlib.contextmanager
def pipe(method: str = "fork") -> Iterator[tuple[Any, Any]]:
    here, there = multiprocessing.get_context(method).Pipe()
    with here, there:
        yield here, there


def sent(tensor: Any) -> Any:
    """A tensor as it comes out of a pipe."""
    with pipe() as (here, there):
        here.send(tensor)
        return there.recv()


def large(value: float = 1.0) -> Any:
    return torch.full((torch_workers.LARGE,), value)


def torchs_files() -> set[str]:
    """Files of torch's own shared memory that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {one for one in found if "/torch_" in one}


def assert_nothing_is_left(store: refstore.Store) -> None:
    gc.collect()
    store.recover()
    stats = store.stats()
    assert (stats.objects, stats.pinned, stats.condemned) == (0, 0, 0)


# --- what comes out


@pytest.mark.filterwarnings("ignore::UserWarning")  # what torch says of sparse and quantized ones
def test_every_kind_of_tensor_arrives(installed: refstore.Store) -> None:
    for kind, tensor in torch_workers.tensors().items():
        back = sent(tensor)
        assert type(back) is type(tensor), kind
        assert torch_workers.same(back, tensor), kind
        assert back.requires_grad == tensor.requires_grad
        del back
    assert torchs_files() == set()
    assert_nothing_is_left(installed)


def test_small_ones_travel_in_the_message(installed: refstore.Store) -> None:
    table = torch.arange(1_000_000.0).view(1000, 1000)
    for tensor in (torch.arange(100), table[5, :10], table[:20, 3]):
        assert torch.equal(sent(tensor), tensor)
    assert installed.stats().puts == 0


def test_what_is_sent_of_a_view_is_what_it_shows(installed: refstore.Store) -> None:
    table = torch.nn.Parameter(torch.arange(1_000_000.0).view(1000, 1000))
    part = table.detach()[:, 3:9]
    with pipe() as (here, there):
        here.send(part)
        assert installed.stats().used < 6 * 4000 + 4096
        assert torch.equal(there.recv(), part)
    with pytest.raises(RuntimeError, match="non-leaf"):
        sent(table[:, 3:9])


def test_tensors_of_one_storage_share_it_again(installed: refstore.Store) -> None:
    whole = large()
    net = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.Linear(50, 50))
    net[1].weight = net[0].weight
    first, second, back = sent((whole, whole.view(100, -1), net))
    first[0] = 7
    assert second[0, 0] == 7
    assert back[0].weight is back[1].weight
    assert isinstance(back[0].weight, torch.nn.Parameter)
    assert back[0].weight.requires_grad


def test_it_can_be_written_and_neither_side_sees_it(installed: refstore.Store) -> None:
    given = large()
    with pipe() as (here, there):
        here.send(given)
        given.fill_(2)  # it is sent already
        back = there.recv()
    assert back.max() == 1
    back += 5
    assert given.max() == 2
    assert not given.is_shared()
    assert helpers.lies_in(installed.path, back.data_ptr())
    assert len(installed) == 0
    assert installed.stats().condemned == 1
    of_torch.uninstall()
    assert back.min() == 6


def test_shared_memory_of_torch_stays_shared(installed: refstore.Store) -> None:
    given = large().share_memory_()
    back = sent(given)
    back.fill_(3)
    assert given.min() == 3
    assert installed.stats().puts == 0


def test_without_room_it_goes_as_ever(make_store: Any) -> None:
    store = make_store("64KiB")
    of_torch.install(store)
    for tensor in (large(), large().view(1000, -1)[:, 3:90]):
        assert torch.equal(sent(tensor), tensor)
    of_torch.uninstall()
    assert_nothing_is_left(store)


def test_each_message_is_read_once(installed: refstore.Store) -> None:
    with pipe() as (here, there):
        here.send(large())
        octets = there.recv_bytes()
        for _ in range(2):
            here.send_bytes(octets)
        assert there.recv().sum() == torch_workers.LARGE
        with pytest.raises(refstore.ObjectNotFoundError, match="or somebody has read the message"):
            there.recv()


def test_many_messages_leave_nothing(installed: refstore.Store) -> None:
    from refstore.torch import _messages

    with pipe() as (here, there):
        for _ in range(3 * _messages.MANY):
            here.send(large())
            there.recv()
    sender = _messages._sender
    assert sender is not None
    assert len(sender._sent) <= _messages.MANY + 1
    assert_nothing_is_left(installed)


def test_uninstalled_tensors_go_as_ever(store: refstore.Store) -> None:
    of_torch.install(store)
    with pipe() as (here, there):
        here.send(large())
        assert len(store) == 1
        of_torch.uninstall()
        assert len(store) == 0
        with pytest.raises(refstore.ObjectNotFoundError, match="has called uninstall"):
            there.recv()
    puts = store.stats().puts
    assert sent(large()).is_shared()
    assert store.stats().puts == puts


def test_another_store_takes_the_place_of_the_first(make_store: Any) -> None:
    first, second = make_store(name="first"), make_store(name="second")
    of_torch.install(first)
    assert of_torch.install() is of_torch.install(first) is first
    of_torch.install(second)
    sent(large())
    assert (first.stats().puts, second.stats().puts) == (0, 1)
    of_torch.uninstall()


# --- between processes


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_a_process_may_send_and_end(store: refstore.Store, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(  # type: ignore[attr-defined]
        target=torch_workers.put_and_end, args=(store, queue, 3)
    )
    with helpers.forking_on_purpose():
        process.start()
    process.join(helpers.BUSY_TIMEOUT)
    assert process.exitcode == 0
    store.recover()
    assert [float(queue.get(timeout=60)[-1]) for _ in range(3)] == [0, 1, 2]
    queue.close()
    queue.join_thread()
    process.close()
    assert torchs_files() == set()
    assert_nothing_is_left(store)


def test_a_forked_child_hands_over_nothing_of_its_parents(installed: refstore.Store) -> None:
    context = multiprocessing.get_context("fork")
    with pipe() as (here, there):
        here.send(large())
        process = context.Process(target=int)
        with helpers.forking_on_purpose():
            process.start()
        process.join(helpers.BUSY_TIMEOUT)
        process.close()
        (info,) = installed.objects()
        assert info.owned
        assert there.recv().max() == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_has_the_store_of_its_parent(method: str, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    store = of_torch.install()
    assert os.environ["REFSTORE_TORCH"] == store.path
    context = multiprocessing.get_context(method)
    with helpers.forking_on_purpose(), context.Pool(1, initializer=of_torch.install) as pool:
        assert pool.map(torch_workers.is_shared, [large()] * 4) == [(store.path, False)] * 4
        backs = pool.map(torch_workers.doubled, [large(k) for k in range(4)])
        pool.close()
        pool.join()
    assert [float(back[-1]) for back in backs] == [0, 2, 4, 6]
    assert not any(back.is_shared() for back in backs)
    assert torchs_files() == set()
    del backs
    assert_nothing_is_left(store)
    of_torch.uninstall()
    assert "REFSTORE_TORCH" not in os.environ
    assert store.closed


def test_shared_modules_are_trained_by_children(installed: refstore.Store) -> None:
    tensor = torch.zeros(torch_workers.LARGE).share_memory_()
    process = multiprocessing.get_context("spawn").Process(
        target=torch_workers.add_one, args=(tensor,)
    )
    process.start()
    process.join(helpers.BUSY_TIMEOUT)
    process.close()
    assert tensor.min() == 1


# --- kills


def test_a_sender_that_is_killed_takes_along_what_nobody_read(store: refstore.Store) -> None:
    with child_process(store) as sender:
        sender.do(torch_workers.install)
        sender.tell(torch_workers.say_tensors, 2)
        kind, first = sender.receive()
        assert (kind, float(first[-1])) == ("said", 0)
        assert sender._pipe.poll(helpers.BUSY_TIMEOUT)  # the second one is on its way
        sender.kill()
        store.recover()
        assert len(store) == 0
        with pytest.raises(refstore.ObjectNotFoundError, match="the process that sent them was"):
            sender._pipe.recv()
        assert first.max() == 0  # what was read is the reader's
        assert store.stats().condemned == 1
    del first, kind
    assert_nothing_is_left(store)


def test_a_receiver_that_is_killed_leaves_nothing_in_the_end(store: refstore.Store) -> None:
    with pipe() as (here, there):
        with child_processes(2, store) as (sender, receiver):
            sender.do(torch_workers.install)
            sender.tell(torch_workers.say_tensors, 1)
            assert sender._pipe.poll(helpers.BUSY_TIMEOUT)
            helpers.stop(receiver.pid)  # it never reads this
            receiver._pipe.send_bytes(sender._pipe.recv_bytes())
            receiver.kill()
            store.recover()
            assert len(store) == 1  # its sender owns it: another process might have the queue
            sender.kill()
        assert_nothing_is_left(store)
        of_torch.install(store)
        here.send(large())
        assert there.poll(helpers.BUSY_TIMEOUT)
    assert len(store) == 1
    of_torch.uninstall()
    assert_nothing_is_left(store)


def test_a_receiver_that_is_killed_lets_go_of_what_it_read(installed: refstore.Store) -> None:
    with child_process(installed) as receiver:
        receiver.tell(torch_workers.is_received)
        assert receiver.receive() == ("said", "ready")
        receiver._pipe.send(large())
        assert receiver.answer() == (torch_workers.LARGE, False)
        assert len(installed) == 0
        assert installed.stats().condemned == 1
        receiver.kill()
    assert_nothing_is_left(installed)


def test_warnings_are_none(installed: refstore.Store) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sent([large(), torch.ones(3), large().bfloat16()[:5000]])
