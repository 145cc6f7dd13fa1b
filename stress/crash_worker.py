"""One process of `stress/crash.py`: its work until it is killed, and the record that it leaves.

A process writes into a ledger outside the store before it acts. So its successor, and the audit at
a quiet moment, can tell an object that was lost from one that was being made or deleted when its
owner died.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import refstore
from stress.pattern import Pattern, flat, kind_of

OWN, HOT, LENT = 16, 8, 8  # names of each process, names of all, objects that each lends by ref
CACHED = 2000  # names of what may be evicted: there is never room for all
MAX_SIZE = 256 << 10
CACHE = "cached "  # how these names begin
ABSENT = 0
_HELD = 20  # pins that a process keeps at most
_CHILD_STEPS = 30
_FORK = multiprocessing.get_context("fork")
_WORD = (1 << 64) - 1

T = TypeVar("T")


class Ledger:
    """Memory that the processes share outside the store. Each writes only what is its own."""

    def __init__(self, procs: int) -> None:
        self.procs = procs
        self.current = _FORK.RawArray("Q", procs * OWN)  # id under each own name, or ABSENT
        self.intended = _FORK.RawArray("Q", procs * OWN)  # what is to be there after the operation
        self.lent = _FORK.RawArray("Q", procs * LENT * 4)
        self.in_transit = _FORK.RawArray("Q", procs)  # id of an object without a name or an owner
        self.next_id = _FORK.RawArray("Q", procs * 2)  # those of a process's children by themselves
        self.began = _FORK.RawArray("d", procs)  # when the operation under way began, or 0
        self.operations = _FORK.RawArray("Q", procs)
        self.forks = _FORK.RawArray("Q", procs)
        self.rejoined = _FORK.RawArray("Q", procs)
        self.busy = _FORK.RawArray("Q", procs)  # operations that a stopped process kept from ending
        self.paused = _FORK.RawArray("b", procs)
        self.leave = _FORK.RawArray("b", procs)
        self.pause = _FORK.RawValue("b", 0)
        self.calm_since = _FORK.RawValue("d", 1.0)  # 0 while a process is stopped

    def lend(self, at: int, ref: refstore.ObjectRef, ident: int) -> None:
        """Tells others of an object. A word over the other three shows a half-written entry."""
        raw = bytes(ref)
        low, high = (int.from_bytes(part, sys.byteorder) for part in (raw[:8], raw[8:]))
        self.lent[at * 4 : at * 4 + 4] = [low, high, ident, low ^ high ^ ident ^ _WORD]

    def borrow(self, at: int) -> tuple[refstore.ObjectRef, int] | None:
        """A ref and its object's id; None if nothing is lent here, or only half."""
        low, high, ident, over = self.lent[at * 4 : at * 4 + 4]
        if low ^ high ^ ident ^ _WORD != over:
            return None
        raw = low.to_bytes(8, sys.byteorder) + high.to_bytes(8, sys.byteorder)
        return refstore.ObjectRef(raw), ident

    def take_back(self, at: int) -> None:
        self.lent[at * 4 : at * 4 + 4] = [0] * 4

    def forget(self, number: int) -> None:
        """Notes that a process is gone, and in the middle of nothing."""
        self.began[number] = 0.0
        self.paused[number] = self.leave[number] = 0
        self.in_transit[number] = ABSENT


