"""A parameter server: workers read the weights by name, and offer gradients by ref.

    python -m examples.parameters

Each worker has its own data and sees the weights where they lie. The server goes down the mean of
the gradients and puts the new weights under the same name: readers see the old or the new.
"""

import multiprocessing
from contextlib import ExitStack
from multiprocessing.connection import Connection

import numpy as np

from refstore import Store

WORKERS, STEPS, RATE = 3, 60, 0.5
TRUTH = np.linspace(-1, 1, 200)  # the weights that gave all the data: inputs @ TRUTH


def work(store: Store, seed: int, server: Connection) -> None:
    """One worker's process: a gradient for each step that the server announces."""
    inputs = np.random.default_rng(seed).standard_normal((2000, len(TRUTH)))
    while server.recv():
        with store["weights"] as buf:
            gradient = inputs.T @ (inputs @ (buf.array - TRUTH)) / len(inputs)
        server.send(store.put(gradient))


def step(store: Store, workers: list[Connection]) -> None:
    for worker in workers:
        worker.send(True)
    refs = [worker.recv() for worker in workers]
    with ExitStack() as pins, store["weights"] as weights:
        gradients = [pins.enter_context(store.get(ref)).array for ref in refs]
        store["weights"] = weights.array - RATE * np.mean(gradients, axis=0)
    for ref in refs:
        store.delete(ref)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with Store.temporary("16MiB") as store:
        store["weights"] = np.zeros_like(TRUTH)
        workers: list[Connection] = []
        processes = []
        for seed in range(WORKERS):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=work, args=(store, seed, theirs), daemon=True))
            processes[-1].start()
            workers.append(ours)
        for _ in range(STEPS):
            step(store, workers)
        for worker in workers:
            worker.send(False)
        for process in processes:
            process.join()
        with store["weights"] as buf:
            print(f"after {STEPS} steps off by {np.abs(buf.array - TRUTH).max():.1e} at most")


if __name__ == "__main__":
    main()
