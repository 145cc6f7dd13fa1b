"""refstore and its peers, measured in one run; `stress/bench.py` runs all of it.

cells         what is found: one figure of one peer in one case, and the file of all of them
bench         who takes part, how hard to try, and the A B A B of it
latency       put, get and delete by size; the first get in another process
throughput    several processes at once; one hot object
traffic       the parameter server
room          memory per object, what fits before "full", a full store, mixed sizes
processes     attaching, and what a killed process leaves
machine       floors that need no loop of a store: an atomic add, a futex, a view
tables        the tables, for the terminal and for docs/performance.md
pictures      docs/img, drawn from the file
"""
