"""Training compared: one process, several, and the store of stress/baseline before this one.

    python -m examples.gan.compare

Trains alone and with workers for a few epochs, then with workers for many, and sends the same
weights through the old store until that is full. The table is printed and written to compare.md.
"""

import argparse
import os
import sys
from functools import partial
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from examples.gan.endings import exit_code
from examples.gan.settings import Settings
from examples.gan.train import OUT, count, workers

if TYPE_CHECKING:
    from examples.gan.result import Result

SHORT = 10  # epochs, by when the old store was full
HEAD = """\
| run | epochs | seconds | to start | speed-up | digits read as asked | store, at most |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> int:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m examples.gan.compare",
        description="Time one process against several, and this store against the old one.",
    )
    parser.add_argument("--epochs", type=count, default=default.epochs, help="of the long run")
    parser.add_argument("--workers", type=workers, default=default.workers)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for compare.md")
    given = parser.parse_args()
    long = Settings(epochs=given.epochs, workers=given.workers, seed=given.seed)
    return exit_code(partial(run, long, given.out))


def run(long: Settings, out: Path) -> int:
    from dataclasses import replace

    from examples.gan import distributed, single

    out.mkdir(parents=True, exist_ok=True)  # before the work that would else be lost
    busy = os.getloadavg()[0]
    short = replace(long, epochs=SHORT)
    full_at = old_store_full_at(long)
    alone = single.train(SHORT, long.seed)
    several = [distributed.train(short), distributed.train(long)]
    text = report(long, full_at, alone, several) + notes(long, busy)
    (out / "compare.md").write_text(text)
    print(text)
    return 0


def old_store_full_at(settings: Settings) -> int | None:
    """Send the weights of such a run, without the maths, through the old store.

    Return the epoch whose sync finds it full, or None if it lasts.
    """
    from examples.gan.models import Discriminator, Generator
    from refstore import Store
    from stress.baseline.build import baseline_store

    weights = [Generator().weights, Discriminator().weights]
    with Store.temporary(capacity=settings.capacity) as store:
        capacity = store.capacity
    old = baseline_store()(f"compare-{os.getpid()}", capacity)
    old.unlink()  # mapped as it is, it goes with this process, however that ends
    unused = numbers(1)

    def put(copies: int) -> list[int]:
        keys = list(islice(unused, copies * len(weights)))
        for key, weight in zip(keys, weights * copies, strict=True):
            old.put(key, weight)
        return keys

    averages = put(1)
    for epoch in filter(settings.syncs_after, range(1, settings.epochs + 1)):
        try:
            offers = put(settings.workers)
            averages, stale = put(1), averages
        except MemoryError:
            return epoch
        for key in offers + stale:
            old.delete(key)
    return None


def report(long: Settings, full_at: int | None, alone: "Result", several: "list[Result]") -> str:
    name = f"{long.workers} workers"
    pace = alone.seconds / alone.epochs
    rows = [_row("one process", alone, pace)]
    rows += [_row(f"{name}, refstore", result, pace) for result in several]
    if full_at is None:
        rows.append(f"| {name}, old store | {long.epochs} | | | | | not full in that time |\n")
    else:
        for epochs in (SHORT, long.epochs):
            end = f"full at epoch {full_at}: fails" if full_at <= epochs else "not full yet"
            rows.append(f"| {name}, old store | {epochs} | | | | | {end} |\n")
    return f"# One process, {name}, and the old store\n\n{HEAD}{''.join(rows)}\n"


def _row(name: str, result: "Result", pace: float) -> str:
    """One line of the table; `pace` is the seconds that one process alone takes for an epoch."""
    from examples.gan.quality import share_read_as_asked
    from examples.gan.result import mib

    use = result.store
    cells = [
        name,
        str(result.epochs),
        f"{result.seconds:.1f}",
        f"{result.startup:.1f}",
        f"{pace * result.epochs / result.seconds:.2f}",
        f"{share_read_as_asked(result.generator):.0%}",
        "none used" if use is None else f"{mib(use.peak)}, at the end {mib(use.final)}",
    ]
    return f"| {' | '.join(cells)} |\n"


def notes(long: Settings, busy: float) -> str:
    """What a reader of the table has to know; `busy` is the load average before the first run."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        "Seconds are of training with its syncs; starting is apart: for workers it is mostly that"
        " each of them imports PyTorch, which the one process had done already.",
        "Speed-up is against one process's pace in its"
        f" {SHORT} epochs; {long.epochs} epochs alone were not run.",
        "An epoch is one pass over all digits in every run, but the workers take their steps side"
        f" by side: each network moves by 1/{long.workers} of the steps that it does alone.",
        "Digits read as asked: the share of 1000 generated ones whose nearest real digit is of the"
        " class that was asked for.",
        f"The store's capacity is {long.capacity}.",
        f"Measured on {cores} cores for {long.workers} workers and their server.",
    ]
    if cores < long.workers:
        lines[-1] += (
            f" {cores} cores cannot show the speed-up of {long.workers} workers: no more than"
            f" {cores} run at a time, so about {cores} is the most to expect here."
        )
    if busy > 0.5:
        lines.append(
            f"The load average was {busy:.1f} before the first run: other programs had part of the"
            " cores, and neither seconds nor speed-ups are those of an idle machine."
        )
    return "\n".join(f"- {note}" for note in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
