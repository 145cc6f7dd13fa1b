"""Stores that refstore is compared with, each a small adapter of the same protocol.

protocol      what an adapter has to offer, and the interpreters that they run in
registry      which there are, and which can run here
loops         the timed loops, the same for all
worker        the process in which an adapter lives, and what it can be told to do
traffic       the parameter server's part of that
floors        what the machine itself takes: a dict, a copy into shared memory, nothing at all
host          the driver's side: a peer with its processes

An adapter never runs in the driver. Each of its processes is a program of its own, started with
the interpreter that the peer needs, so that one protocol and one set of loops serves them all.
"""
