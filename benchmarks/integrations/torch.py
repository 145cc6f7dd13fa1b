"""PyTorch by way of a store, against torch's own ways and against numpy.

Data loaders have 4 workers, which are spawned and stay; both loaders have theirs at the same time,
and take turns by the epoch. Memory is the proportional share (PSS) of this process and its workers.
"""

import io
import multiprocessing
import os
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import refstore.torch
from benchmarks.goals.row import Effort, Goal, Row, compared, timed
from refstore import Store
from stress import loops
from stress.measure import interleave
from stress.support import GIB, duration, rate, size

WORKERS, BATCH, SIDE = 4, 64, 64
SAMPLE = 3 * SIDE * SIDE * 4  # bytes
NBYTES = 500_000_000
EPOCHS = 5  # rounds at most
MESSAGE = 5_000_000


def rows(effort: Effort) -> Sequence[Row]:
    torch.set_num_threads(1)  # which wait for each other where other programs run, too
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    effort = replace(effort, rounds=effort.worker_rounds)
    with Store.temporary(GIB) as store:
        found = [*puts(store, effort), *weights(store, effort), *messages(store, effort)]
    with Store.temporary(2 * GIB) as store:
        return [*found, *data(store)]


# --- tensors and weights


def puts(store: Store, effort: Effort) -> Iterator[Row]:
    for nbytes, goal in ((64, 3.0), (MESSAGE, 1.05)):
        tensor = torch.ones(nbytes // 4)
        array = tensor.numpy().copy()
        yield timed(
            f"put of a tensor of {size(nbytes)} / of an array",
            effort,
            loops.puts(store, tensor),
            loops.puts(store, array),
            Goal(goal),
        )


class _Pickler(pickle.Pickler):
    """Makes pickles whose tensors are read by the fewest calls."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor:
            return NotImplemented
        return _tensor, (pickle.PickleBuffer(obj.numpy()), obj.dtype, tuple(obj.shape))


def _tensor(buffer: Any, dtype: Any, shape: Any) -> Any:
    return torch.frombuffer(buffer, dtype=dtype).view(shape)


def weights(store: Store, effort: Effort) -> Iterator[Row]:
    state = {f"layer{k}.weight": torch.randn(256, 256) for k in range(20)}
    file, found = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, 5, buffer_callback=found.append).dump(state)
    stream, buffers = file.getvalue(), [bytearray(each) for each in found]
    plain = store.put(state)
    refstore.torch.publish(store, "weights", state)
    what = "of a state dict of 20 x 256 KB / pickle.loads with buffers at hand"
    for name, call in (
        ("get and value", lambda: store.get(plain).value),
        ("refstore.torch.load", lambda: refstore.torch.load(store, "weights")),
    ):
        floor = loops.calls(lambda: pickle.loads(stream, buffers=buffers))
        yield timed(f"{name} {what}", effort, loops.calls(call), floor, Goal(1.3))
    module = torch.nn.ParameterDict(
        {key.replace(".", "_"): torch.nn.Parameter(value) for key, value in state.items()}
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = os.path.join(folder, "weights.pt")
        torch.save(module.state_dict(), path)
        refstore.torch.publish(store, "weights", module)
        yield timed(
            "publish of them / torch.save into /dev/shm",
            effort,
            loops.calls(lambda: refstore.torch.publish(store, "other", module)),
            loops.calls(lambda: torch.save(module.state_dict(), path)),
            None,
        )
        yield timed(
            "load of them into a module / torch.load from there, and load_state_dict",
            effort,
            loops.calls(lambda: refstore.torch.load(store, "weights", module)),
            loops.calls(lambda: module.load_state_dict(torch.load(path))),
            None,
        )
    store.clear()


# --- messages


def _echo(pipe: Any) -> None:
    while (tensor := pipe.recv()) is not None:
        pipe.send(float(tensor[-1]))


def messages(store: Store, effort: Effort) -> Iterator[Row]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    echo = context.Process(target=_echo, args=(there,), daemon=True)
    echo.start()
    for nbytes in (64, MESSAGE):
        source = torch.ones(nbytes // 4)

        def send(source: Any = source) -> float:
            tensor = source.clone()  # what torch has sent once lies in shared memory from then on
            began = time.perf_counter()
            here.send(tensor)
            here.recv()
            return time.perf_counter() - began

        def send_by_ref(send: Callable[[], float] = send) -> float:
            refstore.torch.install(store)
            taken = send()
            refstore.torch.uninstall()
            return taken

        floor, ours = interleave([send, send_by_ref], effort.rounds)
        what = f"a tensor of {size(nbytes)} to a process, and an answer / by torch's own way"
        yield compared(what, ours, floor, None, duration, str(effort.rounds))
    here.send(None)
    echo.join()
    for end in (here, there):
        end.close()


# --- data


def _pss(pids: Sequence[int]) -> int:
    """Bytes of memory of these processes, what they share divided between them."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def _pids() -> list[int]:
    return [os.getpid(), *(each.pid or 0 for each in multiprocessing.active_children())]


def _epoch(loader: Any) -> float:
    """Samples a second."""
    began, count = time.perf_counter(), 0
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - began)


def _loader(samples: Any, **options: Any) -> Any:
    return DataLoader(
        samples,
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        multiprocessing_context="spawn",
        persistent_workers=True,
        **options,
    )


def data(store: Store) -> Iterator[Row]:
    count = NBYTES // SAMPLE
    before = _of_torch_itself()
    images, labels = torch.ones(count, 3, SIDE, SIDE), torch.arange(count)
    plain = TensorDataset(images, labels)
    samples = refstore.torch.SharedDataset.put(store, plain)
    copy = store.info(samples.ref).nbytes
    del images, labels
    rates = _in_turn(store, plain, samples)
    del plain
    loader = _loader(samples, collate_fn=refstore.torch.collate(store))
    _epoch(loader)
    added = _pss(_pids()) - before
    del loader
    samples.close()
    yield compared(
        f"samples a second, {WORKERS} workers, spawned, {size(copy)} / torch's own way",
        rates[1],
        rates[0],
        Goal(1.5, at_least=True),
        rate,
        str(EPOCHS),
    )
    yield compared(
        "memory (PSS) that this takes of all processes / one copy",
        [float(added)],
        [float(copy)],
        Goal(1.6),
        size,
        "1",
    )


def _of_torch_itself() -> int:
    few = [(torch.zeros(1), k) for k in range(2 * BATCH * WORKERS)]
    with Store.temporary("64MiB") as store, refstore.torch.SharedDataset.put(store, few) as samples:
        loader = _loader(samples, collate_fn=refstore.torch.collate(store))
        _epoch(loader)
        return _pss(_pids())


def _in_turn(store: Store, plain: Any, samples: Any) -> list[list[float]]:
    theirs, ours = _loader(plain), _loader(samples, collate_fn=refstore.torch.collate(store))
    return interleave([lambda: _epoch(theirs), lambda: _epoch(ours)], EPOCHS)
