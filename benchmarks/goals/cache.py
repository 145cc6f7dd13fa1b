"""Rows of stores that are caches: what they keep, and how fast they change."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice
from typing import Literal

from benchmarks import traces
from benchmarks.goals.row import Effort, Goal, Row, compared, timed
from refstore import ObjectNotFoundError, Store
from stress.measure import Loop
from stress.support import KIB, rate
from stress.workers import Workers

_Policy = Literal["lru", "s3fifo"]

ROOM = 10_000  # objects
SIZE = 4 * KIB
SEED = 1
_WARM = 500_000  # gets: ever before the first that counts
_FEW = 10  # puts of one turn
_DRAWN = 400_000  # gets that are gone through again and again
_NAMES = [f"key {key}" for key in range(traces.KEYS)]
_POLICIES: tuple[_Policy, ...] = ("lru", "s3fifo")
# policy, trace, and by how many points its hit rate is to be better than that of exact LRU
_POINTS: tuple[tuple[_Policy, str, float, bool, float], ...] = (
    ("lru", "Zipf 0.8", 0.8, False, -1.0),
    ("lru", "Zipf 1.0", 1.0, False, -1.0),
    ("lru", "Zipf 0.9, shifting", 0.9, True, -1.0),
    ("s3fifo", "Zipf 0.8", 0.8, False, 6.0),
    ("s3fifo", "Zipf 1.0", 1.0, False, 4.0),
    ("s3fifo", "Zipf 0.9, shifting", 0.9, True, 1.5),
)


def hit_rates(effort: Effort) -> Sequence[Row]:
    """Compares the share of gets that find their object with that of an exact LRU cache."""
    return list(_hit_rates(2 * effort.objects))


def _hit_rates(gets: int) -> Iterator[Row]:
    warm = min(_WARM, gets)
    for policy, what, alpha, shifts, least in _POINTS:
        trace = traces.zipf(alpha, warm + gets, SEED, shifts=shifts)
        exact = 100 * traces.exact_lru(trace, ROOM, warm)
        ours = 100 * _hits(policy, trace, warm)
        yield Row(
            f"hit rate of evict={policy!r} / exact LRU, points: {what}, seed {SEED}",
            f"{exact:.1f} %",
            f"{ours:.1f} %",
            None,
            f">= {least:+g} points",
            ours - exact >= least,
            f"{gets:,} gets",
        )


def _hits(policy: _Policy, trace: Sequence[int], warm: int) -> float:
    with Store.temporary(ROOM * SIZE, evict=policy) as store:
        look = _looker(store)
        look(trace[:warm])
        return look(trace[warm:]) / (len(trace) - warm)


def _looker(store: Store) -> Callable[[Sequence[int]], int]:
    """A function that asks for keys, puts those that are not there, and counts those that are."""
    get, put, data = store.get, store.put, memoryview(bytearray(b"\x01" * SIZE))

    def look(keys: Sequence[int]) -> int:
        hits = 0
        for key in keys:
            try:
                with get(_NAMES[key]):
                    hits += 1
            except ObjectNotFoundError:  # noqa: PERF203  as who has a cache does it
                put(data, name=_NAMES[key], replace=True)
        return hits

    return look


def churn(effort: Effort) -> Sequence[Row]:
    """Gets and puts of a full cache, beside a dict that keeps copies in the order of their use."""
    return [*_churn_alone(effort), *_churn_together(effort), *_full(effort)]


def _churn_alone(effort: Effort) -> Iterator[Row]:
    trace = traces.zipf(1.0, _DRAWN, SEED)
    for copies in (False, True):
        for policy in _POLICIES:
            with Store.temporary(ROOM * SIZE, evict=policy) as store:
                what = f"full cache, evict={policy!r} / OrderedDict"
                yield timed(
                    f"{what}, which copies what is put{' and got' if copies else ''}",
                    effort,
                    _asking(store, trace),
                    _asking_dict(trace, copies),
                    None if copies else Goal(1.0),
                    warm=_DRAWN,
                )


def _churn_together(effort: Effort) -> Iterator[Row]:
    for policy in _POLICIES:
        with Store.temporary(ROOM * SIZE, evict=policy) as store:

            def setup(index: int, store: Store = store) -> dict[str, Loop]:
                loop = _asking(store, traces.zipf(1.0, _DRAWN, SEED + index))
                loop(_DRAWN)
                return {"ask": loop}

            ours, floor = [], []
            with Workers(2, setup) as both, Workers(1, setup) as alone:
                for _ in range(effort.worker_rounds):
                    floor.append(alone.window("ask", effort.worker_window).speed)
                    ours.append(both.window("ask", effort.worker_window).speed)
        what = f"full cache, evict={policy!r}: two processes / one"
        yield compared(what, ours, floor, Goal(1.7, at_least=True), rate, str(len(ours)))


def _full(effort: Effort) -> Iterator[Row]:
    """What makes room for itself, by other calls than put() into a store with a policy."""
    names = (f"fresh {number}" for number in count())
    with (
        Store.temporary(ROOM * SIZE, evict="lru") as store,
        Store.temporary(ROOM * SIZE) as plain,
    ):
        subjects: dict[str, Loop] = {
            "get_or_put of what is not there / put": _making(store, names),
            f"put_many of {_FEW} / {_FEW} puts": _putting_many(store, names),
            "put(evictable=True) without a policy / with one": _putting(
                plain, names, evictable=True
            ),
        }
        floor = _putting(store, names)
        for what, loop in subjects.items():
            yield timed(f"full store: {what}", effort, loop, floor, None, warm=2 * ROOM // _FEW)


def _putting(store: Store, names: Iterator[str], evictable: bool | None = None) -> Loop:
    data = bytes(SIZE)

    def run(turns: int) -> None:
        for name in islice(names, turns * _FEW):
            store.put(data, name=name, replace=True, evictable=evictable)

    return run


def _putting_many(store: Store, names: Iterator[str]) -> Loop:
    batch = [bytes(SIZE)] * _FEW

    def run(turns: int) -> None:
        for _ in range(turns):
            store.put_many(batch, names=list(islice(names, _FEW)), replace=True)

    return run


def _making(store: Store, names: Iterator[str]) -> Loop:
    data = bytes(SIZE)

    def run(turns: int) -> None:
        for name in islice(names, turns * _FEW):
            store.get_or_put(name, lambda: data).release()

    return run


def _asking(store: Store, trace: Sequence[int]) -> Loop:
    look, forever = _looker(store), cycle(trace)
    return lambda turns: look(list(islice(forever, turns)))


def _asking_dict(trace: Sequence[int], copies: bool) -> Loop:
    there: OrderedDict[str, bytes] = OrderedDict()
    data, forever = memoryview(bytearray(b"\x01" * SIZE)), cycle(trace)

    def run(turns: int) -> None:
        for key in list(islice(forever, turns)):
            name = _NAMES[key]
            try:
                value = there[name]
                there.move_to_end(name)
                if copies:
                    bytes(memoryview(value))
            except KeyError:
                there[name] = bytes(data)
                if len(there) > ROOM:
                    there.popitem(last=False)

    return run
