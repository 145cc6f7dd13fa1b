"""Rows of the memory that processes take for themselves while they use one object."""

import multiprocessing
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.goals.row import Row
from refstore import Store
from stress.growth import memory_growth
from stress.support import reaped, size

PROCESSES = 4
SHARE = 0.05  # of the object, that each process may take for itself
_FORKSERVER = multiprocessing.get_context("forkserver")

Use = Callable[[Store, str], object]


def private_memory(what: str, store: Store, use: Use) -> Row:
    """A row of what each of several processes takes to use the object "large": the most.

    What the first use of a library takes is no part of it: that is on the object "small".
    """
    pipes, processes = [], list[BaseProcess]()
    for _ in range(PROCESSES):
        ours, theirs = _FORKSERVER.Pipe()
        pipes.append(ours)
        processes.append(_FORKSERVER.Process(target=_use, args=(store, use, theirs), daemon=True))
    with reaped(processes):
        for process in processes:
            process.start()
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("all are there")
        most = max(pipe.recv() for pipe in pipes)
        for pipe in pipes:
            pipe.close()
    nbytes = store.info("large").nbytes
    return Row(
        f"private memory of each of {PROCESSES} processes: {what}, {size(nbytes)}",
        size(nbytes),
        size(most),
        None,
        f"<= {SHARE:.0%} of it",
        most <= SHARE * nbytes,
    )


def _use(store: Store, use: Use, pipe: Connection) -> None:
    with closing(pipe):
        use(store, "small")
        pipe.send("ready")
        pipe.recv()
        with memory_growth(store) as growth:
            use(store, "large")
        pipe.send(growth.nbytes)
