"""Tensors inside objects: dtype, strides and shared storage come back, and writes stay here."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from typing import Any

import helpers
import libraries
import numpy as np
import pytest
from children import clear_up_after_the_dead

import refstore

torch = libraries.Late("torch")

pytestmark = libraries.needed("torch")

DTYPES = [
    *("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64"),
    *("bool", "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn"),
]


def raw(tensor: Any) -> bytes:
    """The bytes of a tensor's elements in logical order, whatever its dtype."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def assert_same(got: Any, put: Any) -> None:
    assert type(got) is type(put)
    assert got.dtype == put.dtype
    assert got.shape == put.shape
    assert got.stride() == put.stride()
    assert raw(got) == raw(put)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(store: refstore.Store, name: str) -> None:
    tensor = torch.arange(1000).to(getattr(torch, name)).reshape(20, 50)
    with store.get(store.put({"t": tensor})) as buf:
        assert buf.kind == "object"
        assert_same(buf.value["t"], tensor)


def test_a_tensor_by_itself_comes_back(store: refstore.Store) -> None:
    tensor = torch.randn(30, 40, generator=torch.Generator().manual_seed(1))
    with store.get(store.put(tensor)) as buf:
        assert buf.kind == "object"
        assert_same(buf.value, tensor)


LAYOUTS: dict[str, Callable[[], Any]] = {
    "transposed": lambda: torch.arange(600).reshape(20, 30).t(),
    "strided": lambda: torch.arange(600).reshape(20, 30)[::2, 3::5],
    "slice": lambda: torch.arange(600)[100:200],
    "expanded": lambda: torch.arange(10).expand(7, 10),
    "channels last": lambda: (
        torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    ),
    "0-d": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty 3d": lambda: torch.empty(3, 0, 2, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back(store: refstore.Store, layout: str) -> None:
    tensor = LAYOUTS[layout]()
    with store.get(store.put([tensor])) as buf:
        assert_same(buf.value[0], tensor)


def test_tensors_that_share_storage_share_it_again(store: refstore.Store) -> None:
    base = torch.arange(10_000.0)
    tree = {"base": base, "part": base[100:200], "shaped": base.view(100, 100).t()}
    with store.get(store.put(tree)) as buf:
        back = buf.value
        for key, put in tree.items():
            assert_same(back[key], put)
        storage = back["base"].untyped_storage().data_ptr()
        assert back["part"].untyped_storage().data_ptr() == storage
        assert back["shaped"].untyped_storage().data_ptr() == storage
        back["base"][150] = -1
        assert back["part"][50] == -1
        assert back["shaped"][50, 1] == -1
        del back


def test_shared_storage_is_stored_once(store: refstore.Store) -> None:
    base = torch.arange(100_000.0)
    ref = store.put([base, base[1:], base.view(100, 1000)])
    with store.get(ref) as buf:
        assert base.nbytes <= buf.nbytes < 1.5 * base.nbytes


def test_a_large_tensor_is_rebuilt_in_place(store: refstore.Store, path: str) -> None:
    tensor = torch.arange(500_000.0)
    with store.get(store.put({"t": tensor, "b": tensor.to(torch.bfloat16)})) as buf:
        back = buf.value
        assert torch.equal(back["t"], tensor)
        for key in ("t", "b"):
            assert helpers.lies_in(path, back[key].data_ptr())
            assert back[key].data_ptr() % 64 == 0
        del back


@pytest.mark.parametrize("count", [1, 10, 100, 5000, 1_000_000])
def test_writing_into_a_rebuilt_tensor_stays_in_this_process(
    store: refstore.Store, count: int
) -> None:
    put = torch.arange(float(count))
    ref = store.put({"t": put})
    with store.get(ref) as buf:
        tensor = buf.value["t"]
        tensor.add_(1)
        tensor[0] = -7
        assert torch.equal(tensor[1:], put[1:] + 1)
        with store.get(ref) as other:
            assert torch.equal(other.value["t"], put)
        del tensor
    with store.get(ref) as again:
        assert torch.equal(again.value["t"], put)


def test_writing_into_a_rebuilt_tensor_spares_its_neighbours(store: refstore.Store) -> None:
    refs = [store.put({"t": torch.full((16,), float(i))}) for i in range(50)]
    tensors = []
    for ref in refs:
        with store.get(ref) as buf:
            tensors.append(buf.value["t"])
    for tensor in tensors:
        tensor.fill_(-1)
    for i, ref in enumerate(refs):
        with store.get(ref) as buf:
            assert torch.equal(buf.value["t"], torch.full((16,), float(i)))
    del tensors, tensor


def test_a_tensor_outlives_its_buffer(store: refstore.Store) -> None:
    put = torch.arange(200_000.0)
    ref = store.put([put])
    with store.get(ref) as buf:
        tensor = buf.value[0]
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert torch.equal(tensor, put)
    del tensor
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


def test_a_parameter_keeps_its_gradient_flag(store: refstore.Store) -> None:
    frozen = torch.nn.Parameter(torch.ones(100), requires_grad=False)
    with store.get(store.put([torch.nn.Parameter(torch.ones(100)), frozen])) as buf:
        back = buf.value
        assert [type(one) for one in back] == [torch.nn.Parameter] * 2
        assert [one.requires_grad for one in back] == [True, False]


def test_the_weights_of_a_model_come_back_and_load(store: refstore.Store) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40))
    with store.get(store.put(model.state_dict())) as buf:
        weights = buf.value
        assert list(weights) == list(model.state_dict())
        other = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40))
        other.load_state_dict(weights)
        for key, value in other.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])
        del weights


