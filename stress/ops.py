"""Random operations from several processes on one store, every byte verified.

The seed fixes what each process asks for and what its objects hold; how the processes mingle is
the kernel's choice. With --procs 1 a seed replays exactly.
"""

import argparse
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see stress/__init__.py

from tqdm import tqdm

from refstore import Store
from stress.ops_worker import NOT_OPERATIONS, Inbox, OpsWorker, Plan
from stress.support import (
    MIB,
    add_backend,
    fresh_seed,
    parse_size,
    rate,
    reaped,
    size,
    use_backend,
)

_STALLED_SECONDS = 120.0


@dataclass(frozen=True)
class Shared:
    """Objects that the parent and its children share."""

    plan: Plan
    store: Store
    done: Any  # array of operations done, one cell per process
    tallies: Any  # queue of the totals of each process
    barrier: Barrier


def work(shared: Shared, index: int, inbox: Inbox, outboxes: Sequence[Inbox]) -> None:
    """Does one process's share of the operations, then deletes everything of its own."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    plan = shared.plan
    worker = OpsWorker(plan, index, shared.store, inbox, outboxes)
    began = time.monotonic()
    last = began + plan.seconds if plan.seconds else None
    try:
        while worker.operations < plan.operations:
            worker.step()
            shared.done[index] = worker.operations
            if last is not None and time.monotonic() >= last:
                break
        taken = time.monotonic() - began
        # Messages on their way have arrived once everybody has stopped sending.
        shared.barrier.wait(_STALLED_SECONDS)
        worker.finish()
    except BaseException:
        shared.barrier.abort()
        raise
    shared.tallies.put((worker.counts, worker.verified, taken))


class Fault(Exception):
    """A process failed, died or hung."""


def watch(shared: Shared, children: list[BaseProcess], total: int) -> None:
    """Shows progress until every child has ended well."""
    running = list(children)
    seen, since = -1, time.monotonic()
    with tqdm(total=total, unit="op", unit_scale=True) as bar:
        while running:
            wait([child.sentinel for child in running], timeout=0.2)
            bar.update(sum(shared.done) - bar.n)
            running = [child for child in running if child.is_alive()]
            for index, child in enumerate(children):
                if child.exitcode:
                    raise Fault(_fate(index, child.exitcode))
            if bar.n != seen:
                seen, since = bar.n, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                raise Fault(_stalled(running))


def _fate(index: int, exitcode: int) -> str:
    if exitcode < 0:
        return f"process {index} died of {signal.Signals(-exitcode).name}"
    return f"process {index} failed (its traceback stands above)"


def _stalled(running: Sequence[BaseProcess]) -> str:
    for child in running:
        if child.pid is not None:
            os.kill(child.pid, signal.SIGUSR1)
            child.join(1.0)
    return f"no operation for {_STALLED_SECONDS:.0f} s (the stacks stand above)"


def report(tallies: Sequence[tuple[Counter[str], int, float]]) -> None:
    """Prints the totals of all processes, and their speed once they had started."""
    counts: Counter[str] = sum((counts for counts, _, _ in tallies), Counter())
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"{size(sum(verified for _, verified, _ in tallies))} verified")
    seconds = max(taken for _, _, taken in tallies)
    operations = sum(counts[name] for name in counts if name not in NOT_OPERATIONS)
    print(f"{operations} operations in {seconds:.1f} s: {rate(operations / seconds)}")


def leftovers(store: Store) -> list[str]:
    """Problems that remain once every object has been deleted."""
    for name in store.names():
        store.delete(name)
    stats = store.stats()
    problems = [f"check(): {problem}" for problem in store.check()]
    if len(store) or stats.used or stats.pinned or stats.condemned:
        problems.append(f"{len(store)} objects are left: {stats}")
    return problems


def run(plan: Plan, procs: int, context: BaseContext) -> list[str]:
    """Runs all processes; the problems found."""
    with Store.temporary(plan.capacity) as store:
        done = context.RawArray("Q", procs)
        shared = Shared(plan, store, done, context.SimpleQueue(), context.Barrier(procs))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(procs)]
        outboxes = [Inbox(sending) for _, sending in pairs]
        children: list[BaseProcess] = [
            context.Process(  # type: ignore[attr-defined]
                target=work, args=(shared, index, Inbox(receiving), outboxes)
            )
            for index, (receiving, _) in enumerate(pairs)
        ]
        try:
            with reaped(children):
                for child in children:
                    child.start()
                watch(shared, children, plan.operations * procs)
        except Fault as fault:
            return [str(fault), *store.check()]
        report([shared.tallies.get() for _ in children])
        return leftovers(store)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="of all processes together")
    parser.add_argument("--seconds", type=float, help="stop after that long")
    parser.add_argument("--procs", type=int, default=4)
    parser.add_argument("--seed", type=int, help="repeats a run; printed at its start")
    parser.add_argument("--capacity", type=parse_size, default=64 * MIB)
    parser.add_argument("--live-fraction", type=float, default=0.5, help="of the capacity, at most")
    parser.add_argument("--min-size", type=parse_size, default=64)
    parser.add_argument("--max-size", type=parse_size, default=MIB)
    add_backend(parser)
    parser.add_argument(
        "--start-method", choices=multiprocessing.get_all_start_methods(), default="spawn"
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    use_backend(options.backend)
    seed = fresh_seed() if options.seed is None else options.seed
    plan = Plan(
        seed=seed,
        operations=-(-options.operations // options.procs),
        seconds=options.seconds,
        capacity=options.capacity,
        share=int(options.capacity * options.live_fraction) // options.procs,
        min_size=options.min_size,
        max_size=options.max_size,
    )
    again = f"python stress/ops.py --seed {seed} " + " ".join(
        f"--{key.replace('_', '-')} {value}"
        for key, value in vars(options).items()
        if key != "seed" and value is not None
    )
    print(f"seed {seed}: {options.procs} processes on {size(options.capacity)}", flush=True)
    problems = run(plan, options.procs, multiprocessing.get_context(options.start_method))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"FAULT with seed {seed}; again: {again}", file=sys.stderr)
        return 1
    print("every byte was right, check() finds nothing, nothing is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
