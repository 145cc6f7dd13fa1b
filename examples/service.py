"""A service whose worker is killed in the middle of its work, and started again.

    python -m examples.service

An answer is written straight into the store, under its name. Until it is whole nobody sees it; if
the worker dies first, its room comes back. What is there is whole, so the next worker goes on.
"""

import multiprocessing
from multiprocessing.connection import Connection

from refstore import Store

QUESTIONS, LIFE = 8, 4  # LIFE: answers that a worker lives to begin


def serve(store: Store, keeper: Connection) -> None:
    """The worker's process: it answers what has no answer yet."""
    for number in range(QUESTIONS):
        if f"answer {number}" in store:
            continue
        with store.create(shape=1_000_000, dtype="i8", name=f"answer {number}") as writer:
            writer.array[:500_000] = number
            keeper.send(number)  # half of it is there
            keeper.recv()
            writer.array[500_000:] = number


def keep(store: Store) -> None:
    """One worker, from its start to its end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=serve, args=(store, theirs), daemon=True)
    worker.start()
    theirs.close()
    try:
        for _ in range(LIFE - 1):
            ours.recv()
            ours.send("go on")
        number = ours.recv()
    except EOFError:  # it has answered all
        worker.join()
        return
    worker.kill()  # kill -9
    worker.join()
    back = store.recover()  # or whoever needs the room does it, or attaches
    print(f"killed in answer {number}: {back.nbytes} bytes came back, {len(store)} answers stay")


def main() -> None:
    with Store.temporary("128MiB") as store:
        while len(store) < QUESTIONS:
            keep(store)
        whole = [(store[f"answer {n}"].array == n).all() for n in range(QUESTIONS)]
        print(f"{sum(whole)} answers are whole; problems: {len(store.check())}")


if __name__ == "__main__":
    main()
