"""A data loader: some processes make batches, and one looks at them where they lie.

    python -m examples.loader

Only refs go through the queue, 16 bytes each. Its bound keeps the loaders from running ahead until
the store is full: at most 4 batches wait, and each loader and the reader have one in hand.
"""

import multiprocessing
from multiprocessing.queues import Queue
from typing import TypeAlias

import numpy as np

from refstore import ObjectRef, Store

LOADERS = 2
BATCHES = 20  # of each loader
SHAPE = (64, 128, 128)
BUSY_TIMEOUT = 60  # seconds; a loader that died would be waited for in vain

Batches: TypeAlias = "Queue[ObjectRef | None]"  # None: this loader has no more


def load(store: Store, seed: int, batches: Batches) -> None:
    """One loader's process."""
    rng = np.random.default_rng(seed)
    for _ in range(BATCHES):
        with store.create(shape=SHAPE, dtype="f4") as writer:
            rng.standard_normal(dtype=np.float32, out=writer.array)  # straight into shared memory
        batches.put(writer.ref)
    batches.put(None)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    batches: Batches = context.Queue(maxsize=4)
    with Store.temporary("64MiB") as store:
        for seed in range(LOADERS):
            context.Process(target=load, args=(store, seed, batches), daemon=True).start()
        means, at_work = [], LOADERS
        while at_work:
            ref = batches.get(timeout=BUSY_TIMEOUT)
            if ref is None:
                at_work -= 1
                continue
            with store.get(ref) as buf:  # no copy
                means.append(float(buf.array.mean()))
            store.delete(ref)
        for loader in multiprocessing.active_children():
            loader.join()
        print(f"{len(means)} batches, mean {np.mean(means):+.4f}, {len(store)} left in the store")


if __name__ == "__main__":
    main()
