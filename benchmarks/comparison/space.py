"""Memory per object, usable space, a store nearly full, and mixed sizes."""

from collections.abc import Mapping
from functools import partial

from benchmarks.churn import log_uniform
from benchmarks.comparison.results import BYTES, RATE, SECONDS, SHARE, Cell
from benchmarks.comparison.rounds import Comparison, Measure, progress
from benchmarks.peers.host import Host
from benchmarks.peers.protocol import Cannot
from stress.measure import Spread, spread
from stress.support import KIB, MIB, size

CAPACITY = 64 * MIB
MIXED = 256 * MIB
_LIVE = 0.5  # of the capacity, with mixed sizes
_OBJECTS = 3000  # in a store when the memory of one is measured
_SMALL = 64
_SPARE = 0.1  # of the full store, given back before its latency is measured
_UNBOUNDED = "no capacity"
OVERHEAD = "memory beyond the payload"
USABLE = "usable before full"
FULL = "in a store 90 % full"
REFUSED = "a full store's refusal"
MIX = "mixed sizes"


def run(comparison: Comparison) -> None:
    """Measures all cases of space, one after the other."""
    overhead(comparison)
    usable(comparison)
    mixed(comparison)


def overhead(comparison: Comparison) -> None:
    """Measures private memory and shares of shared memory, of the process and its servers.

    Uses new stores: in one that has held other objects, new ones take memory that is there already.
    """
    names = [name for name in comparison.peers if not comparison.why_not(name, "overhead")]
    with comparison.hosts(CAPACITY, names, 1) as hosts, progress("overhead", len(hosts)) as bar:
        for name, host in hosts.items():
            comparison.once(Cell(OVERHEAD, "64 B", name, BYTES, size=_SMALL), partial(_extra, host))
            bar.update()


def _extra(host: Host) -> Spread:
    host.first.call("prepare", _SMALL, -1)
    # Twice: the first lot also pays for tables that are there from then on.
    host.first.call("keep", _SMALL, _OBJECTS)
    before = host.first.call("footprint")
    host.first.call("keep", _SMALL, _OBJECTS)
    after = host.first.call("footprint")
    host.first.call("drop", 1.0)
    return spread([(after - before) / _OBJECTS - _SMALL])


def usable(comparison: Comparison) -> None:
    """Fills stores, asks for more, and then works in what is left."""
    sizes = (4 * KIB, MIB)
    names = [name for name in comparison.peers if comparison.bounded(name)]
    for nbytes in sizes:
        with comparison.hosts(CAPACITY, names, 1) as hosts:
            with progress("fill", len(hosts)) as bar:
                for name, host in hosts.items():
                    bar.set_postfix_str(f"{name}, {size(nbytes)}")
                    cell = Cell(USABLE, size(nbytes), name, SHARE, size=nbytes)
                    comparison.once(cell, partial(_fill, comparison, host, nbytes))
                    refused = Cell(REFUSED, size(nbytes), name, SECONDS, size=nbytes)
                    comparison.once(refused, partial(_refusals, host, nbytes))
                    bar.update()
            if nbytes == sizes[0]:
                _nearly_full(comparison, hosts)
    for name in comparison.peers:
        if name not in names:
            for nbytes in sizes:
                cell = Cell(USABLE, size(nbytes), name, SHARE, note=_UNBOUNDED, size=nbytes)
                comparison.report.cells.append(cell)


def _fill(comparison: Comparison, host: Host, nbytes: int) -> tuple[Spread, str]:
    count, full = host.first.call("fill", nbytes, comparison.effort.time_limit)
    note = "" if full else f"not full after {comparison.effort.time_limit:g} s"
    if not full:
        raise Cannot(note)
    return spread([count * nbytes / CAPACITY]), note


def _refusals(host: Host, nbytes: int) -> Spread:
    return spread([host.first.call("refusal", nbytes) for _ in range(5)])


def _nearly_full(comparison: Comparison, hosts: Mapping[str, Host]) -> None:
    """Puts and deletes objects as large as those the store is full of, and 64 times smaller."""
    for host in hosts.values():
        host.first.call("drop", _SPARE)
    effort = comparison.effort
    with progress("nearly full", 2 * (effort.rounds + 1)) as bar:
        for nbytes in (4 * KIB, 64):
            measures = {name: _puts(host, nbytes, effort.window) for name, host in hosts.items()}
            what = f"put + delete of {size(nbytes)}"
            comparison.in_turn((FULL,), what, SECONDS, measures, bar, effort.rounds, size=nbytes)


def _puts(host: Host, nbytes: int, seconds: float) -> Measure:
    return lambda: [1 / host.speed("puts", nbytes, 1, seconds)]


def mixed(comparison: Comparison) -> None:
    """Churns 64 B to 1 MiB, log-uniform, half of 256 MiB live, in one process."""
    effort = comparison.effort
    sizes = log_uniform(64, MIB, seed=1)[: effort.operations]
    able = [name for name in comparison.peers if not comparison.why_not(name, "mixed")]
    with comparison.hosts(MIXED, [*able, "dict"], 1) as hosts, progress("mixed", len(hosts)) as bar:
        for name, host in hosts.items():
            bar.set_postfix_str(name)
            cell = Cell(MIX, f"{effort.operations:,} operations", name, RATE)
            comparison.once(cell, partial(_mix, comparison, host, sizes))
            bar.update()


def _mix(comparison: Comparison, host: Host, sizes: list[int]) -> tuple[Spread, str]:
    effort = comparison.effort
    limit = int(MIXED * _LIVE)
    done, seconds, refused = host.first.call(
        "mixed", sizes, limit, effort.operations, effort.time_limit
    )
    notes = [f"{refused:,} puts refused"] if refused else []
    if done < effort.operations:
        notes.append(f"stopped after {done:,}")
    return spread([done / seconds]), ", ".join(notes)
