"""Stores that refstore is compared with, each a small adapter of the same protocol.

protocol      the calls of an adapter
served        an adapter whose peer has a server
registry      the peers there are, and the interpreters that they run in
timing        the timed batches, the same for all
sync          a process's part in a sync of a parameter server
worker        the process in which an adapter lives, and its orders
footprint     the memory of a process and all that it has started
floors        adapters without a store: a dict, a copy into shared memory, nothing at all
host          the driver's side: a peer with its processes
with_*        the adapters

An adapter never runs in the driver. Each of its processes is a program of its own, started with
the interpreter that the peer needs, so that one protocol and one set of loops serves them all.
"""
