"""Python runs during a call of the filelock engine: at any line, the worst that it can do there.

    python -m tests.filelock.reentrancy    every act at every line of every operation
    python -m tests.filelock.reentrancy --only put --act "fork and go on" --line 12

Signal handlers and finalizers may come between any two steps of Python code, and so does a trace
function. A trial is a small store, one act at one line, and a look at what is there afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import engines
import helpers

import refstore
from tests.filelock import kills, opcodes

JUNK = helpers.pattern(9, 3000)
GIVES_UP, DONE_ALONE, WRONG = 0, 3, 4  # how a child that went on may end


class Interrupt(BaseException):
    pass


class Alarm(TimeoutError):
    pass


def ask(store: refstore.Store) -> None:
    assert sorted(store.names()) == ["kept", "n"]
    assert len(store) == 3
    assert "n" in store
    assert store.refcount("n") == 1
    assert store.holders() == []
    assert store.check() == []
    assert store.stats().objects == 3


OPERATIONS = {
    name: operation for name, operation in kills.OPERATIONS.items() if name not in ("fork",)
} | {"ask": kills.Operation(ask)}


@dataclass
class Point:
    """A line at which an act comes, once."""

    store: refstore.Store
    act: str
    number: int
    me: int = field(default_factory=os.getpid)
    child: int = 0
    reached: int = 0
    pipe: tuple[int, int] = field(default_factory=os.pipe)
    path: str = ""

    def step(self, now: int) -> None:
        self.reached = now
        if now == self.number:
            opcodes.stop()  # nothing is counted after it
            ACTS[self.act](self)

    def close(self) -> None:
        for fd in self.pipe:
            os.close(fd)


def interrupt(_: Point) -> None:
    raise Interrupt


def alarm(_: Point) -> None:
    raise Alarm


def use(point: Point) -> None:
    # busy: it is amid a change; closed: by what it is amid of
    with contextlib.suppress(refstore.StoreBusyError, ValueError):
        with point.store.get("kept") as buf:
            assert bytes(buf) == kills.KEPT
        point.store.delete(point.store.put(kills.SMALL))


def close(point: Point) -> None:
    point.store.close()


def _fork(point: Point) -> bool:
    """Whether this is the child."""
    with helpers.forking_on_purpose():
        try:
            point.child = os.fork()
        except RuntimeError:  # filelock refuses a fork amid its own steps, from Python 3.12 on
            return False
    return not point.child


def fork_and_exit(point: Point) -> None:
    if _fork(point):
        sys.exit(GIVES_UP)
    elif point.child:
        os.waitpid(point.child, 0)


def fork_and_vanish(point: Point) -> None:
    if _fork(point):
        os._exit(0)
    elif point.child:
        os.waitpid(point.child, 0)


def fork_and_go_on(point: Point) -> None:
    if _fork(point):
        os.close(point.pipe[1])
        os.read(point.pipe[0], 1)  # until the parent is through, and what it took is others'


ACTS: dict[str, Callable[[Point], None]] = {
    "interrupt": interrupt,
    "alarm": alarm,
    "use": use,
    "close": close,
    "fork and exit": fork_and_exit,
    "fork and vanish": fork_and_vanish,
    "fork and go on": fork_and_go_on,
}


def contents(store: refstore.Store) -> dict[Any, bytes]:
    found = {}
    for ref in store:
        with store.get(ref) as buf:
            found[ref] = bytes(buf)
    return found


def end_child(error: BaseException | None) -> None:
    """A child never leaves: it tells how it went."""
    status = DONE_ALONE
    if isinstance(error, SystemExit | refstore.RefstoreError | ValueError):
        status = GIVES_UP
    elif error is not None and not isinstance(error, AssertionError):
        # what the operation asserts of the store was so before others changed it
        traceback.print_exception(error)
        status = WRONG
    with contextlib.suppress(BaseException):
        del error
        gc.collect()
    os._exit(status)


def play(point: Point, work: kills.Work) -> BaseException | None:
    """The operation with the act amid it, and what came of it."""
    error: BaseException | None = None
    try:
        with opcodes.each(point.step, lines=True):
            work(point.store)
    except BaseException as caught:
        error = caught.with_traceback(None)
        if error.__context__ is not None:  # what was handled as it came up
            error.__context__ = error.__context__.with_traceback(None)
    if os.getpid() != point.me:
        end_child(error)
    return error


@contextlib.contextmanager
def no_finalizer_complains() -> Iterator[list[Any]]:
    """What comes up as Python enters a finalizer is dropped by it, and told here."""
    dropped: list[Any] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda what: dropped.append(str(what.exc_type))
    try:
        yield dropped
    finally:
        sys.unraisablehook = before


def let_child_go_on(point: Point) -> int:
    """While others' objects lie where it thinks its own does; its status."""
    if point.act != "fork and go on" or not point.child:
        return GIVES_UP
    with refstore.Store(point.path, create=False) as store:
        for ref in list(store):
            if bytes(store.get(ref)) != kills.KEPT:
                store.delete(ref)
        gc.collect()
        helpers.put_until_full(store, itertools.repeat(JUNK), evictable=False)
        before = contents(store)
        views = [memoryview(store.get(ref)) for ref in store]
        os.write(point.pipe[1], b"x")
        status = os.waitstatus_to_exitcode(os.waitpid(point.child, 0)[1])
        assert status in (GIVES_UP, DONE_ALONE), status
        assert [bytes(view) for view in views] == list(before.values()), "a reader saw a change"
        after = contents(store)
        if status == GIVES_UP:
            assert after == before, "the child changed something"
        del views
        for ref, data in after.items():
            if data == JUNK:
                store.delete(ref)
        return status