class CrashWorker:
    """The work of one process, which may be killed at any instruction."""

    def __init__(self, path: str, number: int, seed: int, ledger: Ledger, pattern: Pattern) -> None:
        self.path, self.number, self.ledger, self.pattern = path, number, ledger, pattern
        self.random = random.Random(seed)
        self.ids = number  # which of the ledger's counters of ids is ours
        self.held: list[tuple[refstore.PinnedBuffer, int | None]] = []
        self.half_written: tuple[refstore.Writer, int, int] | None = None
        work = {
            self.put_own: 16,
            self.delete_own: 8,
            self.put_hot: 6,
            self.get_hot: 12,
            self.use_cache: 24,
            self.put_and_delete: 8,
            self.lend: 8,
            self.borrow: 12,
            self.begin_writing: 5,
            self.finish_writing: 5,
            self.scribble: 2,
            self.look: 2,
            self.let_go: 14,
            self.trim: 0.2,
            self.fork: 0.1,
            self.rejoin: 0.1,
        }
        self.work, self.weights = list(work), list(accumulate(work.values()))
        self.begin()
        self.store = self.attached()

    def attached(self) -> refstore.Store:
        return self.patiently(lambda: refstore.Store(self.path, create=False))

    def patiently(self, work: Callable[[], T]) -> T:
        """Tries again and again while a stopped process has what it needs."""
        while True:
            with self.excused():
                return work()

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """Allows an operation to give up while a process is stopped, and not else."""
        try:
            yield
        except refstore.StoreBusyError:
            if self.is_calm():
                raise
            self.ledger.busy[self.number] += 1

    def is_calm(self) -> bool:
        """True if nobody was stopped since this operation began."""
        return bool(0 < self.ledger.calm_since.value < self.ledger.began[self.number])

    def begin(self) -> None:
        self.ledger.began[self.number] = time.monotonic()

    def end(self) -> None:
        self.ledger.began[self.number] = 0.0
        self.ledger.operations[self.number] += 1

    def live(self) -> None:
        self.look_after_predecessor()
        while not self.ledger.leave[self.number]:
            if self.ledger.pause.value:
                self.rest()
            self.begin()
            self.step(self.random.choices(self.work, cum_weights=self.weights)[0])
            self.end()
        self.let_go_of_everything()
        self.store.close()

    def step(self, work: Callable[[], None]) -> None:
        with self.excused():
            work()

    def rest(self) -> None:
        self.let_go_of_everything()
        self.ledger.paused[self.number] = 1
        while self.ledger.pause.value:
            time.sleep(0.005)
        self.ledger.paused[self.number] = 0

    def let_go_of_everything(self) -> None:
        while self.held:
            self.let_go()
        if self.half_written is not None:
            self.half_written[0].abort()
            self.half_written = None

    def look_after_predecessor(self) -> None:
        for k in range(OWN):
            at = self.number * OWN + k
            found = self.patiently(partial(self.ident_under, own_name(self.number, k)))
            if found not in (self.ledger.current[at], self.ledger.intended[at]):
                raise AssertionError(
                    f"{own_name(self.number, k)!r} holds {found:#x}: neither "
                    f"{self.ledger.current[at]:#x} nor {self.ledger.intended[at]:#x}"
                )
            self.ledger.current[at] = self.ledger.intended[at] = found
        for at in range(self.number * LENT, (self.number + 1) * LENT):
            self.patiently(partial(self.read_lent, at))
        self.end()

    def ident_under(self, name: str) -> int:
        try:
            with self.store.get(name) as buf:
                return ident_of(self.pattern, buf)
        except refstore.ObjectNotFoundError:
            return ABSENT

    def fresh(self) -> tuple[int, object]:
        self.ledger.next_id[self.ids] += 1
        ident = (self.ids + 1) << 40 | self.ledger.next_id[self.ids]
        return ident, self.pattern.value(ident, int(16 * (MAX_SIZE / 16) ** self.random.random()))

    def put(self, value: object, *, name: str | None = None, replace: bool = False) -> Any:
        """Put what has to stay."""
        return self.store.put(value, name=name, replace=replace, evictable=False)

    # -- names ---------------------------------------------------------------------------------

    def change_own(self, k: int, ident: int, change: Callable[[str], object]) -> None:
        """Records in the ledger, before and after, what `change` does to an own name."""
        at = self.number * OWN + k
        self.ledger.intended[at] = ident
        try:
            change(own_name(self.number, k))
        except (refstore.StoreFullError, refstore.StoreBusyError):
            self.ledger.intended[at] = self.ledger.current[at]
            raise
        self.ledger.current[at] = ident

    def put_own(self) -> None:
        ident, value = self.fresh()
        with contextlib.suppress(refstore.StoreFullError):
            self.change_own(
                self.random.randrange(OWN),
                ident,
                lambda name: self.put(value, name=name, replace=True),
            )

    def delete_own(self) -> None:
        k = self.random.randrange(OWN)
        before = self.ledger.current[self.number * OWN + k]
        try:
            self.change_own(k, ABSENT, self.store.delete)
        except refstore.ObjectNotFoundError:
            if before != ABSENT:
                raise

    def put_hot(self) -> None:
        _, value = self.fresh()
        name = f"hot {self.random.randrange(HOT)}"
        with contextlib.suppress(refstore.StoreFullError, refstore.ObjectExistsError):
            self.put(value, name=name, replace=self.random.random() < 0.8)
        if self.random.random() < 0.1:
            with contextlib.suppress(refstore.ObjectNotFoundError):
                self.store.delete(name)

    def get_hot(self) -> None:
        with contextlib.suppress(refstore.ObjectNotFoundError):
            self.keep(self.store.get(f"hot {self.random.randrange(HOT)}"), None)

    def use_cache(self) -> None:
        """Gets what may go at any time, or puts it."""
        name = f"{CACHE}{int(CACHED * self.random.random() ** 2)}"
        try:
            self.keep(self.store.get(name), None)
        except refstore.ObjectNotFoundError:
            _, value = self.fresh()
            with contextlib.suppress(refstore.StoreFullError, refstore.ObjectExistsError):
                self.store.put(value, name=name, evictable=True)

    # -- refs ----------------------------------------------------------------------------------

    def put_and_delete(self) -> None:
        """Puts an object without a name and deletes it at once, sometimes under a pin."""
        ident, value = self.fresh()
        self.ledger.in_transit[self.number] = ident
        with contextlib.suppress(refstore.StoreFullError):
            ref = self.put(value)
            if self.random.random() < 0.5:
                self.keep(self.store.get(ref), ident)
            self.store.delete(ref)
        self.ledger.in_transit[self.number] = ABSENT

    def lend(self) -> None:
        """Puts an object for all others to read by ref, and deletes one that was lent before."""
        at = self.number * LENT + self.random.randrange(LENT)
        if (lent := self.ledger.borrow(at)) is not None:
            ref, ident = lent
            self.ledger.in_transit[self.number] = ident
            self.ledger.take_back(at)
            try:
                self.store.delete(ref)
            except refstore.StoreBusyError:
                self.ledger.lend(at, ref, ident)
                self.ledger.in_transit[self.number] = ABSENT
                raise
        ident, value = self.fresh()
        self.ledger.in_transit[self.number] = ident
        with contextlib.suppress(refstore.StoreFullError):
            self.ledger.lend(at, self.put(value), ident)
        self.ledger.in_transit[self.number] = ABSENT

    def borrow(self) -> None:
        self.read_lent(self.random.randrange(self.ledger.procs * LENT))

    def read_lent(self, at: int) -> None:
        lent = self.ledger.borrow(at)
        if lent is None:
            return
        try:
            self.keep(self.store.get(lent[0]), lent[1])
        except refstore.ObjectNotFoundError:
            if self.ledger.borrow(at) == lent:  # its owner takes it back before deleting it
                raise AssertionError(f"object {lent[1]:#x} is lent and lost") from None

    # -- pins ----------------------------------------------------------------------------------

    def keep(self, buf: refstore.PinnedBuffer, ident: int | None) -> None:
        self.pattern.check(buf, ident, None)
        self.held.append((buf, ident))
        if len(self.held) > _HELD:
            self.let_go()

    def let_go(self) -> None:
        if self.held:
            buf, ident = self.held.pop(self.random.randrange(len(self.held)))
            self.pattern.check(buf, ident, None)
            buf.release()

    def scribble(self) -> None:
        """Writes all over a private view, which changes nothing for anybody else."""
        with contextlib.suppress(refstore.ObjectNotFoundError):
            name = f"hot {self.random.randrange(HOT)}"
            with self.store.get(name) as shared:
                self.pattern.check(shared, None, None)
                with self.store.get(shared.ref, writable=True) as mine:
                    if mine.kind == "bytes" and mine.nbytes:
                        flat(mine)[:] = 0xA5
                self.pattern.check(shared, None, None)

    # -- writers -------------------------------------------------------------------------------

    def begin_writing(self) -> None:
        """Writes the first half of an object; other work goes on before the second."""
        if self.half_written is not None:
            return
        size = self.random.randrange(32, MAX_SIZE)
        ident, _ = self.fresh()
        while kind_of(ident) != "bytes":
            ident, _ = self.fresh()
        k = self.random.randrange(OWN)
        with contextlib.suppress(refstore.StoreFullError):
            name = own_name(self.number, k)
            writer = self.store.create(size, name=name, replace=True, evictable=False)
            memoryview(writer)[: size // 2] = self.pattern.block(ident, size)[: size // 2].data
            self.half_written = writer, ident, k

    def finish_writing(self) -> None:
        if self.half_written is None:
            return
        writer, ident, k = self.half_written
        self.half_written = None
        if self.random.random() < 0.3:
            writer.abort()
            return
        half = writer.nbytes // 2
        memoryview(writer)[half:] = self.pattern.block(ident, writer.nbytes)[half:].data
        with contextlib.suppress(refstore.StoreFullError):
            self.change_own(k, ident, lambda name: writer.seal())

    # -- the rest ------------------------------------------------------------------------------

    def look(self) -> None:
        """Reads reports while everything moves."""
        k = self.random.randrange(OWN)
        there = own_name(self.number, k) in self.store
        if there != (self.ledger.current[self.number * OWN + k] != ABSENT):
            raise AssertionError(f"{own_name(self.number, k)!r} is there: {there}")
        if not self.store.stats().processes:
            raise AssertionError("this process is not counted among the living")
        for buf, _ in self.held:
            with contextlib.suppress(refstore.ObjectNotFoundError):
                if self.store.refcount(buf.ref) < 2:
                    raise AssertionError(f"{buf} is held and not counted")
        self.store.names()

    def trim(self) -> None:
        self.store.trim()

    def rejoin(self) -> None:
        """Leaves the store in good order and comes again."""
        self.let_go_of_everything()
        self.store.close()
        self.store = self.attached()
        self.ledger.rejoined[self.number] += 1

    def fork(self) -> None:
        """Forks a child that reads what it inherited while its parent lets go, or kills it."""
        pid = os.fork()
        if pid == 0:
            self.be_a_child()
        self.ledger.forks[self.number] += 1
        killed = self.random.random() < 0.3
        while self.held:
            self.let_go()
        if killed:
            time.sleep(self.random.random() * 0.01)
            os.kill(pid, signal.SIGKILL)
        self.ledger.began[self.number] = 0.0  # the child takes its time: no operation of the store
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0 and not (killed and status == -signal.SIGKILL):
            raise AssertionError(f"a forked child ended with {status}")

    def be_a_child(self) -> None:
        """Works as the child, and never returns. Its ids are its own: its parent may die first."""
        try:
            self.random.seed(os.getpid())
            self.ids += self.ledger.procs
            self.half_written = None  # the parent's alone
            for _ in range(_CHILD_STEPS):
                choice = self.random.randrange(5)
                (self.put_hot, self.get_hot, self.borrow, self.use_cache, self.let_go)[choice]()
            if self.random.random() < 0.5:
                self.let_go_of_everything()
                self.store.close()
            os._exit(0)
        except refstore.StoreBusyError:
            os._exit(0)
        except refstore.RefstoreError as error:
            # A fork takes a turn of the filelock engine: who cannot have one gets no row.
            if "open the store anew" in str(error) and not self.is_calm():
                os._exit(0)
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def own_name(number: int, k: int) -> str:
    return f"own {number} {k}"


def ident_of(pattern: Pattern, buf: refstore.PinnedBuffer) -> int:
    """The id of a whole object."""
    return int.from_bytes(pattern.check(buf, None, None)[:8].tobytes(), sys.byteorder)
