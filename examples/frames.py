"""A pipeline of pandas: one process cleans a table, four others each work out a part of it.

    python -m examples.frames    # needs pandas

The cleaned table is made once, by whoever is first, and no process copies it: each sees its columns
where they lie in shared memory. What each of them adds to its own memory for that is printed beside
the size of the table.
"""

import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
import pandas as pd

from refstore import Store

ROWS, CITIES = 500_000, 50
PARTS = {"mean": "mean", "spread": "std", "highest": "max", "days": "count"}


def raw() -> pd.DataFrame:
    """Temperatures as they come from the sensors: some are missing, some are broken."""
    rng = np.random.default_rng(1)
    celsius = rng.normal(12, 8, ROWS)
    celsius[rng.integers(0, ROWS, 1000)] = np.nan
    celsius[rng.integers(0, ROWS, 1000)] = 999
    city = pd.Categorical.from_codes(
        rng.integers(0, CITIES, ROWS), [f"city {number}" for number in range(CITIES)]
    )
    return pd.DataFrame({"city": city, "day": np.arange(ROWS) % 365, "celsius": celsius})


def clean() -> pd.DataFrame:
    table = raw()
    table = table[table.celsius.between(-60, 60)].reset_index(drop=True)
    table["fahrenheit"] = table.celsius * 1.8 + 32
    return table


def used() -> int:
    """Bytes of memory that are this process's alone."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Private_"))


def work(store: Store, part: str, pipe: Connection) -> None:
    """One process: a column of the summary."""
    before = used()
    with store.get_or_put("clean", clean) as buf:
        table = buf.value
        seen = float(table.celsius.sum())  # all of it is looked at
        added = used() - before
        groups = table.groupby("city", observed=True).celsius
        store[part] = groups.agg(PARTS[part])
        pipe.send((added, seen))


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with Store.temporary("128MiB") as store:
        store.get_or_put("clean", clean).release()
        size = store.info("clean").nbytes
        pipes = []
        for part in PARTS:
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(store, part, theirs)).start()
            pipes.append(ours)
        added, seen = zip(*(pipe.recv() for pipe in pipes), strict=True)
        for process in multiprocessing.active_children():
            process.join()
        summary = pd.DataFrame({part: store[part].value for part in PARTS})
        each, equal = ", ".join(f"{one / 1e6:.1f}" for one in added), len(set(seen)) == 1
        print(f"a table of {size / 1e6:.1f} MB, of which each process copied {each} MB")
        print(f"{len(summary)} cities, {summary.days.sum()} rows; all saw the same: {equal}")


if __name__ == "__main__":
    main()
