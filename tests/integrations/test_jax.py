"""JAX beside a store: arrays come back as they were, and lie over what is stored without a copy."""

from __future__ import annotations

import gc
import importlib.metadata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documented
import libraries
import ml_dtypes
import numpy as np
import pytest

import refstore

jax = libraries.Late("jax")

pytestmark = libraries.needed("jax")


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Where there is a GPU, too: the arrays of these tests are where the store is."""
    with jax.default_device(jax.devices("cpu")[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # JAX's own, of numpy
        yield


def require_read_only() -> None:
    if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 12):
        pytest.skip("needs JAX 0.12, which takes read-only arrays")


def lies_at(array: Any, buf: refstore.PinnedBuffer) -> bool:
    return bool(array.unsafe_buffer_pointer() == buf.array.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "float8_e4m3fn"])
def test_an_array_comes_back_as_it_was(store: refstore.Store, dtype: str) -> None:
    sent = jax.numpy.arange(24).reshape(2, 3, 4).astype(dtype)
    back = store.get(store.put(sent)).value
    assert isinstance(back, jax.Array)
    assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
    assert (back == sent).all()


def test_a_tree_of_arrays_comes_back(store: refstore.Store) -> None:
    tree = {"w": jax.numpy.ones((300, 40)), "b": [jax.numpy.zeros(3), {"step": 7}]}
    back = store.get(store.put(tree)).value
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(tree)))


def test_what_is_put_as_an_array_is_one_of_numpy(store: refstore.Store) -> None:
    sent = jax.numpy.arange(1000, dtype="bfloat16")
    ref = store.put(np.asarray(sent))
    assert store.info(ref).kind == "array"
    with store.get(ref) as buf:
        assert buf.array.dtype == ml_dtypes.bfloat16
        assert (jax.numpy.asarray(buf.array) == sent).all()


@pytest.mark.parametrize("is_private", [False, True])
def test_an_array_lies_over_what_was_got(store: refstore.Store, is_private: bool) -> None:
    if not is_private:
        require_read_only()
    ref = store.put(np.arange(100_000.0, dtype="f4"))
    buf = store.get(ref, writable=is_private)
    array = jax.dlpack.from_dlpack(buf)
    assert lies_at(array, buf)
    del buf
    store.delete(ref)
    gc.collect()
    assert store.stats().condemned == 1  # the array pins it
    assert float(array[-1]) == 99_999
    del array
    gc.collect()
    assert store.stats().condemned == 0


def test_a_donated_array_changes_nothing_that_is_stored(store: refstore.Store) -> None:
    require_read_only()
    ref = store.put(np.zeros(100_000, "f4"))
    with store.get(ref) as buf:
        array = jax.dlpack.from_dlpack(buf)
        more = jax.jit(lambda x: x + 1, donate_argnums=0)(array).block_until_ready()
        assert float(more[0]) == 1
        del array, more
        assert not buf.array.any()


def test_a_result_is_copied_once_into_a_writer(store: refstore.Store) -> None:
    made = jax.numpy.linspace(0, 1, 5000)
    with store.create(shape=made.shape, dtype=made.dtype, name="made") as writer:
        np.copyto(writer.array, made)
    assert np.array_equal(store["made"], made)


@libraries.needed("array_api_strict")
def test_the_array_api_takes_what_was_got(store: refstore.Store) -> None:
    import array_api_strict

    with store.get(store.put(np.arange(12.0).reshape(3, 4)), writable=True) as buf:
        taken = array_api_strict.from_dlpack(buf)
        assert taken.shape == (3, 4)
        assert float(array_api_strict.sum(taken)) == 66
        del taken


@pytest.mark.once("shows what its page shows")
def test_the_page_works(folder: Path) -> None:
    require_read_only()
    documented.run_page("integrations/jax.md", folder)
