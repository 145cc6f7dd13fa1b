"""`refstore.torch`: weights of every kind come back, tied ones tied, each version whole."""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import documented
import helpers
import libraries
import numpy as np
import pytest
from children import child_process, child_processes

import refstore

torch, of_torch = libraries.Late("torch"), libraries.Late("refstore.torch")
torch_workers = libraries.Late("torch_workers")

pytestmark = [libraries.needed("torch"), pytest.mark.usefixtures("torch_in_children")]


def settled(store: refstore.Store) -> refstore.StoreStats:
    gc.collect()
    return store.stats()


def model() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(300, 500), torch.nn.BatchNorm1d(500))


def test_everything_public_is_documented(store: refstore.Store) -> None:
    import refstore.torch as module

    documented.require_all(module, store)
    gc.collect()
    assert store.holders() == []


@pytest.mark.filterwarnings("ignore::UserWarning")  # what torch says of sparse and quantized ones
def test_every_kind_of_tensor_comes_back(store: refstore.Store) -> None:
    for kind, tensor in torch_workers.tensors().items():
        of_torch.publish(store, "w", {"x": tensor})
        back = of_torch.load(store, "w").state_dict["x"]
        assert torch_workers.same(back, tensor.detach()), kind
        assert not back.requires_grad
        plain = store.get("w").value["x"]
        assert torch_workers.same(plain, back), kind
        if kind in ("float32", "small", "bfloat16", "transposed", "column", "parameter"):
            plain.zero_(), back.zero_()  # neither is fatal, nor reaches the store
        assert torch_workers.same(of_torch.load(store, "w").state_dict["x"], tensor.detach()), kind
        del back, plain
    store.clear()
    assert settled(store).used == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_state_dict_of_all_of_them_comes_back(store: refstore.Store) -> None:
    given = {**torch_workers.tensors(), "extra": {"step": 3, "inner": [torch.ones(2000), "text"]}}
    of_torch.publish(store, "w", given)
    back = of_torch.load(store, "w").state_dict
    assert list(back) == list(given)
    extra = back.pop("extra")
    assert extra["step"] == 3
    assert torch_workers.same(extra["inner"][0], torch.ones(2000))
    assert all(torch_workers.same(back[key], given[key].detach()) for key in back)


def test_tied_tensors_stay_tied(store: refstore.Store) -> None:
    for size in (100, 100_000):  # those in the pickle, and those beside it
        w, other = torch.randn(size), torch.randn(size)
        given = {"a": w, "b": w, "c": w[:], "d": other, "row": other[5:50], "in": [other]}
        ref = of_torch.publish(store, "w", given)
        assert store.info(ref).nbytes < 2 * 4 * size + 8192
        for back in (of_torch.load(store, "w").state_dict, store.get("w").value):
            assert len({back[key].data_ptr() for key in "abc"}) == 1
            back["d"][5] = 7
            assert back["row"][0] == back["in"][0][5] == 7
            assert back["a"] is not back["c"]


def test_a_view_takes_what_it_shows(store: refstore.Store) -> None:
    table = torch.randn(1000, 1000)
    for part in (table[:, 3], table[5], table[10:20, 10:20]):
        ref = of_torch.publish(store, "w", {"x": part})
        assert store.info(ref).nbytes < 3 * 4000 + 4096
        assert torch_workers.same(of_torch.load(store, "w").state_dict["x"], part)


def test_a_module_gets_the_values_and_pins_nothing(store: refstore.Store) -> None:
    given, got = model(), model()
    given(torch.randn(5, 300))  # its buffers change
    ref = of_torch.publish(store, "w", given)
    weight = got[0].weight
    seen = of_torch.load(store, "w", got)
    assert seen == (ref, None, [], [])
    assert got[0].weight is weight
    assert weight.requires_grad
    assert all(
        torch_workers.same(got.state_dict()[key], value)
        for key, value in given.state_dict().items()
    )
    assert settled(store).pinned == 0
    assert of_torch.load(store, "w").state_dict._metadata == given.state_dict()._metadata


def test_assigned_weights_lie_in_the_store_and_pin_it(store: refstore.Store) -> None:
    given, got = model(), model()
    of_torch.publish(store, "w", given)
    of_torch.load(store, "w", got, assign=True)
    assert helpers.lies_in(store.path, got[0].weight.data_ptr())
    store.delete("w")
    helpers.fill_with_junk(store)
    assert torch_workers.same(got[0].weight.detach(), given[0].weight.detach())
    got(torch.randn(5, 300)).sum().backward()
    torch.optim.SGD(got.parameters(), 0.1).step()  # in this process's own pages
    assert settled(store).condemned == 1
    del got
    assert settled(store).condemned == 0


def test_what_is_loaded_is_this_processes_to_write(store: refstore.Store) -> None:
    of_torch.publish(store, "w", {"x": torch.ones(5000)})
    of_torch.load(store, "w").state_dict["x"].fill_(3)
    assert of_torch.load(store, "w").state_dict["x"].max() == 1


def test_an_optimizers_state_comes_back(store: refstore.Store) -> None:
    net = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    of_torch.publish(store, "o", optimizer.state_dict())
    other = torch.optim.Adam(torch.nn.Linear(3, 4).parameters())
    other.load_state_dict(of_torch.load(store, "o").state_dict)
    first, second = optimizer.state_dict(), other.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert torch_workers.same(first["state"][0]["exp_avg"], second["state"][0]["exp_avg"])


