"""Processes that do everything to a store while others are killed, stopped, forked and replaced.

Every byte that is read is checked, before and after it was held. A ledger outside the store says
what must be there: each successor looks after what its predecessor owned, and at quiet moments,
when all processes rest, all that the store holds is accounted for. A watchdog sees operations that
hang. The work of one process is in `crash_worker.py`.

The seed fixes what each process does, but not when it is killed: a fault need not come again at
the same place, and the quiet moment before it bounds when it happened.
"""

import argparse
import ctypes
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

import refstore
from stress.crash_ledger import ABSENT, LENT, OWN, Ledger
from stress.crash_worker import CACHE, HOT, MADE, MAX_SIZE, CrashWorker, ident_of, own_name
from stress.pattern import Pattern
from stress.support import (
    MIB,
    add_backend,
    forked,
    fresh_name,
    fresh_seed,
    parse_size,
    remove_store,
    use_backend,
)

TIME_LIMIT = 2.0  # seconds that one operation may take, beside those that were not its own
QUIET_EVERY = 30.0
REST_WITHIN = 60.0
SHORT_STOP, LONG_STOP = (0.01, 0.3), (5.5, 7.0)  # the long ones outlast what a lock is waited for
LONG_STOPS = 0.01
HELD_UP = 0.08  # seconds after which an operation seems to wait for the stopped process
RATES = {"native": 8.0, "filelock": 3.0}  # what each finds time to work between
_LOOK_EVERY = 0.05
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Seen:
    """An operation when the watchdog first saw it."""

    began: float
    at: float
    excused: float


