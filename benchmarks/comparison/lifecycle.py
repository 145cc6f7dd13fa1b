"""The life of a process: attaching, and being killed with space in its hands."""

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.comparison.results import SECONDS, Cell
from benchmarks.comparison.rounds import Comparison, progress
from benchmarks.peers.host import Host
from benchmarks.peers.protocol import Cannot
from stress.measure import Spread, spread
from stress.support import MIB

_CAPACITY = 64 * MIB
_HELD = 24 * MIB
_FILLER = 4 * MIB
_TIME_LIMIT = 5.0
ATTACH = "attach"
KILL = "space back after a kill"

Way = Callable[[Host], None]  # to have a second process take space


def attach(comparison: Comparison, hosts: Mapping[str, Host]) -> None:
    """Attaches in a new process each time, the peer's package already imported."""
    with progress("attach", len(hosts)) as bar:
        for name, host in hosts.items():
            bar.set_postfix_str(name)
            comparison.once(
                Cell(ATTACH, "a new process", name, SECONDS),
                partial(_attach, host, comparison.effort.deaths),
            )
            bar.update()


def _attach(host: Host, times: int) -> Spread:
    taken = []
    for _ in range(times + 1):  # the first finds cold caches
        taken.append(host.another())
        host.end_last()
    return spread(taken[1:])


def kill(comparison: Comparison) -> None:
    """Kills a process that holds 24 MiB of a full store: seconds until a put fits.

    It holds a view of a deleted object, or an object that is half written.
    """
    ways: dict[str, Way] = {"held a view": _reader, "half written": _writer}
    with progress("kill", len(ways) * len(comparison.peers)) as bar:
        for name in comparison.peers:
            for case, way in ways.items():
                bar.set_postfix_str(name)
                cell = Cell(KILL, case, name, SECONDS)
                comparison.once(cell, partial(_deaths, comparison, name, way, case))
                bar.update()


def _deaths(comparison: Comparison, name: str, way: Way, case: str) -> Spread:
    comparison.check(name, "kill")
    comparison.check(name, case)
    if not comparison.bounded(name):
        raise Cannot("no capacity")
    found = []
    for _ in range(comparison.effort.deaths):
        with Host(name, _CAPACITY) as host:
            host.workers(2)
            way(host)
            if not host.first.call("fill", _FILLER, comparison.effort.time_limit)[1]:
                raise Cannot(f"not full after {comparison.effort.time_limit:g} s")
            died = host.kill_last()
            taken = host.first.call("until_fits", _FILLER, died, _TIME_LIMIT)
            if taken is None:
                raise Cannot(f"not within {_TIME_LIMIT:g} s")
            found.append(taken)
    return spread(found)


def _reader(host: Host) -> None:
    (key,) = host.first.call("put_many", _HELD, 1)
    host.workers(2)[1].call("hold", key)
    host.first.call("delete_many", [key])


def _writer(host: Host) -> None:
    host.workers(2)[1].call("begin", _HELD)
