"""refstore and its peers, measured in one run; `python -m benchmarks` runs all of it.

results       one figure of one peer in one case, and the file of all of them
rounds        who takes part, how hard to try, and the rounds in turn
latency       put, get and delete by size; the first get in another process
throughput    several processes at once; one hot object
traffic       the parameter server
space         memory per object, usable space, a full store, mixed sizes
lifecycle     attaching, and the time until what a killed process held is free
machine       floors that need no store: an atomic add, a futex, a view
plots         the data of the pictures alone: occupancy over the epochs, a map of the arena
tables        the tables, for the terminal and for docs/performance.md
pictures      docs/img, drawn from the file
"""
