"""Processes that put, get, replace and delete while others are killed, stopped and replaced.

Each worker owns some names: a ledger outside the store says what it last put under each, and what
it was about to put, so that its successor can tell an object that was lost from one that was being
replaced. All workers replace and read some hot names. Every byte that is read is checked, before
and after it was held. At the end nothing may be lost, leaked or held.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess

import refstore
from stress.pattern import Pattern
from stress.support import MIB, fresh_name, fresh_seed, parse_size, reaped

OWN, HOT = 16, 8  # names of each worker, names of all
MAX_SIZE = 256 << 10
PATIENCE = 2.0  # seconds that one operation may take, when nobody is stopped
_FORK = multiprocessing.get_context("fork")
ABSENT = 0


class Ledger:
    """What the parent and the workers share outside the store."""

    def __init__(self, procs: int) -> None:
        self.current = _FORK.RawArray("Q", procs * OWN)  # id under each own name, or ABSENT
        self.intended = _FORK.RawArray("Q", procs * OWN)  # what is to be there after the operation
        self.began = _FORK.RawArray("d", procs)  # when the operation under way began, or 0
        self.operations = _FORK.RawArray("Q", procs)
        self.next_id = _FORK.RawArray("Q", procs)
        self.stop = _FORK.RawValue("b", 0)


class Worker:
    """One process's work; dies whenever it is killed."""

    def __init__(self, path: str, number: int, seed: int, ledger: Ledger, pattern: Pattern) -> None:
        self.number, self.ledger, self.pattern = number, ledger, pattern
        self.random = random.Random(seed)
        self.store = refstore.Store(path, create=False)
        self.held: list[tuple[refstore.PinnedBuffer, int | None]] = []

    def run(self) -> None:
        self.look_after_predecessor()
        work = [self.put_own] * 4 + [self.delete_own] * 2 + [self.put_hot, self.get_hot]
        work += [self.get_hot, self.put_unnamed, self.fork, self.let_go, self.let_go]
        while not self.ledger.stop.value:
            self.ledger.began[self.number] = time.monotonic()
            self.random.choice(work)()
            self.ledger.began[self.number] = 0.0
            self.ledger.operations[self.number] += 1
        while self.held:
            self.let_go()
        self.store.close()

    def look_after_predecessor(self) -> None:
        for k in range(OWN):
            at = self.number * OWN + k
            found = self.ident_under(f"own {self.number} {k}")
            if found not in (self.ledger.current[at], self.ledger.intended[at]):
                raise AssertionError(
                    f"own {self.number} {k} holds {found:#x}: neither {self.ledger.current[at]:#x} "
                    f"nor {self.ledger.intended[at]:#x}"
                )
            self.ledger.current[at] = self.ledger.intended[at] = found

    def ident_under(self, name: str) -> int:
        try:
            with self.store.get(name) as buf:
                block = self.pattern.check(buf, None, None)
                return int.from_bytes(block[:8].tobytes(), sys.byteorder)
        except refstore.ObjectNotFoundError:
            return ABSENT

    def fresh(self) -> tuple[int, object]:
        self.ledger.next_id[self.number] += 1
        ident = self.number << 40 | self.ledger.next_id[self.number]
        return ident, self.pattern.value(ident, int(16 * (MAX_SIZE / 16) ** self.random.random()))

    def put_own(self) -> None:
        k = self.random.randrange(OWN)
        at = self.number * OWN + k
        ident, value = self.fresh()
        self.ledger.intended[at] = ident
        with contextlib.suppress(refstore.StoreFullError, refstore.StoreBusyError):
            self.store.put(value, name=f"own {self.number} {k}", replace=True)
            self.ledger.current[at] = ident
        self.ledger.intended[at] = self.ledger.current[at]

    def delete_own(self) -> None:
        k = self.random.randrange(OWN)
        at = self.number * OWN + k
        self.ledger.intended[at] = ABSENT
        try:
            self.store.delete(f"own {self.number} {k}")
        except refstore.ObjectNotFoundError:
            if self.ledger.current[at] != ABSENT:
                raise
        except refstore.StoreBusyError:
            self.ledger.intended[at] = self.ledger.current[at]
            return
        self.ledger.current[at] = ABSENT

    def put_hot(self) -> None:
        _, value = self.fresh()
        with contextlib.suppress(refstore.StoreFullError, refstore.StoreBusyError):
            self.store.put(value, name=f"hot {self.random.randrange(HOT)}", replace=True)

    def get_hot(self) -> None:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            buf = self.store.get(f"hot {self.random.randrange(HOT)}")
            self.pattern.check(buf, None, None)
            self.held.append((buf, None))
        if len(self.held) > 20:
            self.let_go()

    def let_go(self) -> None:
        if self.held:
            buf, ident = self.held.pop(self.random.randrange(len(self.held)))
            self.pattern.check(buf, ident, None)
            buf.release()

    def put_unnamed(self) -> None:
        """An object of its own that it deletes at once, sometimes under a pin."""
        ident, value = self.fresh()
        with contextlib.suppress(refstore.StoreFullError, refstore.StoreBusyError):
            ref = self.store.put(value)
            if self.random.random() < 0.5:
                self.held.append((self.store.get(ref), ident))
            self.store.delete(ref)

    def fork(self) -> None:
        """A child that reads what it inherited while its parent lets go of it."""
        if self.random.random() > 0.02 or not self.held:
            return
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                for buf, ident in self.held:
                    self.pattern.check(buf, ident, None)
                os._exit(0)
            os._exit(1)
        while self.held:
            self.let_go()
        if os.waitpid(child, 0)[1] != 0:
            raise AssertionError("a forked child found other bytes than its parent")


