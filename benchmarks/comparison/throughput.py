"""Operations per second of several processes together."""

from collections.abc import Mapping, Sequence

from benchmarks.comparison.latency import OWN, prepare
from benchmarks.comparison.results import RATE
from benchmarks.comparison.rounds import Comparison, Measure, progress
from benchmarks.peers.host import Host
from stress.support import KIB, MIB, size

CYCLES = (64, 4 * KIB, 5 * MIB)
HOT = (64, 5 * MIB)


def counted(procs: int) -> str:
    return "1 process" if procs == 1 else f"{procs} processes"


def run(comparison: Comparison, hosts: Mapping[str, Host]) -> None:
    """Puts, gets and deletes objects in each process; then all get one object."""
    effort = comparison.effort
    cases = [(_cycles, f"put/get/delete of {size(nbytes)}", nbytes) for nbytes in CYCLES]
    cases += [(_hot, f"get of one hot {size(nbytes)}", nbytes) for nbytes in HOT]
    windows = len(cases) * len(effort.procs) * (effort.procs_rounds + 1)
    with progress("throughput", windows) as bar:
        for measure, what, nbytes in cases:
            able = [
                name for name in hosts if measure is _cycles or not comparison.why_not(name, "hot")
            ]
            for procs in effort.procs:
                measures = {
                    name: measure(hosts[name], nbytes, procs, effort.procs_window) for name in able
                }
                comparison.in_turn(
                    (what,),
                    counted(procs),
                    RATE,
                    measures,
                    bar,
                    effort.procs_rounds,
                    size=nbytes,
                    procs=procs,
                )


def _cycles(host: Host, nbytes: int, procs: int, seconds: float) -> Measure:
    def measure() -> Sequence[float]:
        prepare(host, nbytes, OWN, procs)
        return [host.speed("cycle", nbytes, procs, seconds)]

    return measure


def _hot(host: Host, nbytes: int, procs: int, seconds: float) -> Measure:
    known: list[bytes] = []

    def measure() -> Sequence[float]:
        if not known:
            known.extend(host.first.call("put_many", nbytes, 1))
            for worker in host.workers(procs):
                worker.call("learn", known[0])
        return [host.speed("hot", 0, procs, seconds)]

    return measure
