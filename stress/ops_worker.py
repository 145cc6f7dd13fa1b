"""One process of `stress/ops.py`: its operations, and the conditions that hold for each."""

import math
import pickle
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from refstore import (
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectRef,
    PinnedBuffer,
    Store,
    StoreFullError,
)
from stress.pattern import Bytes, Pattern, flat, kind_of

_NAMES = [f"name-{i}" for i in range(12)]
NOT_OPERATIONS = ("exists", "full", "lent too late", "no such name")  # but outcomes of one
_HELD = 4  # objects that a process keeps pinned at a time
_ZERO = 0.01  # share of objects without a byte
_LOOK = 4  # operations between two looks into the inbox


@dataclass(frozen=True)
class Plan:
    """Parameters that all processes of a run share."""

    seed: int
    operations: int  # of each process
    seconds: float | None
    capacity: int
    share: int  # bytes of payload that each process may keep
    min_size: int
    max_size: int


class Item(NamedTuple):
    """An object that this process may delete, or was told of."""

    ref: ObjectRef
    ident: int
    size: int


class Held(NamedTuple):
    """A pin that is kept for a while; of some only a view, which must keep the pin alone."""

    buffer: PinnedBuffer | None
    view: Bytes
    ident: int | None
    size: int | None


class Inbox:
    """One end of a process's inbox. A message is never split, and sending never blocks."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: object) -> bool:
        """False if the box is full."""
        try:
            self._end.send(pickle.dumps(message), socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionRefusedError):
            return False
        return True

    def receive(self) -> tuple[Item, bool] | None:
        """An object, and whether it is now this process's own; None if there is no message."""
        try:
            message: tuple[Item, bool] = pickle.loads(self._end.recv(1 << 16, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return None
        return message


class OpsWorker:
    """Does random things to the store and knows the right result of each."""

    def __init__(
        self, plan: Plan, index: int, store: Store, inbox: Inbox, outboxes: Sequence[Inbox]
    ) -> None:
        self.operations = 0
        self._plan = plan
        self._store = store
        self._inbox = inbox
        self._others = [box for i, box in enumerate(outboxes) if i != index]
        self._random = random.Random(f"{plan.seed} {index}")
        self._pattern = Pattern(plan.seed, plan.max_size)
        self._next_ident = index << 48 | 1
        self._owned: list[Item] = []
        self._held: list[Held] = []
        self._kept = 0  # bytes of payload that are owned
        self.counts: Counter[str] = Counter()
        self.verified = 0
        choices: dict[Callable[[], None], int] = {
            self.put: 30,
            self.write: 8,
            self.get: 16,
            self.hold: 10,
            self.let_go: 10,
            self.delete: 16,
            self.hand_over: 6,
            self.lend: 6,
            self.put_named: 8,
            self.get_named: 10,
            self.delete_named: 2,
            self.scribble: 2,
            self.probe: 4,
        }
        self._choices, weights = list(choices), list(choices.values())
        self._weights = [sum(weights[: i + 1]) for i in range(len(weights))]

    def step(self) -> None:
        """Does one random operation."""
        if self.operations % _LOOK == 0:
            self.read_messages()
        (operation,) = self._random.choices(self._choices, cum_weights=self._weights)
        try:
            operation()
        except StoreFullError:
            self.counts["full"] += 1
            for _ in range(len(self._owned) // 4):
                self.delete()
                self._count("delete")
        self._count(operation.__name__)

    def finish(self) -> None:
        """Verifies and gives back everything that this process has."""
        self.read_messages()
        while self._held:
            self.let_go()
        while self._owned:
            self.get()
            self.delete()
        self._store.close()

    # The operations. Each leaves its random choices to the process's own generator alone.

    def put(self) -> None:
        ident, nbytes = self._draw()
        self._make_space(nbytes)
        self._own(Item(self._store.put(self._pattern.value(ident, nbytes)), ident, nbytes))

    def write(self) -> None:
        """Writes straight into shared memory; one time in eight it gives up half way."""
        ident, nbytes = self._draw("bytes")
        give_up = self._random.random() < 0.125
        self._make_space(nbytes)
        block = self._pattern.block(ident, nbytes)
        with self._store.create(nbytes) as writer:
            space = flat(writer)
            half = nbytes // 2
            space[:half] = block[:half]
            if give_up:
                writer.abort()
            else:
                space[half:] = block[half:]
            del space
        if not give_up:
            self._own(Item(writer.ref, ident, nbytes))

    def get(self) -> None:
        if self._owned:
            self._read(self._pick())

    def hold(self) -> None:
        """Pins an object for the next operations to go on around it."""
        if not self._owned:
            return
        if len(self._held) >= _HELD:
            self.let_go()
        item = self._pick()
        buffer = self._store.get(item.ref)
        view = self._check(buffer, item.ident, item.size)
        if self._random.random() < 0.5 and buffer.kind != "object":
            buffer.release()
            self._held.append(Held(None, view, item.ident, item.size))
        else:
            self._held.append(Held(buffer, view, item.ident, item.size))

    def let_go(self) -> None:
        """Verifies an object that has been held, and unpins it."""
        if not self._held:
            return
        buffer, view, ident, nbytes = self._held.pop(self._random.randrange(len(self._held)))
        if buffer is not None:
            self._check(buffer, ident, nbytes)
            buffer.release()
        elif ident is not None:
            self._pattern.check_block(view, ident)

    def delete(self) -> None:
        if not self._owned:
            return
        item = self._take()
        self._store.delete(item.ref)
        self._must_be_gone(item.ref)

    def hand_over(self) -> None:
        """Gives an object to another process, which may delete it."""
        if self._owned and self._others:
            item = self._take()
            if not self._random.choice(self._others).send((item, True)):
                self._own(item)

    def lend(self) -> None:
        """Tells another process of an object, which may be gone when it looks."""
        if self._owned and self._others:
            self._random.choice(self._others).send((self._pick(), False))

    def read_messages(self) -> None:
        while (message := self._inbox.receive()) is not None:
            item, mine = message
            if mine:
                self._own(item)
                self._read(item)
            else:
                try:
                    self._read(item)
                except ObjectNotFoundError:
                    self.counts["lent too late"] += 1

    def put_named(self) -> None:
        """Puts under a name: half of the time instead of what is there, else only if nothing is."""
        ident, nbytes = self._draw()
        nbytes //= 4
        name = self._random.choice(_NAMES)
        replace = self._random.random() < 0.5
        try:
            self._store.put(self._pattern.value(ident, nbytes), name=name, replace=replace)
        except ObjectExistsError:
            if replace:
                raise
            self.counts["exists"] += 1

    def get_named(self) -> None:
        name = self._random.choice(_NAMES)
        try:
            with self._store.get(name) as buffer:
                self._check(buffer, None, None)
                self._check(buffer, None, None)
        except ObjectNotFoundError:
            self.counts["no such name"] += 1

    def delete_named(self) -> None:
        try:
            self._store.delete(self._random.choice(_NAMES))
        except ObjectNotFoundError:
            self.counts["no such name"] += 1

    def scribble(self) -> None:
        """Writes to a private view: neither it nor the object may change the other."""
        if not self._owned:
            return
        item = self._pick()
        with self._store.get(item.ref, writable=True) as mine:
            if mine.kind == "bytes" and mine.nbytes:
                view = flat(mine)
                view[:] = 0xA5
                self._read(item)
                if not (view == 0xA5).all():
                    raise AssertionError(f"object {item.ident:#x}: a private write was lost")
                del view
        self._read(item)

    def probe(self) -> None:
        if not self._owned:
            return
        item = self._pick()
        if item.ref not in self._store or self._store.refcount(item.ref) < 1:
            raise AssertionError(f"object {item.ident:#x} is not in the store")
        with self._store.get(item.ref) as buffer:
            if self._store.refcount(item.ref) < 2 or buffer.ref != item.ref:
                raise AssertionError(f"object {item.ident:#x} is pinned but not counted")

    def _draw(self, kind: str | None = None) -> tuple[int, int]:
        """A new id, of that kind if one is asked for, and a log-uniform size."""
        ident = self._next_ident
        while kind is not None and kind_of(ident) != kind:
            ident += 1
        self._next_ident = ident + 1
        plan = self._plan
        low, high = math.log(max(1, plan.min_size)), math.log(plan.max_size)
        nbytes = int(math.exp(self._random.uniform(low, high)))
        return ident, 0 if self._random.random() < _ZERO else nbytes

    def _make_space(self, nbytes: int) -> None:
        while self._owned and self._kept + nbytes > self._plan.share:
            self.delete()
            self._count("delete")

    def _own(self, item: Item) -> None:
        self._owned.append(item)
        self._kept += item.size

    def _pick(self) -> Item:
        return self._owned[self._random.randrange(len(self._owned))]

    def _take(self) -> Item:
        """Picks a random object, no longer this process's own."""
        index = self._random.randrange(len(self._owned))
        self._owned[index], self._owned[-1] = self._owned[-1], self._owned[index]
        item = self._owned.pop()
        self._kept -= item.size
        return item

    def _read(self, item: Item) -> None:
        with self._store.get(item.ref) as buffer:
            self._check(buffer, item.ident, item.size)
            self._check(buffer, item.ident, item.size)

    def _check(self, buffer: PinnedBuffer, ident: int | None, nbytes: int | None) -> Bytes:
        self.verified += buffer.nbytes
        return self._pattern.check(buffer, ident, nbytes)

    def _must_be_gone(self, ref: ObjectRef) -> None:
        try:
            self._store.get(ref)
        except ObjectNotFoundError:
            return
        raise AssertionError(f"{ref} was deleted and is still found")

    def _count(self, name: str) -> None:
        self.operations += 1
        self.counts[name] += 1
