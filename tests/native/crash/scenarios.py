"""The stores that processes are killed in: how each came to be, and what is in it.

A scenario is made once, by real processes, and kept as an image. Others who are attached in it are
rows whose kernel locks the test holds: they are alive as long as it does. In some scenarios they
die when the process under test has attached, so that it meets what they left during its work.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import refstore
from refstore import _core
from tests.fuzz import layout
from tests.native import rows
from tests.native.crash import image
from tests.native.crash.contents import CAPACITY, LARGE, NAMED, NEW, OWNED, SMALL
from tests.native.crash.failpoints import failpoint

OFFERED = ("offer", "if not cas_seq_cst(&v.slots[i].word, &word, offered)")
TAKEN = ("take_offered", "return cas_seq_cst(&v.slots[i].word, &offered")
Policy = Literal["lru", "s3fifo"] | None


class Others(enum.Enum):
    """What those do who are attached in a scenario."""

    IDLE = enum.auto()  # alive: their pins hold
    STOPPED = enum.auto()  # alive, in the middle of a change: who needs their locks is told so
    DIE = enum.auto()  # once the process under test has attached


class Scenario(NamedTuple):
    """A store to be killed in."""

    name: str
    image: image.Image
    others: Others
    named: dict[str, set[bytes | None]]  # what may be there
    unnamed: dict[bytes, bytes]  # by ref
    some: dict[bytes, bytes]  # a few of both, by ref
    alive: list[int]  # rows of the others
    theirs: frozenset[str] = frozenset()  # names of what goes with the others


class Builder:
    """Makes one scenario's file."""

    def __init__(self, path: str, max_objects: int = 2000, evict: Policy = None) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.path = path
        self.store = refstore.Store(
            path, capacity=CAPACITY, max_objects=max_objects, create=True, evict=evict
        )
        self.named: dict[str, set[bytes | None]] = {}
        self.unnamed: dict[bytes, bytes] = {}
        self.some: dict[bytes, bytes] = {}
        self.theirs: set[str] = set()

    def put(self, data: bytes, name: str | None = None) -> refstore.ObjectRef:
        ref = self.store.put(data, name=name, evictable=False)
        if name is None:
            self.unnamed[bytes(ref)] = data
        else:
            self.named[name] = {data}
        return ref

    def delete(self, ref: refstore.ObjectRef) -> None:
        self.store.delete(ref)
        self.unnamed.pop(bytes(ref), None)

    def populate(self) -> None:
        """What is in every scenario but the empty one."""
        for name, data in NAMED.items():
            self.some[bytes(self.put(data, name))] = data
        for k in range(5):
            self.put(bytes([k]) * 64)
            self.put(bytes([k]) * 110)  # in the run that "small" is in, which so stays
            self.put(bytes([k]) * 3000)
        self.store.delete(self.store.put(bytes(700)))  # leaves a run that can be dissolved

    def fill_with_cached(self) -> None:
        """Objects that may go, to the last block."""
        for size, most in ((60_000, 8), (20_000, 10), (3000, 60), (700, 200), (64, 1000)):
            while most and self.store.stats().largest_free >= size:
                most -= 1
                name, data = f"cached {len(self.named)}", bytes([len(self.named) % 251]) * size
                ref = self.store.put(data, name=name, evictable=True)
                self.named[name] = {None, data}
                if len(self.named) % 10 == 0:
                    self.some[bytes(ref)] = data
        assert self.store.stats().evictions == 0

    def own(self, name: str, data: bytes, work: Callable[[refstore.Store], object]) -> None:
        """Another process, that owns an object and does something."""
        self.another(lambda store: [store.put(data, name=name, owned=True), work(store)])
        self.named[name] = {data}
        self.theirs.add(name)

    def another(self, work: Callable[[refstore.Store], object]) -> None:
        """A process that attaches, does something, and leaves all of it behind."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                kept = [self.store]  # so that this one's copy stays as it is
                store = refstore.Store(self.path, create=False)
                kept.append(work(store))  # type: ignore[arg-type]
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), "the scenario's other process got to its end"
        assert os.WTERMSIG(status) == signal.SIGKILL

    def done(self, name: str, others: Others = Others.IDLE) -> Scenario:
        self.store.close()
        end_naps(self.path)
        taken = image.take(self.path)
        os.unlink(self.path)
        return Scenario(
            *(name, taken, others, self.named, self.unnamed, self.some, taken.rows()),
            theirs=frozenset(self.theirs),
        )


def end_naps(path: str, *, have_all_slept: bool = False) -> None:
    """Whoever slept did so long ago, so that the clock changes nothing in what is played."""
    with open(path, "r+b") as file:
        (max_objects,) = [
            field
            for field in layout.native(CAPACITY, 1).tables[0].fields
            if field.name == "max_objects"
        ]
        file.seek(max_objects.at)
        n = int.from_bytes(file.read(max_objects.width), "little")
        for table in layout.native(CAPACITY, n).tables:
            for field in table.fields:
                if not field.name.endswith("_until"):
                    continue
                for entry in range(table.entries):
                    file.seek(table.at + entry * table.stride + field.at)
                    if have_all_slept or any(file.read(field.width)):
                        file.seek(table.at + entry * table.stride + field.at)
                        file.write(b"\1".ljust(field.width, b"\0"))


def dies_at(
    function: str, source: str, work: Callable[[refstore.Store], object]
) -> Callable[..., object]:
    """`work`, by a process that is killed in the middle of it."""

    def cut_short(store: refstore.Store) -> object:
        _core._arm(failpoint(function, source).number, signal.SIGKILL)
        return work(store)

    return cut_short


def empty(path: str) -> Scenario:
    return Builder(path).done("empty")


def populated(path: str) -> Scenario:
    builder = Builder(path)
    builder.populate()
    return builder.done("populated")


def full(path: str) -> Scenario:
    """To the last block, and with every free run given back."""
    builder = Builder(path)
    builder.populate()
    for size in (100_000, 30_000, 4096, 700, 64):
        with contextlib.suppress(refstore.StoreFullError):
            while True:
                builder.put(bytes([size % 251]) * size)
    return builder.done("full")


def full_of_slots(path: str) -> Scenario:
    """As many objects as there may be, deleted ones whose blocks keep their slots, and as many
    processes that put objects, of which next to nothing is left."""
    builder = Builder(path, max_objects=200)
    builder.populate()
    refs = [builder.put(bytes([k % 251]) * (64 + k)) for k in range(150)]
    for ref in refs[::2]:
        builder.delete(ref)
    with contextlib.suppress(refstore.StoreFullError):
        while True:
            builder.put(b"")
    for ref in refs[1::8]:
        builder.delete(ref)
    scenario = builder.done("full_of_slots")
    image.put_back(path, scenario.image)
    with open(path, "r+b") as file:
        for origin in range(1, image.ORIGINS):
            file.seek(image.ORIGINS_AT + origin * image.ORIGIN_NBYTES)
            file.write((1000).to_bytes(8, "little"))  # a row that nobody has
    taken = image.take(path)
    os.unlink(path)
    return scenario._replace(image=taken)


def fragmented(path: str) -> Scenario:
    """Holes of all sizes between what lives."""
    builder = Builder(path)
    builder.populate()
    refs = [builder.put(bytes([k % 251]) * (64 << k % 9)) for k in range(90)]
    refs += [builder.put(bytes([k % 251]) * (34_000 + 5000 * k)) for k in range(6)]
    for ref in refs[::2]:
        builder.delete(ref)
    return builder.done("fragmented")


def pinned(path: str) -> Scenario:
    """Another process reads everything."""
    builder = Builder(path)
    builder.populate()
    builder.another(lambda store: [store.get(ref) for ref in store])
    return builder.done("pinned")


def _hold_condemned(store: refstore.Store) -> object:
    held = [store.get(ref) for ref in store]
    for buf in held:
        if buf.nbytes in (len(SMALL) + 1, len(LARGE) + 1):
            store.delete(buf.ref)
    writer = store.create(30_000)
    return held, writer, memoryview(writer)


def condemned(path: str, others: Others) -> Scenario:
    """Another process keeps deleted objects, and writes one."""
    builder = Builder(path)
    builder.populate()
    for data in (SMALL + b"!", LARGE + b"!"):
        builder.store.put(data)
    builder.another(_hold_condemned)
    return builder.done(f"condemned_{others.name.lower()}", others)


def no_free_row(path: str) -> Scenario:
    """As many processes as there can be, and only one of them is dead: who attaches has its row."""
    builder = Builder(path)
    builder.populate()
    for data in (SMALL + b"!", LARGE + b"!"):
        builder.store.put(data)
    builder.store.close()
    builder.another(_hold_condemned)
    scenario = builder.done("no_free_row")
    image.put_back(path, scenario.image)
    with open(path, "r+b") as file:
        for row in range(rows.ROWS):
            file.seek(rows.ROWS_AT + row * rows.ROW_NBYTES)
            file.write(b"\1")
        file.seek(image.LIVE_WORDS_AT)
        file.write(bytes([image.LIVE_NBYTES // 8]))
        file.seek(image.LIVE_AT)
        file.write(b"\xff" * image.LIVE_NBYTES)
    taken = image.take(path)
    os.unlink(path)
    return scenario._replace(image=taken, alive=[row for row in taken.rows() if row])


def mid_replace(path: str, others: Others) -> Scenario:
    """Another process is between the new object and the old one under a name."""
    builder = Builder(path)
    builder.populate()
    builder.another(
        dies_at(
            "publish_locked",
            "indexed = cas_acq_rel",
            lambda s: s.put(NEW, name="old", replace=True),
        )
    )
    builder.named["old"].add(NEW)
    return builder.done(f"mid_replace_{others.name.lower()}", others)


def mid_change(path: str, others: Others) -> Scenario:
    """Another process is in the middle of taking space, with a half-made run."""
    builder = Builder(path)
    builder.populate()
    builder.another(dies_at("cut_run", "assign(v.pool.class_pages", lambda s: s.put(bytes(1500))))
    return builder.done(f"mid_change_{others.name.lower()}", others)


def mid_free(path: str) -> Scenario:
    """Another process has freed a block that no hint leads to yet."""
    builder = Builder(path)
    builder.populate()
    ref = builder.store.put(bytes(2000))
    builder.another(dies_at("free_slot", "generation + 1, FREE", lambda s: s.delete(ref)))
    return builder.done("mid_free_die", Others.DIE)


def mid_make(path: str, others: Others) -> Scenario:
    """Another process makes the object of a name."""
    builder = Builder(path)
    builder.populate()
    builder.another(lambda s: s.get_or_put("fresh", lambda: os.kill(os.getpid(), signal.SIGKILL)))
    return builder.done(f"mid_make_{others.name.lower()}", others)


def claimed(path: str, others: Others) -> Scenario:
    """Another process has claimed names, one of which has an object."""
    builder = Builder(path)
    builder.populate()

    def claim(store: refstore.Store) -> object:
        writers = [
            store.create(700, name="fresh", claim=True),
            store.create(100_000, name="old", claim=True, replace=True),
        ]
        return writers, memoryview(writers[0])

    builder.another(claim)
    return builder.done(f"claimed_{others.name.lower()}", others)


def mid_wait(path: str) -> Scenario:
    """Another process waits for room, and has the turn."""
    builder = Builder(path)
    builder.populate()
    builder.another(
        dies_at(
            "take_turn", "cas_acq_rel(&v.pool.turn", lambda s: s.put(bytes(CAPACITY), timeout=None)
        )
    )
    return builder.done("mid_wait_die", Others.DIE)


def slept_before(path: str) -> Scenario:
    """Others have slept on every word, long ago: nobody has taken their deadlines away."""
    builder = Builder(path)
    builder.populate()
    scenario = builder.done("slept_before")
    image.put_back(path, scenario.image)
    end_naps(path, have_all_slept=True)
    taken = image.take(path)
    os.unlink(path)
    return scenario._replace(image=taken)


def owner(path: str, others: Others) -> Scenario:
    """Another process owns objects, one of which somebody made, and one that it has deleted."""
    builder = Builder(path)
    builder.populate()

    def work(store: refstore.Store) -> object:
        store.delete(store.put(OWNED, owned=True))
        store.adopt("small")
        return [store.get(store.put(LARGE, owned=True))]

    builder.own("owned", OWNED, work)
    builder.theirs.add("small")
    return builder.done(f"owner_{others.name.lower()}", others)


def mid_leave(path: str, others: Others) -> Scenario:
    """Another process is about to delete what it owns."""
    builder = Builder(path)
    builder.populate()

    def close(store: refstore.Store) -> None:
        builder.store.close()  # its own copy: only the last one is a leave
        store.close()

    builder.own("owned", OWNED, dies_at("take_from_owner", "owner | GOING", close))
    builder.named["owned"].add(None)
    return builder.done(f"mid_leave_{others.name.lower()}", others)


def cache(path: str, evict: Policy = None) -> Scenario:
    """Full of what may go, beside what may not."""
    builder = Builder(path, evict=evict)
    builder.populate()
    builder.fill_with_cached()
    return builder.done(f"cache_{evict}" if evict else "cache")


def mid_eviction(path: str, name: str, point: tuple[str, str], others: Others) -> Scenario:
    """Another process has offered an object, or has taken it."""
    builder = Builder(path)
    builder.populate()
    builder.fill_with_cached()
    builder.another(dies_at(*point, lambda s: s.put(bytes(3000), evictable=False)))
    return builder.done(f"{name}_{others.name.lower()}", others)


def made(path: str) -> Scenario:
    """Nobody has ever attached."""
    _core.make_file(path, CAPACITY, 2000, 0o600, False, None)
    taken = image.take(path)
    os.unlink(path)
    return Scenario("made", taken, Others.IDLE, {}, {}, {}, [])


def rebooted(path: str) -> Scenario:
    """The machine was started again since anybody attached."""
    builder = Builder(path)
    builder.populate()
    scenario = builder.done("rebooted")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes()[:36]
    (at, header), *others = scenario.image.pieces
    assert boot_id in header
    pieces = ((at, header.replace(boot_id, b"0" * 36)), *others)
    return scenario._replace(name="rebooted", image=scenario.image._replace(pieces=pieces))


def scenario_named(name: str, path: str) -> Scenario:
    """One of them, made at `path`."""
    return next(scenario for scenario in all_scenarios(path) if scenario.name == name)


def all_scenarios(path: str) -> Iterator[Scenario]:
    """One after the other, each made at `path`, which is free again afterwards."""
    for make in (made, empty, populated, full, full_of_slots, fragmented, pinned):
        yield make(path)
    yield mid_free(path)
    yield mid_wait(path)
    for others in (Others.IDLE, Others.DIE):
        yield mid_make(path, others)
        yield claimed(path, others)
    yield slept_before(path)
    yield rebooted(path)
    yield condemned(path, Others.IDLE)
    for others in (Others.STOPPED, Others.DIE):
        yield mid_replace(path, others)
        yield mid_change(path, others)
        yield mid_leave(path, others)
    yield condemned(path, Others.DIE)
    yield owner(path, Others.IDLE)
    yield owner(path, Others.DIE)
    yield cache(path)
    yield cache(path, "s3fifo")
    for others in (Others.STOPPED, Others.DIE):
        yield mid_eviction(path, "offered", OFFERED, others)
    yield mid_eviction(path, "taken", TAKEN, Others.DIE)
    yield no_free_row(path)
