"""Attaching, and how soon what a killed process held is free again."""

from collections.abc import Callable, Mapping
from functools import partial

from stress.measure import Spread, spread
from stress.peers.host import Host
from stress.peers.protocol import Cannot
from stress.side_by_side.bench import Bench, progress
from stress.side_by_side.cells import SECONDS, Cell
from stress.support import MIB

_CAPACITY = 64 * MIB
_HELD = 24 * MIB
_FILLER = 4 * MIB
_PATIENCE = 5.0
ATTACH = "attach"
KILL = "room again after a kill"

Way = Callable[[Host], None]  # to have a second process take room


def attach(bench: Bench, hosts: Mapping[str, Host]) -> None:
    """In a new process each time, the peer's package already imported."""
    with progress("attach", len(hosts)) as bar:
        for name, host in hosts.items():
            bar.set_postfix_str(name)
            bench.once(
                Cell(ATTACH, "a new process", name, SECONDS),
                partial(_attach, host, bench.effort.deaths),
            )
            bar.update()


def _attach(host: Host, times: int) -> Spread:
    taken = []
    for _ in range(times + 1):  # the first finds cold caches
        taken.append(host.another())
        host.end_last()
    return spread(taken[1:])


def kill(bench: Bench) -> None:
    """A process is killed with 24 MiB in its hands and the rest full: how long until a put fits.

    What it reads was deleted before, what it writes is half written.
    """
    ways: dict[str, Way] = {"held a view": _reader, "half written": _writer}
    with progress("kill", len(ways) * len(bench.peers)) as bar:
        for name in bench.peers:
            for case, way in ways.items():
                bar.set_postfix_str(name)
                cell = Cell(KILL, case, name, SECONDS)
                bench.once(cell, partial(_deaths, bench, name, way, case))
                bar.update()


def _deaths(bench: Bench, name: str, way: Way, case: str) -> Spread:
    bench.check(name, "kill")
    bench.check(name, case)
    if not bench.bounded(name):
        raise Cannot("no capacity")
    found = []
    for _ in range(bench.effort.deaths):
        with Host(name, _CAPACITY) as host:
            host.workers(2)
            way(host)
            if not host.first.call("fill", _FILLER, bench.effort.patience)[1]:
                raise Cannot(f"not full after {bench.effort.patience:g} s")
            died = host.kill_last()
            taken = host.first.call("until_fits", _FILLER, died, _PATIENCE)
            if taken is None:
                raise Cannot(f"not within {_PATIENCE:g} s")
            found.append(taken)
    return spread(found)


def _reader(host: Host) -> None:
    (key,) = host.first.call("put_many", _HELD, 1)
    host.workers(2)[1].call("hold", key)
    host.first.call("delete_many", [key])


def _writer(host: Host) -> None:
    host.workers(2)[1].call("begin", _HELD)
