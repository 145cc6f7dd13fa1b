"""What a process has of a store: objects are put, pinned and given up through it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import mmap
import os
import threading
import weakref
from typing import Final, NamedTuple

from refstore import messages
from refstore.errors import TopHolder
from refstore.locked import buffers, checks, index, processes, slots
from refstore.locked.journal import Change
from refstore.locked.layout import (
    KINDS,
    NBYTES,
    OFFSET,
    PUTS,
    SHAPE,
    TEXT_AT,
    TEXT_LIMIT,
    UNIT,
    UNITS,
    WORD,
    WRITING,
    read_header,
)
from refstore.locked.mapping import UNTRACKED
from refstore.locked.member import Member
from refstore.locked.objects import Prepared
from refstore.locked.turns import Chore, Operation, T
from refstore.paths import open_store
from refstore.refs import make_ref

SMALL: Final = 1 << 15  # bytes that are copied in the turn that claims their room
COPIED: Final = 1 << 16  # bytes whose private view is a copy: it costs less than a mapping
NEAR: Final = 1 << 20  # bytes whose memory is committed in a turn


class Block(NamedTuple):
    """Where an object lies in the file."""

    slot: int
    offset: int
    nbytes: int
    kind: str  # "bytes", "array" or "object"
    description: bytes  # of an array, as `arrays.describe` makes it


class Claimed:
    """What an operation took, for whoever is interrupted before it can hand it out."""

    __slots__ = ("change", "generation", "slot")

    def __init__(self) -> None:
        self.slot = self.generation = 0
        self.change: Change | None = None

    def is_taken(self) -> bool:
        return self.change is not None and self.change.committed


class Attachment(Member):
    """This process's membership in one store. It ends with the last store object, buffer and writer
    that uses it."""

    def block(self, slot: int) -> Block:
        """Of a slot that we pin or write. StoreCorruptedError if it leads out of the file."""
        words, at = self.file.words, self.file.slot(slot)
        unit, nbytes, shape = words[at + OFFSET], words[at + NBYTES], words[at + SHAPE]
        offset, nbytes_of_text = self.file.block_at(unit), shape >> 32
        spill = nbytes_of_text if nbytes_of_text > TEXT_LIMIT else 0
        room = min(words[at + UNITS] * UNIT, self.file.g.file_size - offset)
        if shape & 0xFF >= len(KINDS):
            raise messages.damaged_object(self.path, "the kind of the object", slot)
        if nbytes > room:
            raise messages.damaged_object(self.path, "the size of the object", slot)
        if nbytes + spill > room:
            raise messages.damaged_object(self.path, "the length of the description", slot)
        start = offset + nbytes if spill else self.file.label(slot) + TEXT_AT
        text = bytes(self.file.octets[start : start + nbytes_of_text])
        return Block(slot, offset, nbytes, KINDS[shape & 0xFF], text)

    def private_copy(self, block: buffers.Block) -> tuple[mmap.mmap, int]:
        """A private copy-on-write view of a block, and where it begins there."""
        start, nbytes = block.offset, block.nbytes
        if nbytes > COPIED:
            delta = start % mmap.ALLOCATIONGRANULARITY
            with contextlib.suppress(OSError):  # no descriptor any more
                fd, access = self.file.descriptor(), mmap.ACCESS_COPY
                memory = mmap.mmap(
                    fd, nbytes + delta, access=access, offset=start - delta, **UNTRACKED
                )
                return memory, delta
        memory = mmap.mmap(-1, max(nbytes, 1), access=mmap.ACCESS_COPY)
        memory[:nbytes] = self.readable[start : start + nbytes]
        return memory, 0

    def unpinning(self, slot: int) -> Chore:
        """What gives a pin back, once, however often it is asked for."""
        return Chore(self._unpin, (slot,))

    def pin(self, slot: int, generation: int) -> None:
        """One more pin on a live object. Errors: ObjectNotFoundError."""
        self.with_room("a pin", 0, self._pin, slot, generation)

    def _pin(self, c: Change, slot: int, generation: int) -> None:
        if not slots.is_live(c, slot, generation):
            raise messages.not_found(
                self.path, make_ref(slot, generation, self.tag), of_other_store=False
            )
        slots.pin(c, slot, self.own)
        c.commit()

    def _unpin(self, c: Change, slot: int) -> None:
        slots.unpin(c, slot, self.own)
        c.commit()
        self.recover_condemned(c, slot)

    def pin_again(self, slot: int) -> None:
        """One more pin on a slot that is pinned already."""
        self.run("a pin", self._pin_again, slot)

    def _pin_again(self, c: Change, slot: int) -> None:
        slots.pin(c, slot, self.own)
        c.commit()

    def recover_condemned(self, c: Change, slot: int | None) -> None:
        """What is deleted and still there may be pinned by the dead."""
        if slot is not None and slots.is_condemned(c, slot):
            rows = slots.pinning_rows(c, slot)
            with contextlib.suppress(OSError):  # no descriptor left: what was asked for is done
                processes.recover(c, self.folder, rows, self.row, self.report)

    # --- room

    def with_room(self, what: str, nbytes: int, operation: Operation[T], *args: object) -> T:
        """A turn that needs room. When there is none: what dead processes held, then what garbage
        of this one still pins."""
        remedies = iter((self._recover, self._collect_garbage))
        while True:
            try:
                return self.run(what, operation, *args)
            except slots.NoRoomError as error:
                why = str(error)
            if why == messages.OVER_CAPACITY or not any(remedy() for remedy in remedies):
                break
        room, holders = self.run("counting", self._room)
        raise messages.full(self.path, nbytes, why, room, holders)

    def _recover(self) -> bool:
        return self.run("recovery", self.recover_dead)

    def _collect_garbage(self) -> bool:
        if not self.run("recovery", self._holds_condemned):
            return False
        gc.collect()
        return True

    def _room(self, c: Change) -> tuple[messages.Room, list[TopHolder]]:
        return checks.census(c).room, checks.top_holders(c)

    def recover_dead(self, c: Change) -> bool:
        return processes.recover(c, self.folder, processes.used_rows(c), self.row, self.report)

    def _holds_condemned(self, c: Change) -> bool:
        return processes.holds_condemned(c, self.own)

    # --- putting

    def put(self, prepared: Prepared, utf8: bytes | None, replace: bool) -> tuple[int, int]:
        """Slot and generation of a new object."""
        nbytes = prepared.nbytes
        claimed = Claimed()
        try:
            if nbytes <= SMALL:
                what = f"a put of {nbytes} bytes"
                self.with_room(what, nbytes, self._put_small, claimed, prepared, utf8, replace)
                return claimed.slot, claimed.generation
            self.begin(claimed, nbytes, prepared.kind, prepared.text, utf8, replace)
            at = self.block(claimed.slot).offset
            prepared.fill(self.file.octets[at : at + nbytes])
            self.seal(claimed.slot, claimed.generation, utf8, replace, False)
        except BaseException:
            if claimed.is_taken():
                self.do_later(self._undo_put, claimed.slot, claimed.generation)
            raise
        return claimed.slot, claimed.generation

    def _undo_put(self, c: Change, slot: int, generation: int) -> None:
        if c[c.file.slot(slot) + WORD] == generation << 8 | WRITING:
            self._give_up(c, slot, generation, False)
        elif slots.is_live(c, slot, generation) and not slots.has_name(c, slot):
            slots.remove(c, slot)  # nobody has its ref
            c.commit()

    def _put_small(
        self,
        c: Change,
        claimed: Claimed,
        prepared: Prepared,
        utf8: bytes | None,
        replace: bool,
    ) -> None:
        nbytes, kind, text, fill = prepared
        replaced = None if utf8 is None else self._find_replaced(c, utf8, replace)
        slot, generation = slots.claim(c, nbytes, kind, text, self.own, True)
        # What follows lies where nobody looks until the change is there.
        at = c.file.block_at(c[c.file.slot(slot) + OFFSET])
        if nbytes:
            fill(c.file.octets[at : at + nbytes])
        self._write_spill(at + nbytes, text)
        if utf8 is not None:
            slots.write_name(c, slot, utf8)
        slots.publish(c, slot, utf8, replaced)
        claimed.slot, claimed.generation, claimed.change = slot, generation, c
        c.commit()
        self.count(PUTS)
        self.recover_condemned(c, replaced)

    def _find_replaced(self, c: Change, utf8: bytes, replace: bool) -> int | None:
        replaced = index.find(c, utf8)
        if replaced is not None and not replace:
            raise messages.exists(self.path, utf8.decode())
        return replaced

    def _write_spill(self, at: int, text: bytes) -> None:
        if len(text) > TEXT_LIMIT:
            self.file.octets[at : at + len(text)] = text

    def begin(
        self,
        claimed: Claimed,
        nbytes: int,
        kind: int,
        text: bytes,
        utf8: bytes | None,
        replace: bool,
    ) -> None:
        """A slot in WRITING, with room. The name is looked at so that nobody writes in vain."""
        what, near, asked = f"a put of {nbytes} bytes", nbytes <= NEAR, (nbytes, kind, text)
        self.with_room(what, nbytes, self._begin_writing, claimed, asked, near, utf8, replace)
        at = self.file.slot(claimed.slot)
        start, units = self.file.block_at(self.file.words[at + OFFSET]), self.file.words[at + UNITS]
        if not near and not self.file.commit_block(start, units * UNIT):
            self.give_up(claimed.slot, claimed.generation, False)
            claimed.change = None
            room, holders = self.run("counting", self._room)
            raise messages.full(self.path, nbytes, messages.NO_MEMORY, room, holders)
        self._write_spill(start + nbytes, text)

    def _begin_writing(
        self,
        c: Change,
        claimed: Claimed,
        asked: tuple[int, int, bytes],
        near: bool,
        utf8: bytes | None,
        replace: bool,
    ) -> None:
        if utf8 is not None:
            self._find_replaced(c, utf8, replace)
        nbytes, kind, text = asked
        slot, generation = slots.claim(c, nbytes, kind, text, self.own, near)
        claimed.slot, claimed.generation, claimed.change = slot, generation, c
        c.commit()

    def seal(
        self, slot: int, generation: int, name: bytes | str | None, replace: bool, keep: bool
    ) -> None:
        """Publishes what was written. `keep`: views of it live on, and are left a pin of ours.

        If it raises, the slot is ours to write as before.
        """
        utf8 = name.encode() if isinstance(name, str) else name
        what = f"publishing {utf8.decode()!r}" if utf8 else "a seal"
        self.with_room(what, 0, self._seal, slot, generation, utf8, replace, keep)

    def _seal(
        self,
        c: Change,
        slot: int,
        generation: int,
        utf8: bytes | None,
        replace: bool,
        keep: bool,
    ) -> None:
        if not slots.is_written_by(c, slot, generation, self.own):
            raise self.file.damaged()
        replaced = None if utf8 is None else self._find_replaced(c, utf8, replace)
        if keep:
            slots.pin(c, slot, self.own)
        if utf8 is not None:
            slots.write_name(c, slot, utf8)
        slots.publish(c, slot, utf8, replaced)
        c.commit()
        self.count(PUTS)
        self.recover_condemned(c, replaced)

    def give_up(self, slot: int, generation: int, keep: bool) -> None:
        """Nobody ever sees what was written. It may be done later; see `do_later`.

        `keep`: views of it live on, and are left a pin of ours.
        """
        self.do_later(self._give_up, slot, generation, keep)

    def _give_up(self, c: Change, slot: int, generation: int, keep: bool) -> None:
        # the generation: another thread may have the slot by now, if this comes twice
        if not slots.is_written_by(c, slot, generation, self.own):
            return
        if keep:
            slots.pin(c, slot, self.own)
        slots.condemn(c, slot)
        c.commit()
        self.recover_condemned(c, slot)


# --- attachments: one for each file and process

_attachments: weakref.WeakValueDictionary[tuple[int, int], Attachment] = (
    weakref.WeakValueDictionary()
)
_attaching = threading.RLock()
_exiting = False
_forking: dict[int, list[Attachment]] = {}  # by thread


def attach(path: str, foreign: bool) -> Attachment:
    """This process's attachment to the store at `path`, made if there is none yet."""
    fd = open_store(path, os.O_RDWR)
    try:
        found = os.fstat(fd)
        with _attaching:
            attachment = _attachments.get((found.st_dev, found.st_ino))
            if attachment is not None and attachment.is_alive():
                return attachment
            header = read_header(fd, path, found)
            geteuid = getattr(os, "geteuid", None)
            if geteuid is not None and found.st_uid != geteuid() and not foreign:
                raise messages.other_user(path, found.st_uid)
            attachment = Attachment(path, fd, header, found)
            attachment.join()
            _attachments[found.st_dev, found.st_ino] = attachment
            return attachment
    finally:
        os.close(fd)


def _before_fork() -> None:
    forking = _forking[threading.get_ident()] = list(_attachments.values())
    for attachment in forking:
        attachment.before_fork()


def _after_fork_in_parent() -> None:
    for attachment in _forking.pop(threading.get_ident(), ()):
        attachment.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _attaching
    _attaching = threading.RLock()
    forking = _forking.pop(threading.get_ident(), [])
    _forking.clear()
    processes.leave_all_to_parent([one.heir[1] for one in forking if one.heir is not None])
    for attachment in forking:
        attachment.after_fork_in_child()


def leave_if_exiting() -> None:
    """Once more, when something changed after the interpreter's exit began."""
    if _exiting:
        _at_exit()


def _at_exit() -> None:
    # Who pins nothing leaves in good order. Others may read to the very end: their rows die with
    # them.
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
