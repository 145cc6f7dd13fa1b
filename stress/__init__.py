"""Programs that load refstore and measure it; each runs as a file or as a module.

ops            random operations from several processes, every byte verified
fragmentation  mixed sizes at a given live fraction, and where it begins to fail
epochs         the weight traffic of a parameter server, whose occupancy must be flat
crash          everything at once, while processes are killed, stopped, forked and replaced
recovery       how soon what a killed process held is free again
concurrent     throughput against the number of processes, beside the store that refstore replaces
bench          every figure that docs/performance.md gives

`python stress/ops.py` puts this folder first on the import path, where `concurrent` would hide
the standard library's. So each program first puts the repository's root there instead.
"""
