"""An attachment to a store: objects are put, pinned and given up through it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from refstore import _messages
from refstore._arguments import META_LIMIT
from refstore._errors import StoreFullError, TopHolder
from refstore._names import encode_name
from refstore._paths import open_store
from refstore._refs import make_ref
from refstore.engines.filelock import (
    buffers,
    check,
    eviction,
    liveness,
    names,
    origins,
    process_table,
    recovery,
    slots,
)
from refstore.engines.filelock.journal import Change, Moment
from refstore.engines.filelock.layout import (
    EVICTIONS,
    KINDS,
    META,
    NBYTES,
    OFFSET,
    PUTS,
    SHAPE,
    TEXT_AT,
    UNIT,
    UNITS,
    read_header,
)
from refstore.engines.filelock.life import Life, here
from refstore.engines.filelock.mapping import copy_on_write
from refstore.engines.filelock.membership import Membership
from refstore.engines.filelock.pins import Pin, postpone
from refstore.engines.filelock.prepare import Prepared
from refstore.engines.filelock.targets import Target
from refstore.engines.filelock.transaction import Deferred, Operation, T
from refstore.payload import arrays

SMALL: Final = 1 << 15  # bytes that are copied under the lock, with the allocation
COPIED: Final = 1 << 16  # bytes whose private view is a copy: it costs less than a mapping
NEAR: Final = 1 << 20  # bytes whose memory is committed under the lock
RECOVERY_PAUSE: Final = 0.1  # seconds between two looks for the dead before others' objects go


class Block(NamedTuple):
    """The place of an object in the file."""

    slot: int
    offset: int
    nbytes: int
    kind: str  # "bytes", "array" or "object"
    description: bytes  # of an array, as `arrays.describe` makes it


class Asked:
    """Wishes of a call for the object that it makes, besides its payload."""

    __slots__ = ("claim", "evictable", "meta", "owned", "replace", "utf8")

    def __init__(
        self,
        name: str | None = None,
        replace: bool = False,
        claim: bool = False,
        owned: bool = False,
        evictable: bool | None = None,
        meta: bytes = b"",
    ) -> None:
        self.utf8 = None if name is None else encode_name(name)
        self.replace = replace
        self.claim = claim
        self.owned = owned
        self.evictable = evictable
        self.meta = meta


_NOTHING: Final = Asked()


class Call:
    """One public call, and what it took for whoever is interrupted before it can hand it out."""

    __slots__ = (
        "asked",
        "att",
        "generation",
        "life",
        "published",
        "replaced",
        "slot",
        "taken",
        "until",
    )

    def __init__(
        self, att: Attachment, life: Life, asked: Asked = _NOTHING, until: float | None = 0.0
    ) -> None:
        self.att = att
        self.life = life  # in which it began
        self.asked = asked
        self.until = until  # by time.monotonic(): it may wait as long as that; None: for ever
        self.slot = self.generation = 0
        self.taken: Moment | None = None  # when the slot became ours
        self.published: Moment | None = None
        self.replaced = False  # an object that had the name is gone with that

    def run(self, what: str, operation: Operation[T], *args: object) -> T:
        """Runs an operation of the call under the lock."""
        return self.att.run(self.life, what, operation, *args, until=self.until)

    def with_room(self, what: str, nbytes: int, operation: Operation[T], *args: object) -> T:
        """Runs an operation that allocates; see `Attachment.with_room`."""
        return self.att.with_room(self, what, nbytes, operation, *args)

    def take(self, slot: int, generation: int, moment: Moment) -> None:
        self.slot, self.generation, self.taken = slot, generation, moment

    def is_taken(self) -> bool:
        return self.taken is not None and self.taken.has_come()

    def is_published(self) -> bool:
        return self.published is not None and self.published.has_come()


class Attachment(Membership):
    """This process's membership in one store. It ends with the last store object, buffer and writer
    that uses it."""

    _recovered_at = 0.0  # by time.monotonic(): when the dead were last looked for before others go

    def block(self, slot: int) -> Block:
        """Reads the place of a slot that we pin or write. StoreCorruptedError if it leads out of
        the file."""
        words, at = self.file.words, self.file.slot(slot)
        unit, units = words[at + OFFSET], words[at + UNITS]
        nbytes, shape = words[at + NBYTES], words[at + SHAPE]
        offset, nbytes_of_text = self.file.block_at(unit), shape >> 32
        spill = slots.text_spill(nbytes_of_text)
        if shape & 0xFF >= len(KINDS):
            raise _messages.damaged_object(self.path, _messages.KIND_OF_OBJECT, slot)
        if unit + units > self.file.g.units or nbytes > units * UNIT:
            raise _messages.damaged_object(self.path, "the place of the object", slot)
        if nbytes + spill > units * UNIT:
            raise _messages.damaged_object(self.path, arrays.LENGTH, slot)
        start = offset + nbytes if spill else self.file.label(slot) + TEXT_AT
        text = bytes(self.file.octets[start : start + nbytes_of_text])
        return Block(slot, offset, nbytes, KINDS[shape & 0xFF], text)

    def meta(self, slot: int) -> bytes:
        """Reads the meta of a slot that we pin. StoreCorruptedError if it leads out of the file."""
        words, at = self.file.words, self.file.slot(slot)
        unit, units, nbytes = words[at + OFFSET], words[at + UNITS], words[at + META]
        spill = slots.meta_spill(nbytes)
        if nbytes > META_LIMIT or spill > units * UNIT or unit + units > self.file.g.units:
            raise _messages.damaged_object(self.path, "the length of the meta", slot)
        start = self.file.block_at(unit + units) - spill if spill else self.file.meta(slot)
        return bytes(self.file.octets[start : start + nbytes])

    def private_copy(self, block: buffers.Block) -> tuple[mmap.mmap, int]:
        """A private copy-on-write view of a block, and where it begins there."""
        start, nbytes = block.offset, block.nbytes
        if nbytes > COPIED:
            delta = start % mmap.ALLOCATIONGRANULARITY
            with contextlib.suppress(OSError):  # no descriptor any more
                memory = copy_on_write(self.file.descriptor(), nbytes + delta, start - delta)
                return memory, delta
        memory = copy_on_write(-1, max(nbytes, 1), 0)
        memory[:nbytes] = self.readable[start : start + nbytes]
        return memory, 0

    def unpinning(self, slot: int) -> Deferred:
        """Work that drops a pin, once, however often it is requested."""
        return Deferred(self._unpin, (slot,))

    def pin(self, slot: int, generation: int, pin: Pin) -> None:
        """One more pin on a live object. Errors: ObjectNotFoundError."""
        self.with_room(Call(self, here()), "a pin", 0, self._pin, slot, generation, pin)

    def _pin(self, c: Change, slot: int, generation: int, pin: Pin) -> None:
        if not slots.is_live(c, slot, generation):
            raise _messages.not_found(
                self.path, make_ref(slot, generation, self.tag), of_other_store=False
            )
        slots.pin(c, slot, self.own)
        pin.take(slot, c.next())
        c.commit()

    def _unpin(self, c: Change, slot: int) -> None:
        slots.unpin(c, slot, self.own)
        c.commit()
        self.recover_condemned(c, slot)

    def recover_condemned(self, c: Change, slot: int | None) -> None:
        """Recovers the dead processes that pin a deleted object."""
        if slot is not None and slots.is_condemned(c, slot):
            rows = slots.pinning_rows(c, slot)
            with contextlib.suppress(OSError):  # no descriptor left: what was asked for is done
                recovery.recover(c, self.folder, rows, self.row, self.report)

    # --- room

    def with_room(
        self, call: Call, what: str, nbytes: int, operation: Operation[T], *args: object
    ) -> T:
        """Runs an operation that allocates, see `try_with_eviction`. When the store is full it
        retries after recovering dead processes, then after collecting garbage of this one that
        still pins."""
        remedies = iter((self._recover, self._collect_garbage))
        while True:
            try:
                result: T = call.run(what, self.try_with_eviction, operation, *args)
                return result
            except slots.NoRoomError as error:
                why = str(error)
            if why == _messages.OVER_CAPACITY or not any(remedy(call) for remedy in remedies):
                break
        raise self._full(call, nbytes, why)

    def _full(self, call: Call, nbytes: int, why: str) -> StoreFullError:
        room, holders = call.run("counting", self._room)
        fd = self.file.descriptor_or_none()
        return _messages.full(self.path, nbytes, why, room, holders, fd)

    def try_with_eviction(self, c: Change, operation: Callable[..., T], *args: object) -> T:
        """The operation; if it finds no room, once more after the dead are recovered, then after
        others' objects are evicted. An operation that finds none has changed nothing since its
        last commit."""
        remedies = iter((self._recover_sometimes, self._evict))
        while True:
            try:
                return operation(c, *args)
            except slots.NoRoomError as error:  # noqa: PERF203  it is the exception
                units = error.units
                if units is None or not any(remedy(c, units) for remedy in remedies):
                    raise

    def _recover_sometimes(self, c: Change, _: int) -> bool:
        # where something is evicted for each put, the locks of all rows would take longer than it
        now = time.monotonic()
        if self._recovered_at + RECOVERY_PAUSE < now:
            self._recovered_at = now
            return self.recover_dead(c)
        return False

    def _evict(self, c: Change, units: int) -> bool:
        c.commit()
        found = eviction.victims(c, units)
        if found is not None:
            self.delete_all(c, found, EVICTIONS)
        return found is not None

    def delete_all(self, c: Change, found: Iterable[int], counter: int) -> int:
        """The end of live objects, in several changes; how many there were. One that comes twice
        must not be found again."""
        deleted = []
        for slot in found:
            slots.remove(c, slot)
            deleted.append(slot)
            if c.is_full():
                c.commit()
        c.commit()
        self.count(counter, len(deleted))
        for slot in deleted:
            self.recover_condemned(c, slot)
        return len(deleted)

    def _recover(self, call: Call) -> bool:
        return call.run("recovery", self.recover_dead)

    def _collect_garbage(self, call: Call) -> bool:
        if not call.run("recovery", self._holds_condemned):
            return False
        gc.collect()
        return True

    def _room(self, c: Change) -> tuple[_messages.Room, list[TopHolder]]:
        held = check.holdings(c)
        room = check.census(c).room._replace(kept=check.kept(c, held))
        return room, check.top_holders(c, held)

    def recover_dead(self, c: Change) -> bool:
        return recovery.recover(c, self.folder, process_table.used_rows(c), self.row, self.report)

    def _holds_condemned(self, c: Change) -> bool:
        return recovery.holds_condemned(c, self.own)

    # --- putting

    def put(self, call: Call, prepared: Prepared) -> None:
        """A new object. If this or what follows raises, the call is to be undone."""
        nbytes = prepared.nbytes
        if nbytes <= SMALL:
            what = _messages.a_put(nbytes)
            call.with_room(what, nbytes, self._put_small, call, prepared)
            return
        self.begin(call, prepared.wanted(call.asked.meta))
        at = self.block(call.slot).offset
        prepared.fill(Target(self.file, at, nbytes, call.life))
        self.seal(call, None)

    def stays(self, call: Call, error: BaseException) -> bool:
        """Whether what was published before `error` came up cannot be taken back: what it replaced
        is gone. Then the error comes out of the next call."""
        return call.replaced and call.is_published() and call.life.is_ours() and postpone(error)

    def give_up(self, call: Call, pin: Pin | None = None) -> None:
        """Gives back what a call took, now or soon: nobody has its ref. See `defer`.

        `pin`: of views of it that live on. Twice is once.
        """
        if call.is_taken():
            self.defer(self._undo, call, pin)

    def give_up_all(self, calls: Iterable[Call]) -> None:
        """The same for many calls, without views, under one lock."""
        self.defer_once(*(Deferred(self._undo, (call, None)) for call in calls if call.is_taken()))

    def _undo(self, c: Change, call: Call, pin: Pin | None) -> None:
        slot = call.slot
        if not call.life.is_ours():
            return
        if slots.is_written_by(c, slot, call.generation, self.own):
            if pin is not None:
                slots.pin(c, slot, self.own)
                pin.take(slot, c.next())
            slots.condemn(c, slot)
        elif slots.is_live(c, slot, call.generation) and not call.replaced:
            slots.remove(c, slot)
        c.commit()
        self.recover_condemned(c, slot)

    def _put_small(self, c: Change, call: Call, prepared: Prepared) -> None:
        replaced = self.find_replaced(c, call.asked)
        wanted = prepared.wanted(call.asked.meta)
        slot, generation = self.claim(c, call.asked, wanted, True)
        # What follows lies where nobody looks until the change is there.
        at = c.file.block_at(c[c.file.slot(slot) + OFFSET])
        if wanted.nbytes:
            prepared.fill(Target(c.file, at, wanted.nbytes, call.life))
        self._write_spill(at, wanted, call.life)
        call.take(slot, generation, c.next())
        self._publish(c, call, replaced)

    def claim(self, c: Change, asked: Asked, wanted: slots.Wanted, near: bool) -> tuple[int, int]:
        """A slot in WRITING and its generation; see `slots.claim`."""
        own = self.own
        origins.take(c, own)
        evictable = self.evict is not None if asked.evictable is None else bool(asked.evictable)
        use = eviction.use_word(c, evictable)
        return slots.claim(c, wanted, slots.By(own, origins.word(c, own), use), near)

    def _publish(self, c: Change, call: Call, replaced: int | None) -> None:
        self.publish(c, call, replaced)
        c.commit()
        self.count(PUTS)
        self.recover_condemned(c, replaced)

    def publish(self, c: Change, call: Call, replaced: int | None) -> None:
        """What was written becomes an object, with the commit that is in preparation.

        `replaced`: the slot that has its name now.
        """
        utf8 = call.asked.utf8
        if utf8 is not None:
            slots.write_name(c, call.slot, utf8)
        slots.publish(c, call.slot, utf8, replaced)
        eviction.admit(c, call.slot)
        call.replaced, call.published = replaced is not None, c.next()

    def find_replaced(self, c: Change, asked: Asked) -> int | None:
        if asked.utf8 is None:
            return None
        replaced = names.find(c, asked.utf8)
        if replaced is not None and not asked.replace:
            raise _messages.exists(self.path, asked.utf8.decode())
        return replaced

    def _write_spill(self, at: int, wanted: slots.Wanted, life: Life) -> None:
        """What lies in the block besides its payload; that begins at `at`."""
        text, meta = wanted.text, wanted.meta
        if slots.text_spill(len(text)):
            Target(self.file, at + wanted.nbytes, len(text), life).copy(0, text)
        if spill := slots.meta_spill(len(meta)):
            Target(self.file, at + wanted.units * UNIT - spill, spill, life).copy(0, meta)

    def begin(self, call: Call, wanted: slots.Wanted) -> None:
        """A slot in WRITING, with room. The name is looked at so that nobody writes in vain."""
        nbytes = wanted.nbytes
        what, near = _messages.a_put(nbytes), nbytes <= NEAR
        call.with_room(what, nbytes, self._begin_writing, call, wanted, near)
        if not self.prepare_block(call, wanted, near):
            self.give_up(call)
            raise self.no_memory(call, nbytes)

    def no_memory(self, call: Call, nbytes: int) -> StoreFullError:
        """The file system has none for so many bytes."""
        return self._full(call, nbytes, _messages.NO_MEMORY)

    def prepare_block(self, call: Call, wanted: slots.Wanted, near: bool) -> bool:
        """Whether there is memory for a block that was begun; writes what is no payload there."""
        start = self.file.block_at(self.file.words[self.file.slot(call.slot) + OFFSET])
        if not near and not self.file.commit_block(start, wanted.units * UNIT, call.life):
            return False
        self._write_spill(start, wanted, call.life)
        return True

    def _begin_writing(self, c: Change, call: Call, wanted: slots.Wanted, near: bool) -> None:
        self.find_replaced(c, call.asked)
        slot, generation = self.claim(c, call.asked, wanted, near)
        call.take(slot, generation, c.next())
        c.commit()

    def write(
        self, call: Call, block: buffers.Block, offset: int, octets: npt.NDArray[np.uint8]
    ) -> None:
        """Copies bytes into the block that the call took."""
        Target(self.file, block.offset, block.nbytes, call.life).copy(offset, octets)

    def shrink(self, call: Call, nbytes: int, *, frees: bool) -> bool:
        """Makes the object shorter that the call began, and with `frees` its block; whether it is
        still being written."""
        return call.run("truncate()", self._shrink, call, nbytes, frees)

    def _shrink(self, c: Change, call: Call, nbytes: int, frees: bool) -> bool:
        if not slots.is_written_by(c, call.slot, call.generation, self.own):
            return False
        c[c.file.slot(call.slot) + NBYTES] = nbytes
        if frees:
            self._fit(c, call)
        c.commit()
        return True

    def _fit(self, c: Change, call: Call) -> None:
        """A block gives back what it does not need, for who writes it."""
        end, spill = slots.fit(c, call.slot), slots.meta_spill(len(call.asked.meta))
        if end is not None and spill:
            at = c.file.block_at(end) - spill
            Target(self.file, at, spill, call.life).copy(0, call.asked.meta)

    def seal(self, call: Call, pin: Pin | None) -> None:
        """Publishes what was written. `pin`: of views of it that live on.

        If this or what follows raises, the call is to be undone.
        """
        utf8 = call.asked.utf8
        what = f"publishing {utf8.decode()!r}" if utf8 else "a seal"
        call.with_room(what, 0, self._seal, call, pin)

    def _seal(self, c: Change, call: Call, pin: Pin | None) -> None:
        if not slots.is_written_by(c, call.slot, call.generation, self.own):
            raise self.file.damaged(f"slot {call.slot} was being written, and no longer is")
        replaced = self.find_replaced(c, call.asked)
        if pin is not None:
            slots.pin(c, call.slot, self.own)
            pin.take(call.slot, c.next())
        else:
            self._fit(c, call)
        self._publish(c, call, replaced)


# --- attachments: one for each file and process

_attachments: weakref.WeakValueDictionary[tuple[int, int], Attachment] = (
    weakref.WeakValueDictionary()
)
_attaching = threading.RLock()
_joining: list[weakref.ref[Attachment]] = []  # the last one that came, maybe without a row yet
_exiting = False
_forking: dict[int, list[Attachment]] = {}  # by thread


def attach(path: str, foreign: bool) -> Attachment:
    """This process's attachment to the store at `path`, made if there is none yet."""
    with open_store(path, os.O_RDWR) as opened:
        fd = opened.fileno()
        found = os.fstat(fd)
        with _attaching:
            attachment = _attachments.get((found.st_dev, found.st_ino))
            if attachment is not None and attachment.is_alive():
                return attachment
            header = read_header(fd, path, found)
            geteuid = getattr(os, "geteuid", None)
            if geteuid is not None and found.st_uid != geteuid() and not foreign:
                raise _messages.other_user(path, found.st_uid)
            attachment = Attachment(path, fd, header, found)
            _joining[:] = [weakref.ref(attachment)]
            attachment.join()
            _attachments[found.st_dev, found.st_ino] = attachment
            return attachment


