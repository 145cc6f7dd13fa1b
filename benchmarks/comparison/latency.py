"""Put, get and delete by size, and the first get of an object in another process."""

from collections.abc import Mapping, Sequence

from benchmarks.comparison.results import SECONDS
from benchmarks.comparison.rounds import Comparison, Measure, progress
from benchmarks.peers.host import Host
from benchmarks.peers.timing import batch_size
from stress.support import size

_WORKS = ("put", "get", "delete")
OWN = -1  # a process gets the objects that it puts itself
_FIRST = 0


def run(comparison: Comparison, hosts: Mapping[str, Host]) -> None:
    """Puts, gets once and deletes each object in one process, up to 64 of them at a time."""
    effort = comparison.effort
    with progress("latency", len(effort.sizes) * (effort.rounds + 1)) as bar:
        for nbytes in effort.sizes:
            measures = {name: _batches(host, nbytes, effort.window) for name, host in hosts.items()}
            comparison.in_turn(
                _WORKS, size(nbytes), SECONDS, measures, bar, effort.rounds, size=nbytes
            )


def across(comparison: Comparison, hosts: Mapping[str, Host]) -> None:
    """Puts in one process; another gets each object for the first time."""
    effort = comparison.effort
    with progress("first get", len(effort.sizes) * (effort.rounds + 1)) as bar:
        for nbytes in effort.sizes:
            measures = {name: _first_gets(host, nbytes) for name, host in hosts.items()}
            comparison.in_turn(
                ("first get",), size(nbytes), SECONDS, measures, bar, effort.rounds, size=nbytes
            )


def prepare(host: Host, nbytes: int, source: int, procs: int) -> None:
    """Prepares each round, so that a peer that cannot do it is out of that case and no other."""
    for worker in host.workers(procs):
        worker.call("prepare", nbytes, source)


def _batches(host: Host, nbytes: int, seconds: float) -> Measure:
    def measure() -> Sequence[float]:
        prepare(host, nbytes, OWN, 1)
        times: Sequence[float] = host.first.call("batches", nbytes, seconds)
        return times

    return measure


def _first_gets(host: Host, nbytes: int) -> Measure:
    def measure() -> Sequence[float]:
        prepare(host, nbytes, _FIRST, 2)
        keys = host.first.call("put_many", nbytes, batch_size(nbytes))
        seconds: float = host.workers(2)[1].call("first_gets", keys)
        host.first.call("delete_many", keys)
        return [seconds]

    return measure
