"""DLPack: numpy's rules for read-only arrays, and the capsule's view pins."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
import pytest

import refstore

ARRAY = np.arange(24.0).reshape(4, 6)

ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an old version": {"max_version": (0, 8)},
    "version 1": {"max_version": (1, 0)},
    "a later version": {"max_version": (2, 5)},
    "a stream": {"stream": 1, "max_version": (1, 0)},
    "this device": {"dl_device": (1, 0), "max_version": (1, 0)},
    "another device": {"dl_device": (2, 0), "max_version": (1, 0)},
    "a copy": {"copy": True, "max_version": (1, 0)},
    "a copy in the old form": {"copy": True},
    "no copy": {"copy": False, "max_version": (1, 0)},
}


def outcome(exporter: Any, asked: dict[str, Any]) -> str:
    """What `__dlpack__` answers: the capsule's name, or the error's."""
    try:
        capsule = exporter.__dlpack__(**asked)
    except Exception as error:
        return type(error).__name__
    return repr(capsule).split('"')[1]


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("writable", [False, True])
def test_every_request_is_answered_as_numpy_answers_it(
    store: refstore.Store, asked: dict[str, Any], writable: bool
) -> None:
    like = ARRAY.copy()
    like.flags.writeable = writable
    ref = store.put(ARRAY)
    with store.get(ref, writable=writable) as buf:
        assert outcome(buf, asked) == outcome(like, asked)
    assert store.refcount(ref) == 1  # an unused capsule, too, lets go


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "e", "f", "F", "D", ">i4", "g", "M8[s]", "S3"])
def test_each_dtype_is_exported_or_refused_as_numpy_does(store: refstore.Store, dtype: str) -> None:
    array = np.zeros(5, dtype)
    asked = {"max_version": (1, 0)}
    with store.get(store.put(array)) as buf:
        assert outcome(buf, asked) == outcome(array, asked)


def test_the_device_is_the_cpu(store: refstore.Store) -> None:
    with store.get(store.put(ARRAY)) as buf:
        assert tuple(buf.__dlpack_device__()) == (1, 0)


@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[::2, ::-1]])
def test_from_dlpack_is_a_read_only_view(store: refstore.Store, array: helpers.Array) -> None:
    with store.get(store.put(array)) as buf:
        view = np.from_dlpack(buf)
        assert np.array_equal(view, array)
        assert not view.flags.writeable
        assert np.shares_memory(view, buf.array)
        del view


def test_from_dlpack_of_a_writable_buffer_is_writable(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    with store.get(ref, writable=True) as buf:
        view = np.from_dlpack(buf)
        view[0, 0] = -1
        assert buf.array[0, 0] == -1
        del view
    with store.get(ref) as buf:
        assert buf.array[0, 0] == 0


def test_a_copy_is_no_view_and_pins_nothing(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    with store.get(ref) as buf:
        copy = np.from_dlpack(buf, copy=True)
    assert store.refcount(ref) == 1
    copy[:] = 0
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, ARRAY)


def test_a_dlpack_view_pins_the_block(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    with store.get(ref) as buf:
        view = np.from_dlpack(buf)
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert np.array_equal(view, ARRAY)
    del view
    assert store.stats().condemned == 0
    helpers.assert_full_capacity_fits(store)


def test_a_capsule_nobody_took_pins_until_it_dies(store: refstore.Store) -> None:
    ref = store.put(ARRAY)
    with store.get(ref) as buf:
        capsule = buf.__dlpack__(max_version=(1, 0))
    assert store.refcount(ref) == 2
    del capsule
    assert store.refcount(ref) == 1


def test_torch_takes_a_writable_buffer(store: refstore.Store) -> None:
    torch = pytest.importorskip("torch")
    ref = store.put(ARRAY)
    with store.get(ref, writable=True) as buf:
        tensor = torch.from_dlpack(buf)
        tensor.mul_(2)
        assert np.array_equal(buf.array, ARRAY * 2)
        del tensor
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, ARRAY)


def test_a_refusal_blames_what_is_to_blame(store: refstore.Store) -> None:
    swapped = np.arange(3, dtype=">i4")
    with store.get(store.put(swapped)) as buf, pytest.raises(BufferError) as refused:
        np.from_dlpack(buf)
    assert "byte order" in str(refused.value)
    assert "read-only" not in str(refused.value)