class Watchdog:
    """Finds operations that hang.

    Time that an operation waited for a core, or while some process was stopped, does not count;
    nor does time in which the watchdog itself did not run.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.seen: dict[int, Seen] = {}
        self.last_look = time.monotonic()
        self.stopped_since: float | None = None
        self.excused = 0.0

    def stop(self) -> None:
        self.stopped_since = time.monotonic()
        self.ledger.calm_since.value = 0.0

    def resume(self) -> None:
        if self.stopped_since is not None:
            self.excused += time.monotonic() - self.stopped_since
            self.stopped_since = None
            self.ledger.calm_since.value = time.monotonic()

    def look(self, pids: list[int]) -> None:
        now = time.monotonic()
        if now - self.last_look > 10 * _LOOK_EVERY:
            self.excused += now - self.last_look
        self.last_look = now
        stopped = now - self.stopped_since if self.stopped_since is not None else 0.0
        for number, pid in enumerate(pids):
            began = self.ledger.began[number]
            excused = self.excused + stopped + queued(pid)
            first = self.seen.get(number)
            if not began or first is None or first.began != began:
                self.seen[number] = Seen(began, now, excused)
                continue
            waited = now - first.at - (excused - first.excused)
            if waited > TIME_LIMIT:
                raise AssertionError(f"process {number} ({pid}) hangs for {waited:.1f} s")


def queued(pid: int) -> float:
    """Seconds that a process could have run and had no core."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class Soak:
    """The parent: starts, stops, kills and replaces processes."""

    def __init__(self, options: argparse.Namespace, path: str) -> None:
        self.options, self.path = options, path
        self.random = random.Random(options.seed)
        self.ledger = Ledger(options.procs)
        self.pattern = Pattern(options.seed, MAX_SIZE + 64)
        self.watchdog = Watchdog(self.ledger)
        self.pids: list[int] = [0] * options.procs
        self.stopped: tuple[int, float] | None = None  # which, and until when
        self.stop_is_short = True
        self.killed_with: set[int] = {ABSENT}  # ids of objects that were in transit
        self.kills = self.stops = self.long_stops = self.joins = self.evictions = 0

    def start(self, number: int) -> None:
        seed = self.random.getrandbits(32)
        self.pids[number] = forked(
            lambda: CrashWorker(self.path, number, seed, self.ledger, self.pattern).live()
        )

    def run(self) -> None:
        for number in range(self.options.procs):
            self.start(number)
        began = event = time.monotonic()
        quiet = began + QUIET_EVERY
        while (now := time.monotonic()) < began + self.options.seconds:
            self.attend()
            if now >= event:
                event = now + self.random.expovariate(self.options.rate)
                self.disturb()
            if now >= quiet:
                self.rest()
                print(f"{now - began:.0f} s: {self.totals()}", flush=True)
                quiet = time.monotonic() + QUIET_EVERY
            time.sleep(min(_LOOK_EVERY, max(0.0, event - time.monotonic())))
        self.rest()
        for number in range(self.options.procs):
            self.ledger.leave[number] = 1
        self.wait_until(lambda: not any(self.pids), "not all processes end", replace=False)

    def attend(self, replace: bool = True) -> None:
        """Resumes a stopped process in time, replaces dead ones and looks for hanging ones."""
        if self.stopped is not None and time.monotonic() >= self.stopped[1]:
            self.resume_or_extend()
        self.reap(replace)
        self.watchdog.look(self.pids)

    def reap(self, replace: bool) -> None:
        for pid, code in ended_children():
            if pid not in self.pids:  # a child of one that was killed
                if code not in (0, -signal.SIGKILL):
                    raise AssertionError(f"an orphan ended with {code}")
                continue
            number = self.pids.index(pid)
            if code != 0 or not self.ledger.leave[number]:
                raise AssertionError(f"process {number} ended by itself, with {code}")
            self.ledger.forget(number)
            self.pids[number] = 0
            if replace:
                self.joins += 1
                self.start(number)

    def disturb(self) -> None:
        victim = self.random.randrange(self.options.procs)
        choice = self.random.random()
        if choice < 0.3 and self.stopped is None:
            self.stop(victim)
        elif choice < 0.4:
            self.ledger.leave[victim] = 1
        else:
            self.kill(victim)

    def stop(self, victim: int) -> None:
        is_long = self.random.random() < LONG_STOPS
        self.stops += 1
        self.long_stops += is_long
        self.stop_is_short = not is_long
        self.watchdog.stop()
        os.kill(self.pids[victim], signal.SIGSTOP)
        seconds = self.random.uniform(*(LONG_STOP if is_long else SHORT_STOP))
        self.stopped = victim, time.monotonic() + seconds

    def resume_or_extend(self) -> None:
        """Leaves a process that is stopped with a lock so, now and then, until others give up."""
        now = time.monotonic()
        assert self.stopped is not None
        victim, until = self.stopped
        held_up = [
            began
            for number, began in enumerate(self.ledger.began)
            if number != victim and began and now - began > HELD_UP
        ]
        if held_up and self.stop_is_short and self.random.random() < 0.5:
            self.stop_is_short = False
            self.long_stops += 1
            self.stopped = victim, until + self.random.uniform(*LONG_STOP)
        else:
            self.resume()

    def resume(self) -> None:
        if self.stopped is not None:
            os.kill(self.pids[self.stopped[0]], signal.SIGCONT)
            self.stopped = None
            self.watchdog.resume()

    def kill(self, victim: int) -> None:
        os.kill(self.pids[victim], signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pids[victim], 0)[1])
        left = code == 0 and self.ledger.leave[victim]  # it was quicker
        if code != -signal.SIGKILL and not left:
            raise AssertionError(f"process {victim} ended by itself, with {code}")
        if self.stopped is not None and self.stopped[0] == victim:
            self.stopped = None
            self.watchdog.resume()
        self.killed_with.add(self.ledger.in_transit[victim])
        self.ledger.forget(victim)
        self.kills += 1
        self.start(victim)

    def wait_until(self, holds: Callable[[], bool], what: str, replace: bool = True) -> None:
        deadline = time.monotonic() + REST_WITHIN
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"after {REST_WITHIN:.0f} s {what}")
            self.attend(replace)
            time.sleep(0.005)

    def rest(self) -> None:
        """Lets all processes rest, and accounts for everything in the store."""
        self.resume()
        self.ledger.pause.value = 1
        self.wait_until(lambda: all(self.ledger.paused), "not all processes rest")
        self.wait_until(lambda: children() <= set(self.pids), "the child of a killed one works on")
        with refstore.Store(self.path, create=False) as store:
            audit(store, self.ledger, self.pattern, self.killed_with)
            self.evictions = store.stats().evictions
        self.killed_with = {ABSENT}
        self.ledger.pause.value = 0

    def totals(self) -> str:
        ledger = self.ledger
        return (
            f"{sum(ledger.operations)} operations, {self.evictions} evictions, {self.kills} kills, "
            f"{self.stops} stops ({self.long_stops} long, {sum(ledger.busy)} operations gave up), "
            f"{sum(ledger.forks)} forks, {self.joins + sum(ledger.rejoined)} left and joined"
        )


