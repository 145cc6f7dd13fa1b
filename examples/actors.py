"""Reinforcement learning: a learner publishes weights, and eight actors play with the newest.

    python -m examples.actors

Nobody sends anything: they meet by names. An actor waits for weights newer than those it has, and
passes over versions that it missed. It owns its rollout until that is taken: one actor is killed,
and what it had put goes with it. The learner takes any four rollouts.
"""

import multiprocessing
from typing import Any

import numpy as np

from refstore import Store

ACTORS, TAKEN, UPDATES = 8, 4, 60
PLAYS, RATE, SPREAD = 64, 0.3, 0.1
GOAL = np.linspace(-1, 1, 20)  # only the game knows it, which says how far off one is
BUSY_TIMEOUT = 60  # seconds


def play(weights: Any, rng: np.random.Generator) -> Any:
    """Plays with changed weights: the changes, and in the last column the score of each."""
    changes = rng.normal(0, SPREAD, (PLAYS, len(GOAL)))
    scores = -((weights + changes - GOAL) ** 2).sum(axis=1)
    return np.column_stack([changes, scores])


def act(store: Store, number: int) -> None:
    """One actor's process."""
    rng, known = np.random.default_rng(number), None
    while True:
        with store.wait("weights", newer_than=known, timeout=BUSY_TIMEOUT) as buf:
            if buf.meta == b"final":
                return
            known, rollout = buf.ref, play(buf.array, rng)
        store.put(rollout, name=f"rollout {number}", replace=True, owned=True)


def learn(store: Store, weights: Any) -> Any:
    """One update, from the first rollouts that are there."""
    names = [f"rollout {number}" for number in range(ACTORS)]
    ready = store.wait_any(names, count=TAKEN, timeout=BUSY_TIMEOUT)
    bufs = store.get_many(ready)
    store.delete_many([buf.ref for buf in bufs])  # they stay as long as they are looked at
    plays = np.vstack([buf.array for buf in bufs])
    changes, scores = plays[:, :-1], plays[:, -1]
    return weights + RATE * (scores - scores.mean()) @ changes / len(plays) / SPREAD**2 / 2


def main() -> None:
    context = multiprocessing.get_context("spawn")
    weights = np.zeros_like(GOAL)
    with Store.temporary("16MiB") as store:
        actors = [context.Process(target=act, args=(store, n)) for n in range(ACTORS)]
        for actor in actors:
            actor.start()
        for update in range(UPDATES):
            store.put(weights, name="weights", replace=True)  # waits for nobody
            weights = learn(store, weights)
            if update == UPDATES // 2:
                actors[0].kill()
        store.put(weights, name="weights", replace=True, meta=b"final")
        for actor in actors:
            actor.join()
        print(
            f"after {UPDATES} updates off by {np.abs(weights - GOAL).max():.2f} at most;", end=" "
        )
        store.recover()  # or whoever attaches, or needs the room, does it
        print(f"left in the store: {store.names()}, problems: {len(store.check())}")


if __name__ == "__main__":
    main()
