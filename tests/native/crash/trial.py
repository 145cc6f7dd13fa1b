"""One trial: a store as it was, a process that dies at a failpoint, and a survivor's look at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import refstore
from refstore import _core
from tests.native.crash import image
from tests.native.crash.contents import CAPACITY, NEW, SCENARIO, SMALL
from tests.native.crash.failpoints import Passes, failpoints
from tests.native.crash.ledger import AccountedStore, Ledger
from tests.native.crash.operations import OPERATIONS, Operation, Outcomes
from tests.native.crash.scenarios import Others, Scenario


class Point(NamedTuple):
    """Where a process is to be stopped: at a failpoint, after it has passed it `skip` times."""

    number: int
    skip: int

    def __str__(self) -> str:
        again = f", {self.skip + 1} times" if self.skip else ""
        return f"{failpoints()[self.number]}{again}"


class Fault(AssertionError):
    """A store that is not as it should be after a death."""


def byte_locks(fd: int, rows: list[int], kind: int) -> None:
    """What the kernel knows of those rows: F_WRLCK, they live; F_UNLCK, they are dead."""
    start = 0
    for i, row in enumerate(rows):
        if i + 1 == len(rows) or rows[i + 1] != row + 1:  # neighbours in one call: it is quicker
            lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, rows[start], i + 1 - start, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
            start = i + 1


class Stage:
    """A file on which one trial after the other is played."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.passes = Passes()
        self._ended: list[int] = []
        self.ledger = AccountedStore.ledger = Ledger()
        open(path, "wb").close()
        self.others_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.others_fd)
        os.unlink(self.path)

    @contextlib.contextmanager
    def set_up(self, scenario: Scenario, taken: image.Image) -> Iterator[None]:
        """The scenario, or what a death has made of it; its others live."""
        if taken is scenario.image:
            self.ledger.clear()
        image.put_back(self.path, taken)
        byte_locks(self.others_fd, scenario.alive, fcntl.F_WRLCK)
        try:
            yield
        finally:
            byte_locks(self.others_fd, scenario.alive, fcntl.F_UNLCK)

    def start(
        self,
        scenario: Scenario,
        operation: Operation,
        ready: Callable[[], None],
        attached: Callable[[], None] = lambda: None,
    ) -> int:
        """A process that does the operation, and calls `ready` just before it; returns its pid.

        It calls `attached` before the scenario's others die, if they do.
        """
        sys.stdout.flush()
        ended, alive = os.pipe()
        self._ended.append(ended)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            self._act(lambda: self._do(scenario, operation, ready, attached))
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it was quicker
            os.setpgid(child, child)
        os.close(alive)
        return child

    def await_children(self) -> None:
        """Until the processes that were started have gone, and all that they have forked."""
        while self._ended:
            os.read(self._ended[-1], 1)  # the other end is theirs
            os.close(self._ended.pop())

    def _act(self, work: Callable[[], None]) -> NoReturn:
        status = 1
        try:
            _core._set_busy_timeout(0)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _do(
        self,
        scenario: Scenario,
        operation: Operation,
        ready: Callable[[], None],
        attached: Callable[[], None],
    ) -> None:
        store: refstore.Store | None = None
        if not operation.attaches:
            store = AccountedStore(self.path, create=False)
        attached()
        SCENARIO.update(scenario.some)
        self._others_act(scenario)
        ready()
        with contextlib.suppress(refstore.RefstoreError):
            if store is None:
                store = operation.run(self.path)  # type: ignore[arg-type]
            else:
                operation.run(store)  # type: ignore[arg-type]
        _core._arm(-1, 0)
        _core._count_passes(0)
        if store is not None:
            store.close()  # in good order: what it has lost is not found by a recovery

    def _others_act(self, scenario: Scenario) -> None:
        if scenario.others is Others.DIE:
            byte_locks(self.others_fd, scenario.alive, fcntl.F_UNLCK)

    def points_of(
        self, scenario: Scenario, taken: image.Image, operation: Operation
    ) -> list[Point]:
        """Where the operation can be killed: first, second and last pass of each failpoint."""
        self.passes.clear()
        with self.set_up(scenario, taken):
            child = self.start(scenario, operation, self.passes.count)
            status = os.waitpid(child, 0)[1]
            self.await_children()
            if status != 0:
                raise Fault(f"{operation.name} fails by itself")
        return [
            Point(number, skip)
            for number, times in self.passes.passed()
            for skip in sorted({0, min(1, times - 1), times - 1})
        ]

    def kill(
        self, scenario: Scenario, taken: image.Image, operation: Operation, point: Point
    ) -> None:
        """The operation, by a process that dies at that point. The file is as it leaves it."""
        with self.set_up(scenario, taken):
            child = self.start(
                scenario, operation, lambda: _core._arm(point.number, signal.SIGKILL, point.skip)
            )
            status = os.waitpid(child, 0)[1]
            self.await_children()
        if status != signal.SIGKILL and not (operation.is_timed and status == 0):
            raise Fault(f"{operation.name} ended with {status:#x} and was not killed at {point}")

    def look(self, scenario: Scenario, outcomes: list[Outcomes]) -> None:
        """A survivor attaches, beside the scenario's others if they live; then they die too."""
        _core._set_busy_timeout(0)
        rows = [] if scenario.others is Others.DIE else scenario.alive
        byte_locks(self.others_fd, rows, fcntl.F_WRLCK)
        with refstore.Store(self.path, create=False) as store:
            if scenario.others is not Others.STOPPED:
                require_sound(store)
            self.require_complete(store, scenario, outcomes, with_others=bool(rows))
            if rows:
                byte_locks(self.others_fd, rows, fcntl.F_UNLCK)
                require_sound(store)
                self.require_complete(store, scenario, outcomes, with_others=False)
            require_usable_to_the_full(store)

    def require_complete(
        self,
        store: refstore.Store,
        scenario: Scenario,
        outcomes: list[Outcomes],
        with_others: bool,
    ) -> None:
        require_contents(store, scenario, outcomes, with_others)
        for entry in self.ledger:
            content = _content(store, entry.ref)
            if content is None or not entry.is_of(content):
                state = "gone" if content is None else "changed"
                raise Fault(f"{entry.ref!r} was put, and is {state}")