def children() -> set[int]:
    """Pids of all children of this process, adopted ones too."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def ended_children() -> Iterator[tuple[int, int]]:
    """Reaps children that have ended: pid and exit code of each."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


@contextmanager
def adopting() -> Iterator[None]:
    """Adopts the children of killed children, and leaves none."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        while left := children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def audit(store: refstore.Store, ledger: Ledger, pattern: Pattern, killed_with: set[int]) -> None:
    """Requires that the ledger has everything in the store, and nothing else."""
    require_sound(store, ledger.procs + 1)
    used = store.stats().used
    named = {store.ref(name): name for name in store.names()}
    own = {own_name(n // OWN, n % OWN): ident for n, ident in enumerate(ledger.current) if ident}
    strange = {name for name in named.values() if not name.startswith(CACHE)}
    strange -= set(own) | {f"hot {k}" for k in range(HOT)} | {f"made {k}" for k in range(MADE)}
    if strange or not set(own) <= set(named.values()):
        raise AssertionError(f"names {strange} are too many, or one of {set(own)} is lost")
    lent = dict(filter(None, map(ledger.borrow, range(ledger.procs * LENT))))
    least = most = 0
    for ref in store:
        with store.get(ref) as buf:
            ident = ident_of(pattern, buf)
            least += buf.nbytes
            most += buf.nbytes + max(buf.nbytes // 8, 4096) + 512
        expected = lent.pop(ref, None) or own.get(named.get(ref, ""))
        if expected is not None and expected != ident:
            raise AssertionError(f"object {ident:#x} is where {expected:#x} should be")
        if expected is None and ref not in named:
            if ident not in killed_with:
                raise AssertionError(f"object {ident:#x} belongs to nobody")
            store.delete(ref)
    if lent:
        raise AssertionError(f"objects {lent} are lent and lost")
    if not least <= used <= most:
        raise AssertionError(f"{used} bytes are used, and objects of {least} bytes are there")


def require_sound(store: refstore.Store, processes: int) -> None:
    if problems := store.check():
        raise AssertionError(f"check() finds {len(problems)} problems: {problems[:5]}")
    stats = store.stats()
    if stats.pinned or stats.condemned or stats.processes != processes:
        raise AssertionError(f"something is still held: {stats}")


def require_empty(path: str) -> None:
    """Requires that all space comes back once nobody is attached any more."""
    with refstore.Store(path, create=False) as store:
        require_sound(store, 1)
        for ref in store:
            store.delete(ref)
        store.delete(store.put(bytes(store.capacity)))
        if store.stats().used or store.check():
            raise AssertionError(f"space is lost: {store.stats()}, {store.check()}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--procs", type=int, default=8)
    parser.add_argument("--rate", type=float, help="kills and stops a second")
    parser.add_argument("--capacity", type=parse_size, default=32 * MIB)
    parser.add_argument("--evict", choices=("none", "lru", "s3fifo"), help="the store's policy")
    parser.add_argument("--seed", type=int, default=fresh_seed())
    add_backend(parser)
    options = parser.parse_args()
    if options.evict is None:
        options.evict = ("none", "lru", "s3fifo")[options.seed % 3]
    if options.rate is None:
        options.rate = RATES[options.backend]
    return options


def main() -> int:
    options = arguments()
    use_backend(options.backend)
    print(
        f"seed {options.seed}, {options.procs} processes, {options.seconds:.0f} s, "
        f"evict {options.evict}",
        flush=True,
    )
    evict = None if options.evict == "none" else options.evict
    with refstore.Store(
        fresh_name("crash"), capacity=options.capacity, evict=evict, create=True
    ) as store:
        path = store.path
    soak = Soak(options, path)
    try:
        with adopting():
            soak.run()
        require_empty(path)
    except AssertionError as error:
        print(
            f"FAULT: {error}\nafter {soak.totals()}\nrun: python -m stress.crash "
            f"--backend {options.backend} "
            f"--seed {options.seed} --procs {options.procs} --rate {options.rate:g} "
            f"--capacity {options.capacity} --evict {options.evict} --seconds {options.seconds:g}",
            file=sys.stderr,
        )
        return 1
    finally:
        remove_store(path)
    print(f"{soak.totals()}; no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
