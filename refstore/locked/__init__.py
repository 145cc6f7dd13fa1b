"""The rooms of the filelock engine, lowest first; each imports only what stands above it.

layout      the file: every byte of it, and how it is made and looked over
life        whose call it is: a forked child ends none of its parent's
targets     room that is being filled: piece by piece, by one process
mapping     one process's view of it: two mappings, committed memory
journal     several words change together or not at all
space       extents of units
index       names
slots       the life of an object: claimed, sealed, pinned, deleted, freed
processes   rows, lock files, recovery
checks      counts, holders, the invariants
turns       one change at a time: the lock of the store
folders     files of stores and folders of locks, made and removed
exports     how a Python class exports a buffer
pins        roots of views, and the pins behind them
buffers     what is handed out to read
writers     what is handed out to write
member      a process's place in a store: how it comes, forks and goes
objects     from a Python object to the bytes of a block
attachment  what a process has of a store
"""
