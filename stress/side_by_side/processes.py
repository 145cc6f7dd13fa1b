"""Attaching, and how soon what a killed process held is free again."""

from collections.abc import Callable, Mapping

from stress.measure import Spread, spread
from stress.peers.host import Host
from stress.peers.protocol import Cannot
from stress.side_by_side.bench import Bench, progress
from stress.side_by_side.cells import SECONDS, Cell
from stress.support import MIB

_CAPACITY = 64 * MIB
_LARGE = 40 * MIB  # two of them do not fit
_PATIENCE = 5.0
ATTACH = "attach"
KILL = "room again after a kill"


def attach(bench: Bench, hosts: Mapping[str, Host]) -> None:
    """In a new process each time, the peer's package already imported."""
    with progress("attach", len(hosts)) as bar:
        for name, host in hosts.items():
            bar.set_postfix_str(name)
            bench.once(Cell(ATTACH, "a new process", name, SECONDS), lambda h=host: _attach(h, bench.effort.deaths))
            bar.update()


def _attach(host: Host, times: int) -> Spread:
    taken = []
    for _ in range(times + 1):  # the first finds cold caches
        taken.append(host.another())
        host.end_last()
    return spread(taken[1:])


def kill(bench: Bench) -> None:
    """A process is killed with 40 of 64 MiB in its hands; how long until another can have them."""
    ways: dict[str, Callable[[Host], float]] = {"held a view": _reader, "half written": _writer}
    with progress("kill", len(ways) * len(bench.peers)) as bar:
        for name in bench.peers:
            for case, way in ways.items():
                bar.set_postfix_str(name)
                cell = Cell(KILL, case, name, SECONDS)
                bench.once(cell, lambda n=name, w=way: _deaths(bench, n, w))
                bar.update()


def _deaths(bench: Bench, name: str, way: Callable[[Host], float]) -> Spread:
    about = bench.report.peers.get(name, {})
    if "kill" in about.get("cannot", {}):
        raise Cannot(about["cannot"]["kill"])
    if not about.get("bounded", True):
        raise Cannot("no capacity")
    found = []
    for _ in range(bench.effort.deaths):
        with Host(name, _CAPACITY) as host:
            host.workers(2)
            died = way(host)
            taken = host.first.call("until_fits", _LARGE, died, _PATIENCE)
            if taken is None:
                raise Cannot(f"not within {_PATIENCE:g} s")
            found.append(taken)
    return spread(found)


def _reader(host: Host) -> float:
    (key,) = host.first.call("put_many", _LARGE, 1)
    host.workers(2)[1].call("hold", key)
    host.first.call("delete_many", [key])
    return host.kill_last()


def _writer(host: Host) -> float:
    host.workers(2)[1].call("begin", _LARGE)
    return host.kill_last()