def test_a_whole_model_comes_back(store: refstore.Store) -> None:
    model = torch.nn.Linear(30, 40)
    inputs = torch.ones(2, 30)
    with store.get(store.put(model)) as buf:
        assert torch.equal(buf.value(inputs), model(inputs))


UNUSUAL: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(50).to_sparse(),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "with gradient": lambda: torch.randn(
        3, 3, generator=torch.Generator().manual_seed(2)
    ).requires_grad_(),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_out_of_the_ordinary_come_back(store: refstore.Store, kind: str) -> None:
    tensor = UNUSUAL[kind]()
    with store.get(store.put({"t": tensor})) as buf:
        back = buf.value["t"]
        assert back.layout == tensor.layout
        assert back.requires_grad == tensor.requires_grad
        assert torch.equal(back.detach().to_dense(), tensor.detach().to_dense())


def test_arrays_and_tensors_mix(store: refstore.Store, path: str) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10_000)
    ref = store.put({"a": array, "t": torch.from_numpy(array), "x": None})
    with store.get(ref) as buf:
        back = buf.value
        assert numpy.array_equal(back["a"], array)
        assert helpers.lies_in(path, helpers.address(back["a"]))
        assert torch.equal(back["t"], torch.from_numpy(array))
        back["t"].zero_()
        del back
    with store.get(ref) as again:
        assert numpy.array_equal(again.value["a"], array)


# --- tensors over a buffer, as docs/index.md and docs/api.md have it

OVER: dict[str, tuple[str, bool]] = {  # how, and whether PyTorch warns that it is read-only
    "from_dlpack": ("torch.from_dlpack(buf)", False),
    "as_tensor": ("torch.as_tensor(buf)", False),
    "from_numpy": ("torch.from_numpy(buf.array)", True),
    "asarray": ("torch.asarray(buf.array)", True),
    "as_tensor of the array": ("torch.as_tensor(buf.array)", True),
}


@pytest.mark.parametrize(("how", "warns"), OVER.values(), ids=OVER.keys())
def test_a_tensor_over_a_buffer_reads_it(store: refstore.Store, how: str, warns: bool) -> None:
    array = np.arange(12).reshape(3, 4)
    with store.get(store.put(array)) as buf:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.set_warn_always(True)
            tensor = eval(how)
            torch.set_warn_always(False)
        assert torch.equal(tensor, torch.tensor(array))
        assert tensor.data_ptr() == helpers.address(buf.array)
        del tensor
    assert any("not writable" in str(one.message) for one in caught) == warns


@pytest.mark.parametrize("how", [how for how, _ in OVER.values()], ids=OVER.keys())
def test_a_tensor_over_a_private_view_can_be_written(store: refstore.Store, how: str) -> None:
    ref = store.put(np.zeros(100_000))
    with store.get(ref, writable=True) as buf:
        tensor = eval(how)
        tensor.add_(1)
        assert buf.array.sum() == 100_000
        del tensor
    with store.get(ref) as buf:
        assert buf.array.sum() == 0


def test_a_write_through_a_read_only_buffer_kills(store: refstore.Store, path: str) -> None:
    store["a"] = np.zeros(100_000)
    script = """
        import refstore, sys, torch
        buf = refstore.Store(sys.argv[1], create=False).get("a")
        tensor = torch.from_dlpack(buf)
        print("made", flush=True)
        tensor.add_(1)
        print("written")
    """
    done = helpers.run_script(script, path)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "made\n")
    with store.get("a") as buf:
        assert buf.array.sum() == 0
    clear_up_after_the_dead(path)


def test_asarray_of_a_buffer_reads_its_bytes(store: refstore.Store) -> None:
    with store.get(store.put(np.arange(4).reshape(2, 2)), writable=True) as buf:
        tensor = torch.asarray(buf)
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (8,))
        del tensor
