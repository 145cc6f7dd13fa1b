"""What several processes reach together."""

from collections.abc import Mapping

from stress.peers.host import Host
from stress.side_by_side.bench import Bench, Measure, progress
from stress.side_by_side.cells import RATE
from stress.side_by_side.latency import OWN
from stress.support import KIB, MIB, size

CYCLES = (64, 4 * KIB, 5 * MIB)
HOT = (64, 5 * MIB)


def counted(procs: int) -> str:
    return "1 process" if procs == 1 else f"{procs} processes"


def run(bench: Bench, hosts: Mapping[str, Host]) -> None:
    """Put, get and delete of one's own objects; then all get one object."""
    effort = bench.effort
    windows = (len(CYCLES) + len(HOT)) * len(effort.procs)
    with progress("throughput", windows * (effort.crew_rounds + 1)) as bar:
        for nbytes in CYCLES:
            for procs in effort.procs:
                _contest(bench, hosts, "cycle", f"put/get/delete of {size(nbytes)}", nbytes, procs, bar)
        for nbytes in HOT:
            _learn(hosts, nbytes, max(effort.procs))
            for procs in effort.procs:
                _contest(bench, hosts, "hot", f"get of one hot {size(nbytes)}", nbytes, procs, bar)


def _contest(
    bench: Bench,
    hosts: Mapping[str, Host],
    loop: str,
    what: str,
    nbytes: int,
    procs: int,
    bar: "object",
) -> None:
    for host in hosts.values():
        for worker in host.workers(procs):
            if loop == "cycle":
                worker.call("prepare", nbytes, OWN)
    effort = bench.effort
    measures = {name: _speed(host, loop, nbytes, procs, effort.crew_window) for name, host in hosts.items()}
    bench.contest((what,), counted(procs), RATE, measures, bar, effort.crew_rounds, nbytes, procs)  # type: ignore[arg-type]


def _speed(host: Host, loop: str, nbytes: int, procs: int, seconds: float) -> Measure:
    def measure() -> list[float]:
        if loop == "hot":
            host.check("hot")
        return [host.speed(loop, 0 if loop == "hot" else nbytes, procs, seconds)]

    return measure


def _learn(hosts: Mapping[str, Host], nbytes: int, procs: int) -> None:
    for host in hosts.values():
        if "hot" not in host.about["cannot"]:
            (key,) = host.first.call("put_many", nbytes, 1)
            for worker in host.workers(procs):
                worker.call("learn", key)
