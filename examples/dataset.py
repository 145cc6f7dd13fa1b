"""A data set that four readers share, and what memory each of them really uses.

    python -m examples.dataset

A list of Python objects is copied into each reader. A SharedList lies in shared memory once, and a
reader makes the object that it asks for. The memory is the PSS that the kernel counts: what is
shared by several processes counts with each in equal parts.
"""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from refstore import Store
from refstore.shared import SharedList

READERS, RECORDS = 4, 100_000


def records() -> list[dict[str, Any]]:
    return [
        {"id": number, "text": f"the text of record {number} " * 3, "label": number % 10}
        for number in range(RECORDS)
    ]


def used() -> int:
    """Bytes of memory that this process uses."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


def read(pipe: Connection) -> None:
    """One reader's process: all records, in an order of its own."""
    before = used()
    data: Sequence[dict[str, Any]] = pipe.recv()
    order = np.random.default_rng().permutation(len(data))
    pipe.send(sum(data[number]["label"] for number in order))
    pipe.recv()  # till all have read all
    pipe.send(used() - before)
    pipe.recv()


def measure(data: Sequence[dict[str, Any]]) -> str:
    """How much each reader uses."""
    context = multiprocessing.get_context("spawn")
    pipes, readers = [], []
    for _ in range(READERS):
        ours, theirs = context.Pipe()
        pipes.append(ours)
        readers.append(context.Process(target=read, args=(theirs,)))
        readers[-1].start()
        ours.send(data)  # a SharedList goes as a handle
    assert {pipe.recv() for pipe in pipes} == {sum(one["label"] for one in data)}
    for pipe in pipes:
        pipe.send("measure")
    megabytes = [pipe.recv() / 1e6 for pipe in pipes]
    for pipe, reader in zip(pipes, readers, strict=True):
        pipe.send("end")
        reader.join()
    return ", ".join(f"{one:.0f}" for one in megabytes) + " MB"


def main() -> None:
    data = records()
    with Store.temporary("64MiB") as store, SharedList.put(store, data) as shared:
        print(f"{READERS} readers of {RECORDS} records, memory of each:")
        print("a list:      ", measure(data))
        print("a SharedList:", measure(shared))


if __name__ == "__main__":
    main()