class Outcome(NamedTuple):
    """What came of one act at one line."""

    lines: int  # of the operation that were reached
    status: int = GIVES_UP  # of the child
    dropped: tuple[str, ...] = ()  # by finalizers that were interrupted


def look_over(
    operation: kills.Operation,
    point: Point,
    error: BaseException | None,
    before: dict[Any, bytes],
    dropped: list[Any],
) -> None:
    """Another Store on the file finds all or nothing, and no pin."""
    with refstore.Store(point.path, create=False) as again:
        may_change = dropped or operation.deletes or operation.in_steps
        if isinstance(error, Interrupt | Alarm) and not may_change:
            after = contents(again)
            evicted = {ref: data for ref, data in before.items() if data != kills.LARGE}
            is_undone = after == before or (operation.evicts and after == evicted)
            assert is_undone, "what raised has happened"
        if not dropped and point.act != "fork and go on":  # a child that waits has pins
            assert again.stats().pinned == 0


def trial(name: str, act: str, number: int) -> Outcome:
    """One act at one line."""
    operation = OPERATIONS[name]
    with kills.scenario(operation) as path, no_finalizer_complains() as dropped:
        store = refstore.Store(path, create=False)
        before = contents(store)
        point = Point(store, act, number)
        point.path = path
        try:
            error = play(point, operation.work)
            assert error is None or is_expected(act, error), repr(error)
            del store, point.store
            gc.collect()
            with contextlib.suppress(Interrupt, Alarm):  # what had to wait for the next call
                refstore.Store(path, create=False).stats()
            gc.collect()
            look_over(operation, point, error, before, dropped)
            status = let_child_go_on(point)
            # else there is a pin or a room that nobody gives back before the process ends
            if not dropped and act != "fork and go on":
                kills.require_sound(path, operation)
            else:
                with refstore.Store(path, create=False) as again:
                    assert again.check() == []
                    again.unlink()
        finally:
            point.close()
        gc.collect()
        return Outcome(point.reached, status, tuple(dropped))


def is_expected(act: str, error: BaseException) -> bool:
    if act in ("interrupt", "alarm"):
        return isinstance(error, Interrupt | Alarm)
    return act == "close" and isinstance(error, ValueError)


def lines_of(name: str) -> int:
    return trial(name, "use", 0).lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="operations whose names have that in them")
    parser.add_argument("--act", default="", help="acts whose names have that in them")
    parser.add_argument("--line", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="only each such line")
    options = parser.parse_args()
    os.environ[engines.VARIABLE] = "filelock"
    faults = trials = 0
    gc.collect()
    gc.freeze()  # what the imports have left is no garbage
    with kills.adopting():
        for name in OPERATIONS:
            if options.only not in name:
                continue
            lines = lines_of(name)
            for act in ACTS:
                if options.act not in act:
                    continue
                alone = dropped = 0
                first = options.line or 1 + len(act) % options.every
                last = options.line or lines
                for number in range(first, last + 1, options.every):
                    trials += 1
                    try:
                        outcome = trial(name, act, number)
                        alone += outcome.status == DONE_ALONE
                        dropped += bool(outcome.dropped)
                    except BaseException as error:
                        if isinstance(error, KeyboardInterrupt):
                            raise
                        faults += 1
                        print(f"FAULT: {name}, {act}, line {number}: {error!r}", file=sys.stderr)
                        if options.line:
                            raise
                print(f"{name}, {act}: {lines} lines, {alone} alone, {dropped} dropped", flush=True)
    print(f"{trials} trials, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
