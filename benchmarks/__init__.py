"""Programs that measure how fast refstore is, and how well it uses its space.

`python -m benchmarks` measures everything that docs/performance.md shows: the goals that the
project holds itself to (goals/), and refstore beside other stores (comparison/, which drives the
adapters of peers/).

check           this machine's ratios against those on record
compare         the calls of the working tree against those of an earlier commit
instructions    instructions per call, counted by callgrind
recovery        the time until what a killed process held is free again
fragmentation   mixed sizes at a given live fraction, and the one from which puts fail

churn           objects of random sizes that come and go, for all that need a used store
shared_pages    memory of the kind that stores lie in
machine_floors  the time of an atomic add and of a futex

They may use the modules of `stress/`: workers, loops, measurements, the store before refstore.
"""