class Soak:
    """The parent: starts, stops, kills and replaces workers."""

    def __init__(self, options: argparse.Namespace, path: str) -> None:
        self.options, self.path = options, path
        self.random = random.Random(options.seed)
        self.ledger = Ledger(options.procs)
        self.pattern = Pattern(options.seed, MAX_SIZE + 64)
        self.workers: list[BaseProcess] = []
        self.kills = self.stops = 0
        self.quiet_since = time.monotonic()

    def start(self, number: int) -> BaseProcess:
        seed = self.random.getrandbits(32)
        process = _FORK.Process(target=self.serve, args=(number, seed), daemon=True)
        process.start()
        return process

    def serve(self, number: int, seed: int) -> None:
        Worker(self.path, number, seed, self.ledger, self.pattern).run()

    def run(self) -> None:
        self.workers = [self.start(number) for number in range(self.options.procs)]
        end = time.monotonic() + self.options.seconds
        while time.monotonic() < end:
            time.sleep(self.random.expovariate(self.options.rate))
            victim = self.random.randrange(len(self.workers))
            if self.random.random() < 0.7:
                self.kill(victim)
            else:
                self.stop(victim)
            self.watch()
        self.ledger.stop.value = 1
        for worker in self.workers:
            worker.join(30)
            self.demand(worker.exitcode == 0, f"a worker ended with {worker.exitcode}")

    def kill(self, victim: int) -> None:
        worker = self.workers[victim]
        self.demand(worker.is_alive(), f"worker {victim} ended by itself: {worker.exitcode}")
        worker.kill()
        worker.join()
        self.ledger.began[victim] = 0.0
        self.kills += 1
        self.workers[victim] = self.start(victim)

    def stop(self, victim: int) -> None:
        pid = self.workers[victim].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.01, 0.3))
        os.kill(pid, signal.SIGCONT)
        self.stops += 1
        self.quiet_since = time.monotonic()

    def watch(self) -> None:
        for number, began in enumerate(self.ledger.began):
            waited = time.monotonic() - max(began, self.quiet_since)
            self.demand(not began or waited < PATIENCE, f"worker {number} hangs for {waited:.1f} s")

    def demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise AssertionError(otherwise)


def settle(path: str) -> None:
    """Nobody is attached any more: everything must add up, and all space come back."""
    with refstore.Store(path, create=False) as store:
        problems = store.check()
        if problems:
            raise AssertionError(f"check() finds {problems}")
        stats = store.stats()
        if stats.pinned or stats.condemned or stats.processes != 1:
            raise AssertionError(f"something is still held: {stats}")
        for ref in store:
            store.delete(ref)
        store.delete(store.put(bytes(store.capacity)))
        if store.stats().used or store.check():
            raise AssertionError(f"space is lost: {store.stats()}, {store.check()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--procs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=8.0, help="kills and stops a second")
    parser.add_argument("--capacity", type=parse_size, default=32 * MIB)
    parser.add_argument("--seed", type=int, default=fresh_seed())
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.procs} processes, {options.seconds:.0f} s", flush=True)
    name = fresh_name("crash")
    with refstore.Store(name, capacity=options.capacity, create=True) as store:
        path = store.path
    soak = Soak(options, path)
    try:
        with reaped(soak.workers):
            soak.run()
        settle(path)
    except AssertionError as error:
        print(f"FAULT: {error}; seed {options.seed}", file=sys.stderr)
        return 1
    finally:
        for worker in soak.workers:
            worker.kill()
        os.unlink(path)
    done = sum(soak.ledger.operations)
    print(f"{done} operations, {soak.kills} kills, {soak.stops} stops, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
