"""Programs that put refstore under load and break its processes; each runs as a file or a module.

ops            random operations from several processes, every byte verified (ops_worker)
crash          everything at once, while processes are killed, stopped, forked and replaced
               (crash_worker, crash_ledger)
epochs         the weight traffic of a parameter server, whose occupancy must be flat (weights)
concurrent     throughput against the number of processes, beside the store that refstore replaces
               (workers)

pattern        objects whose every byte follows from an id
loops          the tight loops that are measured
measure        measurements taken in turn, and their medians
huge_pages     the kernel's answer to a wish for huge pages
baseline/      the store that refstore replaces, and the same work for both
support        options, tables, names, child processes

Performance programs are in `benchmarks/`, which may use these modules; none of these uses those.

`python stress/ops.py` puts this folder first on the import path, where `concurrent` would hide
the standard library's. So each program first puts the repository's root there instead.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the repository
