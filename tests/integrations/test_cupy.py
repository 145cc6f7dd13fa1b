"""CuPy beside a store: arrays of a GPU, put and got by way of the CPU, and of registered memory."""

from __future__ import annotations

import libraries
import numpy as np
import pytest

import refstore

cupy = libraries.Late("cupy")

pytestmark = libraries.needed("cupy")


@pytest.fixture(autouse=True)
def there_is_a_gpu() -> None:
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("there is no GPU here")


def test_an_array_of_a_gpu_comes_back_as_one(store: refstore.Store) -> None:
    sent = cupy.arange(6000, dtype="f4").reshape(20, 300)
    back = store.get(store.put({"w": sent})).value["w"]
    assert isinstance(back, cupy.ndarray)
    assert (back == sent).all()


def test_what_was_got_is_copied_to_a_gpu(store: refstore.Store) -> None:
    ref = store.put(np.arange(100_000.0))
    with store.get(ref) as buf:
        there = cupy.asarray(buf.array)
    assert float(there.sum()) == 4_999_950_000


def test_an_array_of_a_gpu_is_copied_once_into_a_writer(store: refstore.Store) -> None:
    made = cupy.arange(5000, dtype="f8")
    with store.create(shape=made.shape, dtype=made.dtype, name="made") as writer:
        made.get(out=writer.array)
    assert np.array_equal(store["made"], np.arange(5000.0))


@libraries.needed("torch")
def test_registered_memory_is_copied_while_the_caller_goes_on(store: refstore.Store) -> None:
    import refstore.torch

    ref = store.put(np.arange(100_000.0))
    stream = cupy.cuda.Stream(non_blocking=True)
    there = cupy.empty(100_000)
    with refstore.torch.pin_cuda(store), store.get(ref) as buf:
        there.set(buf.array, stream=stream)
        stream.synchronize()
    assert float(there.sum()) == 4_999_950_000
