"""Mixed sizes and random deletion at a given live fraction, and the one from which puts fail.

Sizes are log-uniform. Live are the bytes of payload that were asked for, so that rounding and
whatever else the store needs count against it. The bytes of the objects are not looked at:
`stress/ops.py` does that.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from benchmarks.churn import Churn, log_uniform
from refstore import Store, StoreFullError
from stress.support import MIB, fresh_seed, parse_size, rate, size, table

FIGURES = ((256 * MIB, 0.75), (64 * MIB, 0.65))  # capacity, and what may be live of it
_STEP = 0.01  # of the capacity, between two levels of the ramp
_BATCH = 1000

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Outcome:
    """The course of a run at one capacity."""

    capacity: int
    fraction: float  # live of the capacity, as asked
    operations: int  # done at that fraction
    seconds: float
    failed: str | None  # the StoreFullError at that fraction
    fails_from: float | None  # first level of the ramp with one; None if none had


def measure(
    capacity: int,
    fraction: float,
    operations: int,
    sizes: Sequence[int],
    seed: int,
    progress: Progress = lambda done: None,
) -> Outcome:
    """Churns at that fraction, then upwards from there until the store is full."""
    with Store.temporary(capacity) as store:
        churn = Churn(store, sizes, seed)
        began = time.monotonic()
        failed = None
        try:
            for start in range(0, operations, _BATCH):
                churn.run(int(capacity * fraction), min(_BATCH, operations - start))
                progress(churn.operations)
        except StoreFullError as error:
            failed = str(error)
        done, seconds = churn.operations, time.monotonic() - began
        fails_from = fraction if failed else ramp(churn, capacity, fraction, operations // 50)
        churn.clear()
        store.delete(store.put(bytes(capacity)))  # nothing of that history may stay in the way
        if problems := store.check():
            raise AssertionError(f"seed {seed}: {problems}")
        return Outcome(capacity, fraction, done, seconds, failed, fails_from)


def ramp(churn: Churn, capacity: int, fraction: float, operations: int) -> float | None:
    """The first fraction above the given one at which the store is full."""
    for level in range(1, round((1 - fraction) / _STEP) + 1):
        now = fraction + level * _STEP
        try:
            churn.run(int(capacity * now), operations)
        except StoreFullError:
            return now
    return None


def report(outcomes: Sequence[Outcome]) -> str:
    """A table of the outcomes."""
    rows = [["capacity", "live", "operations", "rate", "StoreFullError", "begins to fail at"]]
    for outcome in outcomes:
        begins = f"{outcome.fails_from:.0%} live" if outcome.fails_from else "nowhere"
        if outcome.failed:
            begins += " or less"
        rows.append(
            [
                size(outcome.capacity),
                f"{outcome.fraction:.0%}",
                str(outcome.operations),
                rate(outcome.operations / outcome.seconds),
                "yes" if outcome.failed else "none",
                begins,
            ]
        )
    return table(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000_000, help="puts and deletes")
    parser.add_argument("--capacity", type=parse_size, help="default: 256 MiB, then 64 MiB")
    parser.add_argument("--live-fraction", type=float, help="default: 0.75 and 0.65")
    parser.add_argument("--min-size", type=parse_size, default=64)
    parser.add_argument("--max-size", type=parse_size, default=MIB)
    parser.add_argument("--seed", type=int)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    seed = fresh_seed() if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    sizes = log_uniform(options.min_size, options.max_size, seed)
    figures = [
        (capacity, options.live_fraction or fraction)
        for capacity, fraction in FIGURES
        if options.capacity in (None, capacity)
    ] or [(options.capacity, options.live_fraction or 0.65)]
    outcomes = []
    for capacity, fraction in figures:
        with tqdm(total=options.operations, unit="op", unit_scale=True) as bar:

            def show(done: int, bar: "tqdm[None]" = bar) -> None:
                bar.update(done - bar.n)

            outcomes.append(measure(capacity, fraction, options.operations, sizes, seed, show))
    print(report(outcomes))
    if failures := [outcome.failed for outcome in outcomes if outcome.failed]:
        print(*failures, sep="\n", file=sys.stderr)
        print(f"FAULT with seed {seed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