def test_keys_that_do_not_fit_are_torchs_own_error(store: refstore.Store) -> None:
    of_torch.publish(store, "w", torch.nn.Linear(300, 500))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"0.weight\""):
        of_torch.load(store, "w", model())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        of_torch.load(store, "w", torch.nn.Linear(300, 501))
    seen = of_torch.load(store, "w", model(), strict=False)
    assert seen.unexpected_keys == ["weight", "bias"]
    assert "0.weight" in seen.missing_keys
    assert settled(store).pinned == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: torch.ones(3), "Tensor is no module and no state dict"),
        (lambda: {"x": torch.ones(3, device="meta")}, "'x' is a tensor on the device meta"),
        (
            lambda: OrderedDict(x=[{"y": torch.ones(3, device="meta")}]),
            r"'x'\[0\]\['y'\] is a tensor on the device meta",
        ),
    ],
)
def test_what_cannot_be_published_is_refused(
    store: refstore.Store, given: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        of_torch.publish(store, "w", given())
    assert store.stats().used == 0


def test_other_objects_are_no_state_dicts(store: refstore.Store) -> None:
    for given in (b"bytes", [1, 2]):
        store.put(given, name="w", replace=True)
        with pytest.raises(TypeError, match=r"'w' in store .* is no state dict"):
            of_torch.load(store, "w")


def test_it_waits_for_a_newer_version(store: refstore.Store) -> None:
    with pytest.raises(refstore.GetTimeoutError):
        of_torch.load(store, "w", timeout=0)
    ref = of_torch.publish(store, "w", {"x": torch.ones(3)}, meta=b"mine")
    for known in (ref, of_torch.load(store, "w")):
        with pytest.raises(refstore.GetTimeoutError):
            of_torch.load(store, "w", newer_than=known, timeout=0.01)
    newer = of_torch.publish(store, "w", {"x": torch.ones(3)}, owned=True, evictable=True)
    assert of_torch.load(store, "w", newer_than=ref).ref == newer
    info = store.info(newer)
    assert (info.owned, info.evictable) == (True, True)


def test_readers_see_each_version_whole(store: refstore.Store) -> None:
    count = 30
    with child_processes(2, store) as readers:
        for reader in readers:
            reader.tell(torch_workers.follow, "w", count)
        for version in range(1, count + 1):
            of_torch.publish(store, "w", torch_workers.uniform(version))
        for reader in readers:
            seen = reader.answer()
            assert seen == sorted(set(seen))
            assert seen[-1] == count
    assert len(store) == 1
    assert settled(store).pinned == 0


def test_a_reader_that_is_killed_lets_go(store: refstore.Store) -> None:
    with child_process(store) as reader:
        net = torch.nn.Linear(300, 500)
        torch.nn.init.ones_(net.weight)
        of_torch.publish(store, "w", net)
        assert reader.do(torch_workers.hold_weights, "w")
        store.delete("w")
        assert store.stats().condemned == 1
        reader.kill()
    store.recover()
    helpers.assert_full_capacity_fits(store)


def test_a_gpus_tensors_come_by_way_of_the_cpu(store: refstore.Store) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    w = torch.randn(1000, device="cuda")
    of_torch.publish(store, "w", {"a": w, "b": w})
    back = of_torch.load(store, "w").state_dict
    assert back["a"].device.type == "cpu"
    assert back["a"].data_ptr() == back["b"].data_ptr()
    assert torch_workers.same(back["a"], w.cpu())


def test_cuda_can_be_told_of_the_memory(store: refstore.Store) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    ref = store.put(torch.ones(100_000).numpy())
    with of_torch.pin_cuda(store), store.get(ref) as buf, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array cannot be written
        tensor = torch.from_numpy(buf.array)
        assert tensor.is_pinned()
        assert tensor.to("cuda", non_blocking=True).sum().item() == 100_000
        del tensor


def test_the_memory_that_cuda_is_told_of_is_what_is_got(make_store: Any) -> None:
    from refstore.torch import _cuda

    store = make_store("8MiB")
    address, nbytes, _ = _cuda.arena(store)
    assert store.stats().used == 0
    with store.get(store.put(bytes(8 << 20))) as buf:
        first = helpers.address_of(buf)
        assert address <= first
        assert first + buf.nbytes <= address + nbytes
        assert helpers.lies_in(store.path, address)
        assert helpers.lies_in(store.path, address + nbytes - 1)


def test_without_a_gpu_it_says_so(store: refstore.Store) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(refstore.RefstoreError, match="CUDA is not there"):
        of_torch.pin_cuda(store)
    assert store.stats().used == 0


@pytest.mark.once("shows what its page shows")
@libraries.needed("torch")
def test_the_page_works(folder: Path) -> None:
    documented.run_page("integrations/torch.md", folder)


def test_arrays_of_a_state_dict_can_be_written_to(store: refstore.Store) -> None:
    array = np.arange(3000)
    refstore.torch.publish(store, "w", {"weight": torch.ones(3), "extra": array})
    for value in (1, 2):
        seen = refstore.torch.load(store, "w")
        seen.state_dict["extra"][0] = value
        assert seen.state_dict["extra"][0] == value
        assert array[0] == 0
        del seen
