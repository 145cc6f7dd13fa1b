"""The parameter server: 4 workers, 2 models of 5 MB, a store of 64 MiB.

The driver passes the keys around, for all peers alike. "nothing" does the same arithmetic and
sends the same messages with no store at all: time beyond that is the peer's own.
"""

import time

from benchmarks.comparison.results import SECONDS, Cell
from benchmarks.comparison.rounds import US, Comparison, progress
from benchmarks.peers.host import Host
from stress.measure import Spread, spread
from stress.support import MIB
from stress.weights import averages

CAPACITY = 64 * MIB
WORKERS = 4
NOTHING = "nothing"
WORK = "a sync of the parameter server"
BEYOND = "beyond the arithmetic"
_WHOLE = "whole"


class Server:
    """The traffic of one peer, sync after sync."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sync = 0
        self._averages: list[bytes] = []

    def sync(self) -> list[float]:
        """Runs a sync; its seconds."""
        server, *workers = self._host.workers(1 + WORKERS)
        self._sync += 1
        began = time.perf_counter()
        for worker in workers:
            worker.send("upload", self._sync)
        uploads = [worker.receive() for worker in workers]
        keys = server.call("average", uploads)
        # The workers still have the averages of before; these go once all have the new ones.
        for worker in workers:
            worker.send("download", keys)
        found = [worker.receive() for worker in workers]
        for worker, uploaded in zip(workers, uploads, strict=True):
            worker.send("delete_many", uploaded)
        for worker in workers:
            worker.receive()
        server.call("delete_many", self._averages)
        self._averages = keys
        taken = time.perf_counter() - began
        if self._host.name != NOTHING:
            self._verify(found)
        return [taken]

    def _verify(self, found: list[list[float]]) -> None:
        # The first and the last weight of each model.
        expected = [each for each in averages(range(1, WORKERS + 1), self._sync) for _ in range(2)]
        for answer in found:
            if answer != expected:
                raise RuntimeError(f"a worker got {answer} where the averages are {expected}")


def run(comparison: Comparison) -> None:
    effort = comparison.effort
    able = [name for name in comparison.peers if not comparison.why_not(name, "traffic")]
    with (
        comparison.hosts(CAPACITY, [*able, NOTHING], 1 + WORKERS) as hosts,
        progress("traffic", effort.syncs + 1) as bar,
    ):
        measures = {name: Server(host).sync for name, host in hosts.items()}
        comparison.in_turn((WORK,), _WHOLE, SECONDS, measures, bar, effort.syncs)
    for name in comparison.peers:
        if name not in able:
            cell = Cell(WORK, _WHOLE, name, SECONDS, note=comparison.why_not(name, "traffic"))
            comparison.report.cells.append(cell)
    _beyond(comparison)


def _beyond(comparison: Comparison) -> None:
    """Adds the time beyond the arithmetic and the messages: of medians, so no spread."""
    found = {cell.peer: cell.value.median for cell in comparison.report.of(WORK) if cell.value}
    if NOTHING not in found or US not in found:
        return
    ours = found[US] - found[NOTHING]
    for name in found:
        if name == NOTHING:
            continue
        beyond = found[name] - found[NOTHING]
        ratio: Spread | None = None
        if name != US and ours > 0:
            ratio = spread([beyond / ours])
        cell = Cell(WORK, BEYOND, name, SECONDS, value=spread([beyond]), ratio=ratio)
        comparison.report.cells.append(cell)
