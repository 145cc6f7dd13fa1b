"""The work of a crash program, shared out to processes; what they found, put together."""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import json
import os
import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

import helpers

from tests.native.crash.failpoints import failpoints

MOST_FAULTS = 20
NOT_REACHED = "no operation passes "

Item = TypeVar("Item")


class Report(NamedTuple):
    """What one process, or all of them, tried and found."""

    counts: dict[str, int]
    faults: list[str]
    reached: Collection[int] = ()  # failpoints, where that is noted


class TooManyFaultsError(Exception):
    """There is enough to look at."""


def require_few(faults: list[str]) -> None:
    """Called with every new fault."""
    if len(faults) >= MOST_FAULTS:
        raise TooManyFaultsError


@contextlib.contextmanager
def too_many_faults_end_it(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except TooManyFaultsError:
        faults.append("and so on: not all was tried")


class Sample:
    """Draws a part of each list, so many that of all lists together that part is drawn.

    Were each item drawn by itself, how many there are would be a matter of chance.
    """

    def __init__(self, chance: random.Random, part: float) -> None:
        self._chance, self._part = chance, part
        self._due = chance.random()  # of the next item to be drawn

    def of(self, items: Sequence[Item]) -> list[Item]:
        """In their order."""
        self._due += self._part * len(items)
        n = int(self._due)
        self._due -= n
        return [items[i] for i in sorted(self._chance.sample(range(len(items)), n))]


def crew_parser(description: str) -> argparse.ArgumentParser:
    """Options that these programs share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--only", default="", help="pattern for a scenario and what is done in it")
    parser.add_argument(
        "--part", type=float, default=1.0, help="the part to try of what is done in a scenario"
    )
    parser.add_argument("--replay", metavar="TRIAL", help="as a fault names it")
    return parser


def tell(number: int, scenario: str, tried: int, faults: list[str]) -> None:
    """How far one of the processes has come; the first speaks for all."""
    if number == 0:
        print(f"  {scenario}: about {tried:,} tried by now, {len(faults)} faults", flush=True)


Play = Callable[[argparse.Namespace, str, int], Report]


def share_out(options: argparse.Namespace, play: Play) -> Report:
    """`play(options, folder, number)` in each of `options.jobs` processes; all their reports."""
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    reached: set[int] = set()
    with helpers.folder_in_memory("refstore-crash-") as folder:
        paths = [os.path.join(folder, f"report-{number}") for number in range(options.jobs)]
        sys.stdout.flush()
        gc.freeze()  # else each of the many children that are forked copies what gc looks at
        children = [_start(options, play, folder, *each) for each in enumerate(paths)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise RuntimeError(f"processes of the test itself failed: {statuses}")
        for path in paths:
            with open(path) as file:
                report = Report(*json.load(file))
            counts.update(report.counts)
            faults += report.faults
            reached.update(report.reached)
    return Report(dict(counts), faults, reached)


def _start(options: argparse.Namespace, play: Play, folder: str, number: int, path: str) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            report = play(options, folder, number)
            with open(path, "w") as file:
                json.dump(report, file)
            status = 0
        finally:
            os._exit(status)
    return child


def run(options: argparse.Namespace, play: Play, replay: Callable[[str, str], None]) -> int:
    """All of it, or one trial again, from a command line; the exit status."""
    if options.replay:
        with helpers.folder_in_memory("refstore-crash-") as folder:
            replay(options.replay, folder)
        print("sound")
        return 0
    print(
        f"seed {options.seed}, {len(failpoints())} failpoints, {options.jobs} processes", flush=True
    )
    began = time.monotonic()
    counts, faults, reached = share_out(options, play)
    for fault in faults:
        print(f"FAULT {fault}")
    # some are meant to be: see test_kills.py; after a part of all, or an early end, so are others
    if reached and options.part == 1 and not options.only and not faults:
        for point in failpoints():
            if point.number not in reached:
                print(f"{NOT_REACHED}{point.function}: {point.source}")
    tried = ", ".join(f"{n:,} {what}" for what, n in counts.items())
    print(f"{tried}: {len(faults)} faults, {time.monotonic() - began:.0f} s")
    return 1 if faults else 0


def sample(program: str, what: str, *options: str) -> tuple[int, str]:
    """For a test: how many trials of a kind a program played without a fault, and what it said.

    It has a process of its own, since one with pytest and thousands of tests in it forks slowly.
    """
    command = [sys.executable, "-m", f"tests.native.crash.{program}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    found = re.search(rf"^([\d,]+) {re.escape(what)}.*: 0 faults", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", "")), done.stdout