def _before_fork() -> None:
    joining = [one for ref in list(_joining) if (one := ref()) is not None]
    known = list(_attachments.values())
    forking = [*(one for one in joining if one not in known), *known]
    _forking[threading.get_ident()] = forking
    interrupt: BaseException | None = None
    for attachment in forking:
        try:
            attachment.before_fork()
        except BaseException as error:  # noqa: PERF203  a signal handler's: the fork goes on
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _after_fork_in_parent() -> None:
    for attachment in _forking.pop(threading.get_ident(), ()):
        attachment.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _attaching
    _attaching = threading.RLock()
    forking = _forking.pop(threading.get_ident(), [])
    _forking.clear()
    for attachment in forking:
        attachment.inherit()
    liveness.leave_all_to_parent([one.child_row[1] for one in forking if one.child_row is not None])
    for attachment in forking:
        attachment.after_fork_in_child()


def leave_if_exiting() -> None:
    """Once more, when something changed after the interpreter's exit began."""
    if _exiting:
        _at_exit()


def _at_exit() -> None:
    # Processes without pins detach. Others may read to the very end: their rows die with them.
    global _exiting
    _exiting = True
    for attachment in list(_attachments.values()):
        with contextlib.suppress(Exception):
            if attachment.is_alive():
                attachment.leave_at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
