"""The queues of "s3fifo" are hints: whatever they hold, objects are evicted, and nothing else."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import refstore
from refstore.engines.filelock import layout

MakeStore = Callable[..., refstore.Store]
SIZE = 4096


def file_of(store: refstore.Store) -> Any:
    attachment: Any = store._attachment
    return attachment.file


def lengths(store: refstore.Store) -> tuple[int, int]:
    words = file_of(store).words
    small, main = (words[ring + 1] - words[ring] for ring in (layout.SMALL, layout.MAIN))
    return small, main


def s3fifo(trace: Sequence[int], room: int) -> list[bool]:
    """Which of the requests a cache of so many objects has, by the letter of the policy."""
    small, main, ghosts = deque[int](), deque[int](), deque[int]()
    there: dict[int, int] = {}
    hits = []

    def evict() -> None:
        while True:
            if len(small) >= room // 10 or not main:
                key = small.popleft()
                if not there[key]:
                    ghosts.append(key)
                    break
                there[key] = 0
            else:
                key = main.popleft()
                if not there[key]:
                    break
                there[key] -= 1
            main.append(key)
        del there[key]

    for key in trace:
        hits.append(key in there)
        if hits[-1]:
            there[key] = min(there[key] + 1, layout.MOST_HITS)
            continue
        if len(there) == room:
            evict()
        while len(ghosts) > room - room // 10:
            ghosts.popleft()
        there[key] = 0
        if key in ghosts:
            ghosts.remove(key)
            main.append(key)
        else:
            small.append(key)
    return hits


def test_it_is_that_policy(make_store: MakeStore) -> None:
    room = 50
    dice = np.random.default_rng(5)
    weights = np.arange(1, 501) ** -0.9
    trace: list[int] = dice.choice(500, size=1500, p=weights / weights.sum()).tolist()
    store = make_store(room * SIZE, max_objects=200, evict="s3fifo")
    hits = []
    for key in trace:
        hits.append(f"{key}" in store)
        if hits[-1]:
            store.get(f"{key}").release()
        else:
            store.put(bytes(SIZE), name=f"{key}")
    expected = s3fifo(trace, room)
    # not one by one: names that leave are forgotten a little sooner or later
    assert abs(sum(hits) - sum(expected)) <= len(trace) // 100
    assert sum(a != b for a, b in zip(hits, expected, strict=True)) <= len(trace) // 20


def test_what_is_gone_does_not_fill_a_ring(make_store: MakeStore) -> None:
    store = make_store("1MiB", max_objects=64, evict="s3fifo")
    ring = file_of(store).g.ring_words
    kept = [store.put(bytes(SIZE), name=f"kept {number}") for number in range(10)]
    for _ in range(3 * ring):
        store.delete(store.put(b"x"))
    assert 10 <= sum(lengths(store)) <= ring
    for _ in range(54):
        store.put(b"x")
    for number in range(10):  # the oldest go first, as before
        assert [ref in store for ref in kept] == [False] * number + [True] * (10 - number)
        store.put(b"x")
    assert store.check() == []


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_queues_hold_objects_are_evicted(make_store: MakeStore, seed: int) -> None:
    store = make_store(20 * SIZE, max_objects=64, evict="s3fifo")
    file, dice = file_of(store), random.Random(seed)
    kept = store.put(b"k" * SIZE, name="kept", evictable=False)
    g = file.g
    for number in range(60):
        store.put(bytes([number]) * SIZE, name=f"{number}")
        if number % 3 == 0:
            for ring in (layout.SMALL, layout.MAIN):
                for word in (ring, ring + 1):
                    file.words[word] = dice.choice((0, 1, 5, 600, (1 << 64) - 1, file.words[word]))
            for _ in range(10):
                at = dice.randrange(g.rings, g.ghosts + (g.ghost_mask + 1) * layout.GHOST_WAYS)
                if file.commit_word(at):
                    file.words[at] = dice.getrandbits(64) >> dice.choice((0, 32, 60))
            file.words[layout.GHOSTS] = dice.getrandbits(64)
    assert bytes(store.get(kept)) == b"k" * SIZE
    assert store.stats().evictions == 41
    for name in store.names():
        with store.get(name) as buf:
            assert name == "kept" or bytes(buf) == bytes([int(name)]) * SIZE
    assert store.check() == []


def test_an_entry_that_was_lost_is_found_again(make_store: MakeStore) -> None:
    store = make_store(20 * SIZE, max_objects=64, evict="s3fifo")
    for number in range(20):
        store.put(bytes(SIZE), name=f"{number}")
    for ring in (layout.SMALL, layout.MAIN):
        file_of(store).words[ring] = file_of(store).words[ring + 1]
    for number in range(20, 40):
        store.put(bytes(SIZE), name=f"{number}")
    assert len(store) == 20
    assert sum(lengths(store)) >= 19


def test_stores_without_the_policy_have_no_entries(store: refstore.Store) -> None:
    store.put_many([b"x"] * 100, evictable=True)
    assert lengths(store) == (0, 0)


def test_what_may_not_go_has_no_entry(make_store: MakeStore) -> None:
    store = make_store("1MiB", evict="s3fifo")
    store.put(b"x", evictable=False)
    store.put(b"y")
    assert sum(lengths(store)) == 1


def test_an_unknown_policy_in_the_file_is_damage(make_store: MakeStore, path: str) -> None:
    make_store("1MiB").close()
    with open(path, "r+b") as file:
        at = struct.calcsize("=QIIQQQQQQ16sI")
        file.seek(at)
        file.write(struct.pack("=I", 3))
    with pytest.raises(refstore.StoreCorruptedError, match="damaged header"):
        refstore.Store(path, create=False)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack("=I", 0))
