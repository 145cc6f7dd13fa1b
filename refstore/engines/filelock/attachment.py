"""An attachment to a store: objects are put, pinned and given up through it."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from refstore import _full_messages, _identity, _messages
from refstore._arguments import META_LIMIT
from refstore._errors import StoreFullError
from refstore._paths import open_store
from refstore._refs import make_ref
from refstore.engines.filelock import buffers, claims, eviction, file_locks, origins, slots
from refstore.engines.filelock.call import Call
from refstore.engines.filelock.files import TRIES, require_own
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    DELETES,
    KINDS,
    META,
    NBYTES,
    OFFSET,
    PAGE,
    PUTS,
    SHAPE,
    TEXT_AT,
    UNIT,
    UNITS,
    read_header,
)
from refstore.engines.filelock.life import Life, here, postpone
from refstore.engines.filelock.mapping import copy_on_write
from refstore.engines.filelock.owners import Owner
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import Prepared
from refstore.engines.filelock.targets import Target
from refstore.engines.filelock.transaction import Deferred
from refstore.payload import arrays

SMALL: Final = 1 << 15  # bytes that are copied under the lock, with the allocation
COPIED: Final = 1 << 16  # bytes whose private view is a copy: it costs less than a mapping
NEAR: Final = 1 << 20  # bytes whose memory is committed under the lock


class Block(NamedTuple):
    """The place of an object in the file."""

    slot: int
    offset: int
    nbytes: int
    kind: str  # "bytes", "array" or "object"
    description: bytes  # of an array, as `arrays.describe` makes it


class Attachment(Owner):
    """This process's membership in one store. It ends with the last store object, buffer and writer
    that uses it."""

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
        self.with_room(Call(self, here()), "a pin", PAGE, self._pin, slot, generation, pin)

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

    # --- putting

    def put(self, call: Call, prepared: Prepared, pin: Pin | None = None) -> None:
        """A new object, which `pin` pins. If this or what follows raises, the call is to be
        undone."""
        nbytes = prepared.nbytes
        if nbytes <= SMALL:
            what = _messages.a_put(nbytes)
            call.wait_for_room(what, nbytes, self._put_small, call, prepared, pin)
            return
        self.begin(call, prepared.wanted(call.asked.meta))
        at = self.block(call.slot).offset
        prepared.fill(Target(self.file, at, nbytes, call.life))
        self.seal(call, pin)

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

    def _put_small(self, c: Change, call: Call, prepared: Prepared, pin: Pin | None) -> None:
        replaced = claims.find_replaced(c, self, call)
        wanted = prepared.wanted(call.asked.meta)
        slot, generation = self.claim(c, call, wanted, True)
        # What follows lies where nobody looks until the change is there.
        at = c.file.block_at(c[c.file.slot(slot) + OFFSET])
        if wanted.nbytes:
            prepared.fill(Target(c.file, at, wanted.nbytes, call.life))
        self._write_spill(at, wanted, call.life)
        if not call.is_taken():
            call.take(slot, generation, c.next())
        self._pin_own(c, call, pin)
        self._publish(c, call, replaced)

    def claim(self, c: Change, call: Call, wanted: slots.Wanted, near: bool) -> tuple[int, int]:
        """A slot of the call's and its generation; see `slots.claim`."""
        own, evictable = self.own, call.asked.evictable
        origin = origins.word(c, own)
        use = eviction.use_word(c, self.evict is not None if evictable is None else evictable)
        by = slots.By(own, origin, use)
        return slots.claim(c, wanted, by, near, call.slot if call.is_taken() else None)

    def _pin_own(self, c: Change, call: Call, pin: Pin | None) -> None:
        if pin is not None:
            slots.pin(c, call.slot, self.own)
            pin.take(call.slot, c.next())

    def write_label(self, c: Change) -> None:
        """Says in the file what this process calls itself."""
        if self.row is not None:
            origins.write_label(c, self.row)
            c.commit()

    def _publish(self, c: Change, call: Call, replaced: int | None) -> None:
        self.publish(c, call, replaced)
        c.commit()
        self.count(PUTS)
        if replaced is not None:
            self.count(DELETES)
        self.recover_condemned(c, replaced)
        if call.asked.owned:
            self.disown_all()  # a Writer may outlive the last `Store`

    def publish(self, c: Change, call: Call, replaced: int | None) -> None:
        """Makes an object of what was written, with the commit that is in preparation."""
        utf8 = call.asked.utf8
        if utf8 is not None:
            slots.write_name(c, call.slot, utf8)
        slots.publish(c, call.slot, utf8, replaced)
        eviction.admit(c, call.slot)
        if call.asked.owned:
            self.make_own(c, call.slot)
        call.replaced, call.published = replaced is not None, c.next()

    def _write_spill(self, at: int, wanted: slots.Wanted, life: Life) -> None:
        """Writes what lies in the block besides its payload, which begins at `at`."""
        text, meta = wanted.text, wanted.meta
        if slots.text_spill(len(text)):
            Target(self.file, at + wanted.nbytes, len(text), life).copy(0, text)
        if spill := slots.meta_spill(len(meta)):
            Target(self.file, at + wanted.units * UNIT - spill, spill, life).copy(0, meta)

    def begin(self, call: Call, wanted: slots.Wanted) -> None:
        """A slot in WRITING, with room, or in CLAIMED. The name is looked at so that nobody writes
        in vain."""
        nbytes = wanted.nbytes
        what, near = _messages.a_put(nbytes), nbytes <= NEAR
        try:
            while True:
                call.wait_for_room(what, nbytes, self._begin_writing, call, wanted, near)
                if self.prepare_block(call, wanted, near):
                    return
                self.give_up(call)
                call.taken = None
                if self.find_memory(call, nbytes):
                    continue
                if not self.sleep_for_room(call, what):
                    raise self.no_memory(call, nbytes)
        finally:
            self.end_turn(call)

    def no_memory(self, call: Call, nbytes: int) -> StoreFullError:
        """The file system has none for so many bytes."""
        return self.full(call, nbytes, _full_messages.NO_MEMORY)

    def prepare_block(self, call: Call, wanted: slots.Wanted, near: bool) -> bool:
        """Whether there is memory for a block that was begun; writes what is no payload there."""
        start = self.file.block_at(self.file.words[self.file.slot(call.slot) + OFFSET])
        if not near and not self.file.commit_block(start, wanted.units * UNIT, call.life):
            return False
        self._write_spill(start, wanted, call.life)
        return True

    def _begin_writing(self, c: Change, call: Call, wanted: slots.Wanted, near: bool) -> None:
        claims.find_replaced(c, self, call)
        asked = call.asked
        slot, generation = self.claim(c, call, wanted, near)
        if asked.claim:
            assert asked.utf8 is not None
            slots.write_name(c, slot, asked.utf8)
            slots.claim_name(c, slot, asked.utf8, is_hard=True)
        if not call.is_taken():
            call.take(slot, generation, c.next())
        c.commit()

    def write(
        self, call: Call, block: buffers.Block, offset: int, octets: npt.NDArray[np.uint8]
    ) -> None:
        """Writes bytes into the block of the object that the call began."""
        Target(self.file, block.offset, block.nbytes, call.life).copy(offset, octets)

    def shrink(self, call: Call, nbytes: int, *, frees: bool) -> bool:
        """Shortens the object that the call began, and with `frees` its block; whether it is
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
        replaced = claims.find_replaced(c, self, call)
        if pin is None:
            self._fit(c, call)
        self._pin_own(c, call, pin)
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
    left = TRIES  # others may remove a store and make one there, again and again
    while True:
        left -= 1
        try:
            return _attach(path, foreign)
        except FileNotFoundError:
            if not left or not os.path.exists(path):
                raise


def _attach(path: str, foreign: bool) -> Attachment:
    with open_store(path, os.O_RDWR) as opened:
        fd = opened.fileno()
        found = os.fstat(fd)
        with _attaching:
            attachment = _attachments.get((found.st_dev, found.st_ino))
            if attachment is not None and attachment.is_alive():
                return attachment
            header = read_header(fd, path, found)
            require_own(path, found, foreign)
            attachment = Attachment(path, fd, header, found)
            _joining[:] = [weakref.ref(attachment)]
            attachment.join()
            _attachments[found.st_dev, found.st_ino] = attachment
            return attachment


def _label_all() -> None:
    for attachment in list(_attachments.values()):
        if attachment.is_alive() and attachment.row is not None:
            attachment.defer(attachment.write_label)


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
    own = [one.child_row[1] for one in forking if one.child_row is not None]
    file_locks.leave_all_to_parent(own)
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
_identity.on_label(_label_all)
