"""`refstore.torch.SharedDataset` and `collate`: samples once, batches by ref, no rest."""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import pickle
import signal
import time
from collections.abc import Iterator
from typing import Any

import helpers
import libraries
import numpy as np
import pytest

import refstore
import refstore.shared

torch, of_torch = libraries.Late("torch"), libraries.Late("refstore.torch")
data, torch_workers = libraries.Late("torch.utils.data"), libraries.Late("torch_workers")

pytestmark = [
    libraries.needed("torch"),
    pytest.mark.usefixtures("torch_in_children"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def form_of(i: int) -> Any:
    """A sample that has a bit of everything a column can be."""
    return {
        "image": torch.full((3, 4, 5), i, dtype=torch.uint8),
        "half": torch.tensor([i, i + 1]).bfloat16(),
        "numbers": (np.arange(3, dtype="f4") * i, i, i / 2, i % 2 == 0),
        "pair": torch_workers.Pair(torch.tensor(i), torch.zeros(0)),
    }


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch_workers.same(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def has_come(store: refstore.Store, count: int) -> bool:
    """Whether there are so many objects: whoever looks all the time keeps others from putting."""
    time.sleep(0.05)
    return len(store) >= count


@contextlib.contextmanager
def loading(samples: Any, store: refstore.Store, method: str, **options: Any) -> Iterator[Any]:
    """A loader of two workers; nothing of it is left in the end but what the store had."""
    before = len(store)
    fn = of_torch.collate(store, options.pop("collate_fn", None))
    options = {"batch_size": 2, "num_workers": 2, **options}
    loader = data.DataLoader(samples, collate_fn=fn, multiprocessing_context=method, **options)
    with helpers.forking_on_purpose():
        yield loader
    del loader, fn
    gc.collect()
    store.recover()
    assert len(store) == before
    assert store.stats().condemned == 0


# --- data sets


def test_samples_of_one_form_are_columns(store: refstore.Store) -> None:
    given = [form_of(i) for i in range(20)]
    with of_torch.SharedDataset.put(store, given, name="data", evictable=False) as samples:
        assert len(samples) == 20
        for i in (0, 7, -1):
            assert_equal(samples[i], given[i])
        assert samples.ref == store.ref("data")
        assert store.info("data").nbytes < 20 * 140 + 2048
        again = pickle.loads(pickle.dumps(samples))
        assert_equal(again[3], given[3])
        again.close()
    with pytest.raises(refstore.ObjectExistsError):
        of_torch.SharedDataset.put(store, given, name="data")
    of_torch.SharedDataset.put(store, given[:3], name="data", replace=True).close()
    with of_torch.SharedDataset(store, "data") as samples:
        assert [sample["numbers"][1] for sample in samples] == [0, 1, 2]


@pytest.mark.parametrize(
    "odd",
    [
        lambda: (torch.zeros(3), 1, "text"),
        lambda: (torch.zeros(4), 1),
        lambda: (torch.zeros(3).double(), 1),
        lambda: (torch.zeros(3), 1.0),
        lambda: (torch.zeros(3), 1 << 70),
        lambda: [torch.zeros(3), 1],
        lambda: (np.zeros(3, "f4"), 1),
        lambda: torch.eye(3).to_sparse(),
        lambda: None,
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of sparse tensors
def test_samples_of_other_forms_come_back_too(store: refstore.Store, odd: Any) -> None:
    usual = (torch.arange(3.0), 1)
    for given in ([usual, odd(), usual], [odd(), usual]):
        with of_torch.SharedDataset.put(store, iter(given)) as samples:
            assert len(samples) == len(given)
            for mine, theirs in zip(samples, given, strict=True):
                assert_equal(mine, theirs)
                del mine
    store.clear()
    gc.collect()
    assert store.stats().used == 0


def test_what_is_wrong_is_said(store: refstore.Store) -> None:
    store.put(b"RS", name="bytes")
    with pytest.raises(TypeError, match="has no samples: give what"):
        of_torch.SharedDataset(store, "bytes")
    with pytest.raises(refstore.ObjectNotFoundError):
        of_torch.SharedDataset(store, "nothing")
    for given in ([], [1.0, 2.0], ["a", "b"]):
        samples = of_torch.SharedDataset.put(store, given)
        for at in (len(given), -len(given) - 1):
            with pytest.raises(IndexError, match=f"no sample {at} in a SharedDataset of"):
                samples[at]
        samples.close()
        samples.close()
        with pytest.raises(ValueError, match="closed"):
            samples[0]
        with pytest.raises(ValueError, match="closed"):
            pickle.dumps(samples)
    assert store.stats().pinned == 0


def test_damaged_samples_are_said_to_be(store: refstore.Store) -> None:
    with of_torch.SharedDataset.put(store, [torch.ones(3)] * 5) as samples:
        whole = bytes(store.get(samples.ref))
    for octets in (whole[:100], whole[:24] + b"\xff" * 30 + whole[54:], whole[:8] + b"\xff" * 16):
        with pytest.raises(refstore.StoreCorruptedError, match="these samples are damaged"):
            of_torch.SharedDataset(store, store.put(octets))


def test_a_shared_list_is_a_data_set(store: refstore.Store) -> None:
    refstore.shared.SharedList.put(store, ["one", "two"], name="texts").close()
    with of_torch.SharedDataset(store, "texts") as samples:
        assert samples[1] == "two"


def test_what_is_taken_outlives_all(store: refstore.Store) -> None:
    with of_torch.SharedDataset.put(
        store, [torch.full((50_000,), float(i)) for i in range(3)]
    ) as d:
        sample = d[1]
        assert helpers.lies_in(store.path, sample.data_ptr())
        store.delete(d.ref)
    del d
    helpers.fill_with_junk(store)
    assert sample.min() == sample.max() == 1
    sample.fill_(5)
    del sample
    helpers.assert_full_capacity_fits(store)


# --- loaders


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_batches_come_by_ref(store: refstore.Store, method: str) -> None:
    given = [(torch.full((50_000,), float(i)), i) for i in range(8)]
    with (
        of_torch.SharedDataset.put(store, given) as samples,
        loading(samples, store, method, persistent_workers=True) as loader,
    ):
        for _ in range(2):
            seen = []
            for images, labels in loader:
                assert helpers.lies_in(store.path, images.data_ptr())
                assert images[:, -1].tolist() == labels.tolist()
                images.fill_(-1)
                seen += labels.tolist()
            assert seen == list(range(8))
        del images, labels, loader


def test_batches_are_as_torch_makes_them(store: refstore.Store) -> None:
    texts = [{"t": ("text", b"bytes"), "row": [torch.ones(2, 3), np.float32(2)]} for _ in range(3)]
    sparse = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    for given in ([form_of(i) for i in range(3)], texts, sparse, [1.5, 2.5], [torch.zeros(0)] * 2):
        plain = list(data.DataLoader(given, batch_size=2))
        with loading(given, store, "fork") as loader:
            for mine, theirs in zip(loader, plain, strict=True):
                assert_equal(mine, theirs)
                del mine
            del loader
    assert store.stats().used == 0


def test_batches_of_ones_own_making_come_by_ref(store: refstore.Store) -> None:
    given = torch_workers.Samples(4, 200_000)
    with loading(given, store, "fork", collate_fn=torch_workers.as_pairs) as loader:
        for batch in loader:
            assert isinstance(batch, torch_workers.Pair)
            assert helpers.lies_in(store.path, batch.image.data_ptr())
            assert batch.label["of"][1] == "text"
            assert len(batch.label["of"][0]) == 2
            del batch
        del loader


def test_streams_and_single_samples_do_as_well(store: refstore.Store) -> None:
    with loading(torch_workers.Stream(), store, "fork", batch_size=3) as loader:
        assert sorted(float(b[0, 0]) for b in loader) == [0, 0, 3, 3]
        del loader
    # without batches a loader converts each sample by itself
    with loading(
        torch_workers.Samples(3), store, "fork", batch_size=None, collate_fn=list
    ) as loader:
        assert [float(sample[0][0]) for sample in loader] == [0, 1, 2]
        del loader


def test_without_workers_nothing_is_put(store: refstore.Store) -> None:
    loader = data.DataLoader(
        [torch.ones(5000)] * 4, batch_size=2, collate_fn=of_torch.collate(store)
    )
    assert [batch.shape for batch in loader] == [(2, 5000)] * 2
    assert store.stats().puts == 0


def test_batches_that_nobody_takes_go_with_the_workers(store: refstore.Store) -> None:
    samples = torch_workers.Samples(40)
    with loading(samples, store, "fork") as loader:
        batches = iter(loader)
        first = next(batches)[0]
        del batches, loader
        assert first.shape == (2, 10_000)
        del first


def test_a_worker_that_is_killed_leaves_nothing(store: refstore.Store) -> None:
    samples = torch_workers.Samples(400)
    with loading(samples, store, "fork", prefetch_factor=8) as loader:
        batches = iter(loader)
        images, pids = next(batches)
        # some were made in advance
        assert helpers.eventually(lambda: has_come(store, 4))
        os.kill(int(pids[0]), signal.SIGKILL)
        with pytest.raises((RuntimeError, refstore.ObjectNotFoundError)):
            collections.deque(batches, maxlen=0)
        assert images[1].min() == images[1].max() == 1
        del batches, images, pids, loader


def test_batches_without_room_go_torchs_way(make_store: Any) -> None:
    store = make_store("1MiB")  # three batches; the workers make eight in advance
    samples = torch_workers.Samples(40, 160_000)
    for fn in (None, torch_workers.as_pairs):
        with loading(samples, store, "fork", prefetch_factor=4, collate_fn=fn) as loader:
            shared = [batch[0].is_shared() for batch in loader]
            assert len(shared) == 20
            assert {True, False} == set(shared)
            del loader
