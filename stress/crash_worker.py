"""One process of `stress/crash.py`: its work until it is killed, and the record that it leaves."""

import contextlib
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
from stress.crash_ledger import ABSENT, LENT, OWN, Ledger
from stress.pattern import Pattern, flat, kind_of

HOT = 8  # names that all processes put
MADE = 4  # names whose objects are made by whoever asks first
CACHED = 2000  # names of what may be evicted: there is never room for all
MAX_SIZE = 256 << 10
CACHE = "cached "  # how these names begin
_HELD = 20  # pins that a process keeps at most
_OWNED = 4  # objects that go with a process
_WAIT = 0.02  # seconds
_CHILD_STEPS = 30

T = TypeVar("T")


class CrashWorker:
    """The work of one process, which may be killed at any instruction."""

    def __init__(self, path: str, number: int, seed: int, ledger: Ledger, pattern: Pattern) -> None:
        self.path, self.number, self.ledger, self.pattern = path, number, ledger, pattern
        self.random = random.Random(seed)
        self.ids = number  # which of the ledger's counters of ids is ours
        self.held: list[tuple[refstore.PinnedBuffer, int | None]] = []
        self.half_written: tuple[refstore.Writer, int, int] | None = None
        self.claimed: tuple[refstore.Writer, int] | None = None
        self.owned: list[refstore.ObjectRef] = []
        self.newest: dict[str, refstore.ObjectRef] = {}
        work = {
            self.put_own: 16,
            self.delete_own: 8,
            self.put_hot: 6,
            self.get_hot: 12,
            self.use_cache: 24,
            self.use_cache_by_batches: 3,
            self.wait_for_hot: 4,
            self.wait_for_room: 2,
            self.make: 6,
            self.put_owned: 6,
            self.claim: 4,
            self.end_claim: 4,
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
        if self.claimed is not None:
            self.claimed[0].abort()
            self.claimed = None
        while self.owned:
            self.store.delete(self.owned[-1])
            self.owned.pop()

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

    def use_cache_by_batches(self) -> None:
        names = [f"{CACHE}{k}" for k in self.random.sample(range(CACHED), 4)]
        with contextlib.suppress(refstore.StoreFullError):
            values = [self.fresh()[1] for _ in names[:3]]
            self.store.put_many(values, names=names[:3], replace=True, evictable=True)
        with contextlib.suppress(refstore.ObjectNotFoundError):
            for buf in self.store.get_many(names[:2]):
                self.keep(buf, None)
        self.store.delete_many(names[2:])

    # -- processes that meet -------------------------------------------------------------------

    def wait_for_hot(self) -> None:
        name = f"hot {self.random.randrange(HOT)}"
        with contextlib.suppress(refstore.GetTimeoutError):
            buf = self.store.wait(name, newer_than=self.newest.get(name), timeout=_WAIT)
            if buf.ref == self.newest.get(name):
                raise AssertionError(f"{buf} is no newer than itself")
            self.newest[name] = buf.ref
            self.keep(buf, None)

    def wait_for_room(self) -> None:
        _, value = self.fresh()
        name = f"hot {self.random.randrange(HOT)}"
        with contextlib.suppress(refstore.StoreFullError, refstore.ObjectExistsError):
            self.store.put(value, name=name, replace=True, timeout=_WAIT)

    def make(self) -> None:
        """Gets what whoever comes first makes, and fails at times."""
        name = f"made {self.random.randrange(MADE)}"
        with contextlib.suppress(
            refstore.StoreFullError, refstore.GetTimeoutError, ArithmeticError
        ):
            self.keep(self.store.get_or_put(name, self.made, timeout=5 * _WAIT), None)
        if self.random.random() < 0.3:
            with contextlib.suppress(refstore.ObjectNotFoundError):
                self.store.delete(name)

    def made(self) -> object:
        if self.random.random() < 0.2:
            raise ArithmeticError
        time.sleep(self.random.random() * _WAIT)
        return self.fresh()[1]

    def put_owned(self) -> None:
        """Puts what goes with this process, and deletes or adopts some of it."""
        if len(self.owned) == _OWNED:
            self.store.delete(self.owned[0])
            del self.owned[0]
        if self.owned:
            self.store.adopt(self.owned[-1])
        with contextlib.suppress(refstore.StoreFullError):
            self.owned.append(self.store.put(self.fresh()[1], owned=True, evictable=False))

    def claim(self) -> None:
        """Claims a name of all, which nobody else puts then, and writes the first half."""
        if self.claimed is not None:
            return
        size = self.random.randrange(32, MAX_SIZE)
        ident = self.ident_of_bytes()
        with contextlib.suppress(refstore.StoreFullError, refstore.ObjectExistsError):
            name = f"hot {self.random.randrange(HOT)}"
            writer = self.store.create(size, name=name, replace=True, claim=True, evictable=False)
            writer.write_at(0, self.pattern.block(ident, size)[: size // 2].data)
            self.claimed = writer, ident

    def end_claim(self) -> None:
        if self.claimed is None:
            return
        writer, ident = self.claimed
        self.claimed = None
        if self.random.random() < 0.3:
            writer.abort()
            return
        half = writer.nbytes // 2
        writer.write_at(half, self.pattern.block(ident, writer.nbytes)[half:].data)
        with contextlib.suppress(refstore.StoreFullError):
            writer.seal()

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
        ident = self.ident_of_bytes()
        k = self.random.randrange(OWN)
        with contextlib.suppress(refstore.StoreFullError):
            name = own_name(self.number, k)
            writer = self.store.create(size, name=name, replace=True, evictable=False)
            memoryview(writer)[: size // 2] = self.pattern.block(ident, size)[: size // 2].data
            self.half_written = writer, ident, k

    def ident_of_bytes(self) -> int:
        ident, _ = self.fresh()
        while kind_of(ident) != "bytes":
            ident, _ = self.fresh()
        return ident

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
            self.half_written = self.claimed = None  # the parent's alone
            self.owned = []
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
