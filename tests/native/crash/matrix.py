"""Kills at every failpoint of every operation in every scenario; and of the recovery after each.

    python -m tests.native.crash.matrix --depth 1     one death: every point
    python -m tests.native.crash.matrix --depth 2     a second one, at every point of the recovery
    python -m tests.native.crash.matrix --depth 3 --trials N  a third: a sample by chance, seeded
    python -m tests.native.crash.matrix --replay 'populated replace 12:0 40:1'

A point is a failpoint and how often it was passed before: the first, the second and the last time;
at depth 2, the first time. There, first deaths that leave the same file behind count once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence

from tests.native.crash import image
from tests.native.crash.crew import (
    Report,
    Sample,
    crew_parser,
    require_few,
    run,
    tell,
    too_many_faults_end_it,
)
from tests.native.crash.operations import BY_NAME, OPERATIONS, Operation
from tests.native.crash.scenarios import Scenario, all_scenarios, end_naps, scenario_named
from tests.native.crash.trial import RECOVERY, Fault, Point, Stage

SCENARIOS = 31  # among which a sample of three deaths is shared out
SECONDS, THIRDS = 6, 12  # points of the recovery that a sample takes after each first, each second


class Player:
    """Plays trials in one process, and counts them."""

    def __init__(self, folder: str, seed: int, every: float) -> None:
        self.stage = Stage(os.path.join(folder, f"stage-{os.getpid()}"))
        self.random = random.Random(seed)
        self.chosen = Sample(self.random, every).of
        self.seen: set[bytes] = set()
        self.counts = {1: 0, 2: 0, 3: 0}
        self.reached: set[int] = set()  # failpoints that were passed by whom nobody killed
        self.faults: list[str] = []

    def play(
        self, options: argparse.Namespace, scenario: Scenario, operation: Operation, trials: int
    ) -> None:
        """As many deaths as the options say; `trials`: of three, at most."""
        try:
            if options.depth == 1:
                self.one(scenario, operation)
            elif options.depth == 2:
                self.two(scenario, operation)
            else:
                self.three(scenario, operation, trials)
        except Fault as error:  # in a run without a death, or one that missed its point
            self.faults.append(f"{scenario.name} {operation.name}: {error}")

    def one(self, scenario: Scenario, operation: Operation) -> None:
        """Each point of the operation."""
        for point in self.chosen(self.points(scenario, scenario.image, operation)):
            with self.trial(scenario, operation, [point]):
                self.stage.kill(scenario, scenario.image, operation, point)
                self.stage.look(scenario, [operation.outcomes])

    def two(self, scenario: Scenario, operation: Operation) -> None:
        """Each point of the recovery, after each point of the operation."""
        for first in self.chosen(_first_passes(self.points(scenario, scenario.image, operation))):
            left = self.left_by(scenario, scenario.image, operation, first)
            mark = left.mark()
            if mark in self.seen:
                continue
            self.seen.add(mark)
            for second in _first_passes(self.points(scenario, left, RECOVERY)):
                with self.trial(scenario, operation, [first, second]):
                    self.stage.kill(scenario, left, RECOVERY, second)
                    self.stage.look(scenario, [operation.outcomes])

    def three(self, scenario: Scenario, operation: Operation, trials: int) -> None:
        """Some points of the recovery of a recovery, none of them twice."""
        points = self.points(scenario, scenario.image, operation)
        self.random.shuffle(points)
        for first in points:
            left = self.left_by(scenario, scenario.image, operation, first)
            for second in self.some(self.points(scenario, left, RECOVERY), SECONDS):
                left_again = self.left_by(scenario, left, RECOVERY, second)
                for third in self.some(self.points(scenario, left_again, RECOVERY), THIRDS):
                    if trials <= 0:
                        return
                    trials -= 1
                    with self.trial(scenario, operation, [first, second, third]):
                        self.stage.kill(scenario, left_again, RECOVERY, third)
                        self.stage.look(scenario, [operation.outcomes])

    def points(self, scenario: Scenario, taken: image.Image, operation: Operation) -> list[Point]:
        found = self.stage.points_of(scenario, taken, operation)
        self.reached.update(point.number for point in found)
        return found

    def some(self, points: list[Point], n: int) -> list[Point]:
        return self.random.sample(points, min(n, len(points)))

    def left_by(
        self, scenario: Scenario, taken: image.Image, operation: Operation, point: Point
    ) -> image.Image:
        self.stage.kill(scenario, taken, operation, point)
        end_naps(self.stage.path)
        return image.take(self.stage.path)

    @contextlib.contextmanager
    def trial(
        self, scenario: Scenario, operation: Operation, points: Sequence[Point]
    ) -> Iterator[None]:
        self.counts[len(points)] += 1
        try:
            yield
        except Exception as error:
            replay = " ".join(
                [scenario.name, operation.name, *(f"{p.number}:{p.skip}" for p in points)]
            )
            where = "; then ".join(map(str, points))
            self.faults.append(f"{replay}\n    {where}\n    {type(error).__name__}: {error}")
            require_few(self.faults)


def _first_passes(points: list[Point]) -> list[Point]:
    return [point for point in points if point.skip == 0]


def play(options: argparse.Namespace, folder: str, number: int) -> Report:
    """What one of the processes does that share the work."""
    player = Player(folder, options.seed * 1000 + number, options.every)
    turns, part = itertools.count(), Sample(player.random, options.part)
    # What is left of this process's share of three deaths, and among how many turns.
    left, turns_left = (
        -(-options.trials // options.jobs),
        int(SCENARIOS * len(OPERATIONS) // options.jobs * options.part),
    )
    with too_many_faults_end_it(player.faults):
        for scenario in all_scenarios(os.path.join(folder, f"scenario-{number}")):
            mine = [
                operation
                for operation in OPERATIONS
                if re.search(options.only, f"{scenario.name} {operation.name}")
                and next(turns) % options.jobs == number
            ]
            for operation in part.of(mine):
                before = player.counts[3]
                player.play(options, scenario, operation, -(-left // max(turns_left, 1)))
                left, turns_left = left - (player.counts[3] - before), turns_left - 1
            tell(number, scenario.name, options.jobs * player.counts[options.depth], player.faults)
    player.stage.close()
    counts = {f"{deaths} death(s)": n for deaths, n in player.counts.items() if n}
    return Report(
        counts | ({"different first deaths": len(player.seen)} if player.seen else {}),
        player.faults,
        list(player.reached),
    )


def replay(text: str, folder: str) -> None:
    """One trial again."""
    name, operation_name, *numbers = text.split()
    points = [Point(*map(int, point.split(":"))) for point in numbers]
    operation = BY_NAME[operation_name]
    scenario = scenario_named(name, os.path.join(folder, "scenario"))
    stage = Stage(os.path.join(folder, "stage"))
    left = scenario.image
    for point, work in zip(points, [operation, RECOVERY, RECOVERY], strict=False):
        print(f"{work.name} dies at {point}")
        stage.kill(scenario, left, work, point)
        left = image.take(stage.path)
    stage.look(scenario, [operation.outcomes])


def options_of() -> argparse.Namespace:
    parser = crew_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument(
        "--every", type=float, default=1.0, help="the part of the first points to try"
    )
    parser.add_argument("--trials", type=int, default=1_000_000, help="of three deaths")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(options_of(), play, replay))
