"""Two processes at work, one stopped in the other's midst: all pairs of points.

    python -m tests.native.crash.interleave              every pair
    python -m tests.native.crash.interleave --every 0.01 --to-the-end
    python -m tests.native.crash.interleave --replay 'populated get 12 delete_small 40 kill'

A is stopped at a failpoint. B then runs: to its end; or until it is killed at a failpoint of those
that it passes while A stands there; or until it is stopped there too. A goes on to its end, and
then B, if it can. Both read what they pinned and check every byte; the survivor looks at the rest.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from refstore import _core
from tests.native.crash.contents import CACHED
from tests.native.crash.crew import (
    Report,
    Sample,
    crew_parser,
    require_few,
    run,
    tell,
    too_many_faults_end_it,
)
from tests.native.crash.failpoints import failpoints
from tests.native.crash.operations import BY_NAME, Operation
from tests.native.crash.scenarios import Others, Scenario, all_scenarios, scenario_named
from tests.native.crash.trial import Fault, Point, Stage

SCENARIOS = {
    *("populated", "condemned_die", "mid_replace_die", "mid_change_die", "full"),
    *(
        "claimed_die",
        "mid_make_die",
        "owner_die",
        "mid_leave_die",
        "cache",
        "cache_s3fifo",
        "offered_die",
    ),
}
WORK = [
    "get",
    "get_by_ref",
    "delete_small",
    "delete_pinned",
    "delete_by_ref",
    "delete_and_reuse",
    "sweep_and_reuse",
    "put_small",
    "put_large",
    "put_named",
    "replace",
    "make_what_is_not_there",
    "claim_and_replace",
    "recover",
]
OWNERS = ["adopt", "disown", "recover", "delete_small"]  # what is done with what a dead one owned
CACHE = [  # what is done in a cache
    *("get_by_ref", "get_and_fork", "put_small", "put_large", "put_named", "churn"),
    *("delete_cached", "recover"),
]
MEET_THE_DEAD = {"recover", "replace", "put_large", "delete_small"}  # in scenarios whose others die
TO_THE_END, KILL, STOP = "to its end", "kill", "stop"


class Pair(NamedTuple):
    """A stopped at a failpoint, B through another one."""

    scenario: Scenario
    a: Operation
    at: int
    b: Operation
    to: int  # -1: its end
    how: str

    def __str__(self) -> str:
        return f"{self.scenario.name} {self.a.name} {self.at} {self.b.name} {self.to} {self.how}"

    def story(self) -> str:
        where = failpoints()[self.to] if self.to >= 0 else "its end"
        return (
            f"    {self.a.name} stopped at {failpoints()[self.at]}\n"
            f"    {self.b.name}: {self.how} at {where}"
        )


class Director:
    """Plays pairs in one process."""

    def __init__(self, folder: str, chosen: Callable[[list[int]], list[int]] = list) -> None:
        self.chosen = chosen  # those of A's points that are to be tried
        self.stage = Stage(os.path.join(folder, f"stage-{os.getpid()}"))
        self.counts = {
            "pairs": 0,
            "of which A did not get there": 0,
            "of which B did not get there": 0,
        }
        self.faults: list[str] = []
        self.children: set[int] = set()  # that are not at their end

    def first_passes(self, scenario: Scenario, operation: Operation) -> list[int]:
        points: list[Point] = self.stage.points_of(scenario, scenario.image, operation)
        return [point.number for point in points if point.skip == 0]

    def passed_meanwhile(
        self, scenario: Scenario, a: Operation, at: int, b: Operation
    ) -> list[int]:
        """The failpoints that B passes while A stands there and goes on to its end."""
        self.stage.passes.clear()
        self.try_out(Pair(scenario, a, at, b, -1, TO_THE_END))
        return [number for number, _ in self.stage.passes.passed()]

    def play_all(
        self,
        options: argparse.Namespace,
        scenario: Scenario,
        a: Operation,
        b: Operation,
    ) -> None:
        """All pairs of points of two operations, or a part of A's."""
        for at in self.chosen(self.first_passes(scenario, a)):
            meanwhile = self.passed_meanwhile(scenario, a, at, b)
            for to in () if options.to_the_end else meanwhile:
                self.try_out(Pair(scenario, a, at, b, to, KILL))
                self.try_out(Pair(scenario, a, at, b, to, STOP))

    def try_out(self, pair: Pair) -> None:
        self.counts["pairs"] += 1
        try:
            self.play(pair)
        except Exception as error:
            self.faults.append(f"{pair}\n{pair.story()}\n    {type(error).__name__}: {error}")
            require_few(self.faults)

    def play(self, pair: Pair) -> None:
        stage, scenario = self.stage, pair.scenario
        with stage.set_up(scenario, scenario.image):
            try:
                b = self.start_attached(pair) if scenario.others is Others.DIE else 0
                stop_there = functools.partial(_core._arm, pair.at, signal.SIGSTOP)
                a = self.noted(stage.start(scenario, pair.a, stop_there))
                self.require_stopped(pair.a, self.wait(a, os.WUNTRACED))
                if b:
                    os.kill(b, signal.SIGCONT)
                else:
                    b = self.noted(stage.start(scenario, pair.b, lambda: self.prepare(pair)))
                self.require_as_told(pair, self.wait(b, os.WUNTRACED))
                for child, operation in ((a, pair.a), (b, pair.b)):
                    if child in self.children and (status := self.go_on(child)):
                        raise Fault(f"{operation.name} ended with {status:#x}")
            finally:
                for child in list(self.children):
                    os.killpg(child, signal.SIGKILL)  # and its own children
                    self.wait(child)
                stage.await_children()
        stage.look(scenario, [pair.a.outcomes, pair.b.outcomes])

    def noted(self, child: int) -> int:
        """Among the children that are not at their end."""
        self.children.add(child)
        return child

    def start_attached(self, pair: Pair) -> int:
        """B, stopped once it has attached: before the others die, whom its attach would recover."""
        b = self.noted(
            self.stage.start(
                pair.scenario,
                pair.b,
                lambda: self.prepare(pair),
                lambda: os.kill(os.getpid(), signal.SIGSTOP),
            )
        )
        if not os.WIFSTOPPED(self.wait(b, os.WUNTRACED)):
            raise Fault("B did not attach")
        return b

    def go_on(self, child: int) -> int:
        """Its exit status. It may stop again: a child that it has forked has stopped, too."""
        while True:
            os.killpg(child, signal.SIGCONT)
            status = self.wait(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return status

    def wait(self, child: int, options: int = 0) -> int:
        status = os.waitpid(child, options)[1]
        if not os.WIFSTOPPED(status):
            self.children.remove(child)
        return status

    def prepare(self, pair: Pair) -> None:
        if pair.how == TO_THE_END:
            self.stage.passes.count()
        else:
            _core._arm(pair.to, signal.SIGKILL if pair.how == KILL else signal.SIGSTOP)

    def require_stopped(self, operation: Operation, status: int) -> None:
        """A stands where it was asked to, or has run out of time on the way."""
        if operation.is_timed and status == 0:
            self.counts["of which A did not get there"] += 1
        elif not os.WIFSTOPPED(status):
            raise Fault("A did not stop")

    def require_as_told(self, pair: Pair, status: int) -> None:
        """B is at its end, or was killed or stopped where that was asked for."""
        killed = status == signal.SIGKILL and pair.how == KILL
        stopped = os.WIFSTOPPED(status) and pair.how == STOP
        if status and not killed and not stopped:
            raise Fault(f"B ended with {status:#x}")
        if pair.how != TO_THE_END and not killed and not stopped:
            self.counts["of which B did not get there"] += 1


def pairs_in(scenario: Scenario, only: str) -> Iterator[tuple[Operation, Operation]]:
    """What is tried in that scenario."""
    if scenario.name in SCENARIOS:
        work = OWNERS if scenario.theirs else CACHE if CACHED[0] in scenario.named else WORK
        for a, b in itertools.product(work, repeat=2):
            if scenario.others is Others.DIE and not {a, b} & MEET_THE_DEAD:
                continue
            if re.search(only, f"{scenario.name} {a} {b}"):
                yield BY_NAME[a], BY_NAME[b]


def play(options: argparse.Namespace, folder: str, number: int) -> Report:
    """What one of the processes does that share the work."""
    chance = random.Random(options.seed * 1000 + number)
    director = Director(folder, Sample(chance, options.every).of)
    turns, part = itertools.count(), Sample(chance, options.part)
    with too_many_faults_end_it(director.faults):
        for scenario in all_scenarios(os.path.join(folder, f"scenario-{number}")):
            pairs = pairs_in(scenario, options.only)
            mine = [pair for pair in pairs if next(turns) % options.jobs == number]
            for a, b in part.of(mine):
                director.play_all(options, scenario, a, b)
            tell(number, scenario.name, options.jobs * director.counts["pairs"], director.faults)
    director.stage.close()
    return Report(director.counts, director.faults)


def replay(text: str, folder: str) -> None:
    """One pair again."""
    name, a, at, b, to, how = text.split(maxsplit=5)
    scenario = scenario_named(name, os.path.join(folder, "scenario"))
    pair = Pair(scenario, BY_NAME[a], int(at), BY_NAME[b], int(to), how)
    print(pair.story())
    Director(folder).play(pair)


def options_of() -> argparse.Namespace:
    parser = crew_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=float, default=1.0, help="the part of A's points to try")
    parser.add_argument("--to-the-end", action="store_true", help="B is neither killed nor stopped")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(options_of(), play, replay))
