"""The run: who takes part, how hard to try, and the rounds in turn, A B A B."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

from tqdm import tqdm

from benchmarks.comparison.results import RATE, Cell, Report
from benchmarks.peers.host import Host, Lost
from benchmarks.peers.protocol import Cannot
from benchmarks.peers.registry import FLOORS, PEERS
from stress.measure import Spread, ratios, spread
from stress.support import KIB, MIB

US = "refstore"
_ENOUGH = 3  # rounds that even the slowest gets

Measure = Callable[[], Sequence[float]]  # one round of one peer: one figure for each work


@dataclass(frozen=True)
class Effort:
    """Lengths and numbers of the measurements."""

    sizes: tuple[int, ...]
    procs: tuple[int, ...]
    rounds: int
    window: float  # seconds of a round of one process
    procs_rounds: int
    procs_window: float  # seconds of a round of several
    budget: float  # seconds that one peer may take in one case, once it has had its three rounds
    syncs: int
    operations: int  # of mixed sizes
    time_limit: float  # seconds that a peer may take for these, or to fill a store
    deaths: int


_SIZES = (64, 4 * KIB, 64 * KIB, MIB, 5 * MIB, 64 * MIB)
QUICK = Effort((64, 64 * KIB, 5 * MIB), (1, 2), 5, 0.004, 3, 0.05, 0.4, 8, 10_000, 1.0, 1)
THOROUGH = Effort(_SIZES, (1, 2, 4), 21, 0.010, 11, 0.1, 3.0, 40, 100_000, 12.0, 3)


def on_many_cores(effort: Effort) -> Effort:
    """Adds 8 and 16 processes, where each has a core."""
    cores = len(os.sched_getaffinity(0))
    more = tuple(procs for procs in (8, 16) if procs <= cores)
    return replace(effort, procs=effort.procs + more)


@dataclass
class Comparison:
    """The report of a run, and all that its cells are measured with."""

    report: Report
    effort: Effort
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """Peers that are here; refstore comes first."""
        return [name for name in self.report.peers if name in PEERS]

    @property
    def floors(self) -> list[str]:
        return [name for name in self.report.peers if name in FLOORS]

    def why_not(self, name: str, work: str) -> str:
        """The reason why that peer has no answer to that work; empty if it has."""
        return str(self.report.peers[name]["cannot"].get(work, ""))

    def check(self, name: str, work: str) -> None:
        """Raises Cannot if that peer has no answer to that work."""
        if why := self.why_not(name, work):
            raise Cannot(why)

    def bounded(self, name: str) -> bool:
        return bool(self.report.peers[name]["bounded"])

    @contextmanager
    def hosts(self, capacity: int, names: Sequence[str], procs: int) -> Iterator[dict[str, Host]]:
        """Starts a store of each at once; one that cannot start is out from here on."""
        found: dict[str, Host] = {}
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            starting = {name: pool.submit(_start, name, capacity, procs) for name in names}
            for name, future in starting.items():
                if error := future.exception():
                    self.lost[name] = last_line(error)
                else:
                    found[name] = stack.enter_context(future.result())
            yield found
            # Some take seconds to end: all at once, and what is left is the stack's.
            list(pool.map(Host.close, found.values()))

    def once(self, cell: Cell, measure: Callable[[], Spread | tuple[Spread, str]]) -> None:
        """Measures a cell by itself, since it uses a store up."""
        try:
            found = measure()
        except Cannot as reason:
            found = None
            cell = replace(cell, note=str(reason))
        except (Lost, RuntimeError) as error:
            found = None
            cell = replace(cell, note=last_line(error))
        if isinstance(found, tuple):
            cell = replace(cell, value=found[0], note=found[1])
        elif found is not None:
            cell = replace(cell, value=found)
        self.report.cells.append(cell)

    def in_turn(
        self,
        works: Sequence[str],
        case: str,
        unit: str,
        measures: Mapping[str, Measure],
        bar: "tqdm[None]",
        rounds: int,
        size: int = 0,
        procs: int = 0,
    ) -> None:
        """Measures one round of each in turn, again and again; a cell for each work and peer."""
        found: dict[str, list[Sequence[float]]] = {name: [] for name in measures}
        taken = dict.fromkeys(measures, 0.0)
        reasons: dict[str, str] = {}
        bar.set_postfix_str(case)
        for turn in range(rounds + 1):  # nobody counts the first
            for name, measure in measures.items():
                done = len(found[name]) >= _ENOUGH and taken[name] > self.effort.budget
                if done or name in reasons:
                    continue
                began = perf_counter()
                try:
                    figures = measure()
                except Cannot as reason:
                    reasons[name] = str(reason)
                    continue
                except (Lost, RuntimeError) as error:
                    reasons[name] = last_line(error)
                    continue
                if turn:
                    found[name].append(figures)
                    taken[name] += perf_counter() - began
            bar.update()
        ours = found.get(US, [])
        for i, work in enumerate(works):
            for name, values in found.items():
                cell = Cell(work, case, name, unit, size=size, procs=procs)
                mine = [figures[i] for figures in ours]
                why = self.why_not(name, work) or reasons.get(name, "")
                self.report.cells.append(_filled(cell, [v[i] for v in values], mine, why))


def _start(name: str, capacity: int, procs: int) -> Host:
    host = Host(name, capacity)
    try:
        host.workers(procs)
    except BaseException:
        host.close()
        raise
    return host


def _filled(cell: Cell, values: list[float], ours: list[float], why_not: str) -> Cell:
    """The cell, with the values found."""
    if why_not or not values:
        return replace(cell, note=why_not or "not measured")
    both = list(zip(values, ours, strict=False))  # a slow peer has had fewer rounds
    ratio = None
    if both and cell.peer != US and all(a > 0 and b > 0 for a, b in both):
        theirs, mine = map(list, zip(*both, strict=True))
        ratio = ratios(mine, theirs) if cell.unit == RATE else ratios(theirs, mine)
    return replace(cell, value=spread(values), ratio=ratio, rounds=len(values))


def last_line(error: BaseException) -> str:
    """The gist of a traceback that came from another process."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    kind, _, rest = text.partition(":")
    return f"{kind.rpartition('.')[2]}:{rest}".removesuffix(":")[:90]


def progress(what: str, total: int) -> "tqdm[None]":
    return tqdm(total=total, desc=f"{what:12}", bar_format=_BAR)


_BAR = "{desc} {bar:30} {n_fmt}/{total_fmt} {elapsed} {postfix}"