def require_sound(store: refstore.Store) -> None:
    """All that dead processes held comes back, and then everything adds up."""
    while store.recover():
        pass
    if problems := store.check():
        raise Fault(f"check() finds {problems}")


def _content(store: refstore.Store, key: str | refstore.ObjectRef) -> bytes | None:
    try:
        with store.get(key) as buf:
            return bytes(buf)
    except refstore.ObjectNotFoundError:
        return None


def require_contents(
    store: refstore.Store, scenario: Scenario, outcomes: list[Outcomes], with_others: bool
) -> None:
    """Every sealed object is whole, under its name and by its ref; no name is anything else."""
    there = scenario.named
    if not with_others:
        there = {name: data for name, data in there.items() if name not in scenario.theirs}
    names = set(scenario.named).union(*outcomes)
    for name in names:
        may_be = set(there.get(name, {None})).union(*(o.get(name, set()) for o in outcomes))
        if _content(store, name) not in may_be:
            raise Fault(f"{name!r} holds {(_content(store, name) or b'nothing')[:20]!r}")
    for raw, data in scenario.unnamed.items():
        if _content(store, refstore.ObjectRef(raw)) != data:
            raise Fault(f"an object of {len(data)} bytes is not what it was")
    if not names.issuperset(store.names()):
        raise Fault(f"names() has {store.names()}")


def require_usable_to_the_full(store: refstore.Store) -> None:
    """The survivor puts, replaces and deletes; then everything is one free piece again."""
    for ref in store:
        store.delete(ref)
    stats = store.stats()
    if (stats.used, stats.objects, stats.pinned, stats.condemned) != (0, 0, 0, 0):
        raise Fault(f"something is left of an empty store: {stats}")
    store.put(SMALL, name="old")
    store.put(NEW, name="old", replace=True)
    if _content(store, "old") != NEW:
        raise Fault("a name does not hold what was put")
    store.delete("old")
    store.create(CAPACITY).abort()
    if problems := store.check():
        raise Fault(f"check() finds {problems} in an emptied store")


RECOVERY = next(operation for operation in OPERATIONS if operation.name == "attach")
