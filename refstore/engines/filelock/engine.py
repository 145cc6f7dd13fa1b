"""The filelock engine: a store in pure Python, in an ordinary file, with `filelock` for its locks.

It is what `refstore._core` is, where that cannot be: without a compiler, on systems other than
Linux, on file systems that lack what the native engine needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from refstore import _children, _messages
from refstore._arguments import checked_size, require_bytes_or_shape, require_no_wait
from refstore._errors import RefstoreError
from refstore._names import encode_key, encode_name
from refstore._refs import ObjectRef, make_ref, parts_of
from refstore.engines.filelock import (
    buffers,
    check,
    extents,
    files,
    liveness,
    names,
    process_table,
    recovery,
    slots,
    writers,
)
from refstore.engines.filelock.attachment import Attachment, Call, attach, leave_if_exiting
from refstore.engines.filelock.files import remove_orphans
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    DELETES,
    GETS,
    MAX_PINS,
    OBJECTS_LIMIT,
    SEALED,
    WORD,
    lay_out,
)
from refstore.engines.filelock.life import here
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import ARRAY, BYTES, prepare
from refstore.payload import arrays

__all__ = [
    "BACKEND",
    "OBJECTS_LIMIT",
    "Attachment",
    "Engine",
    "attach",
    "file_nbytes",
    "is_creator_alive",
    "is_unused",
    "make_file",
    "remove_orphans",
    "unsupported_reason",
]

BACKEND = "filelock"

Key = ObjectRef | str

# --- files

is_creator_alive = files.is_creator_alive
is_unused = files.is_unused


class CreatorLock:
    """A CreatorLock, by a lock file; released with this object or its process."""

    __slots__ = ("_lock",)

    def __init__(self, lock: liveness.LivenessLock) -> None:
        self._lock = lock

    def give_back(self) -> None:
        self._lock.give_back()
        leave_if_exiting()


def file_nbytes(capacity: int, max_objects: int) -> int:
    return lay_out(capacity, max_objects).file_size


def make_file(
    path: str, capacity: int, max_objects: int, mode: int, temporary: bool, evict: str | None
) -> CreatorLock | None:
    remove_orphans(os.path.dirname(path))
    lock = files.make(path, capacity, max_objects, mode, temporary, evict)
    return None if lock is None else CreatorLock(lock)


def unsupported_reason(folder: str) -> str | None:
    return None


# --- operations, under the change lock


def _locate(c: Change, key: tuple[int, int] | bytes) -> tuple[int, int] | None:
    """Slot and generation of a live object."""
    if isinstance(key, tuple):
        return key if slots.is_live(c, *key) else None
    slot = names.find(c, key)
    return None if slot is None else (slot, slots.generation_of(c, slot))


def _get(c: Change, att: Attachment, key: tuple[int, int] | bytes, pin: Pin) -> int | None:
    """The generation of the object that is pinned."""
    found = _locate(c, key)
    if found is None:
        return None
    slots.pin(c, found[0], att.own)
    pin.take(found[0], c.next())
    c.commit()
    att.count(GETS)
    return found[1]


def _delete(c: Change, att: Attachment, key: tuple[int, int] | bytes) -> bool:
    found = _locate(c, key)
    if found is None:
        return False
    slots.remove(c, found[0])
    c.commit()
    att.count(DELETES)
    att.recover_condemned(c, found[0])
    return True


def _refcount(c: Change, key: tuple[int, int] | bytes) -> int | None:
    found = _locate(c, key)
    if found is None:
        return None
    rows = slots.pinning_rows(c, found[0])
    return 1 + sum(slots.pins_of(c, row, found[0]) for row in rows)


def _live(c: Change) -> list[tuple[int, int]]:
    words = recovery.used_slots(c, WORD)
    found = [slot for slot, word in enumerate(words) if word & 0xFF == SEALED]
    return [(slot, slots.generation_of(c, slot)) for slot in found]


def _names(c: Change) -> list[str]:
    return [name for slot, _ in _live(c) if (name := _name(c, slot)) is not None]


def _name(c: Change, slot: int) -> str | None:
    utf8 = slots.name(c, slot)
    try:
        return utf8.decode() if utf8 else None
    except UnicodeDecodeError:
        raise c.file.damaged(f"the label of slot {slot} has a name that is not UTF-8") from None


Person = tuple[int, str, bool, bool]  # pid, command, whether it lives, and only by children


def _holders(
    c: Change, att: Attachment, key: tuple[int, int] | bytes | None
) -> tuple[list[check.Holding], dict[int, Person]] | None:
    if key is None:
        seen = check.holdings(c)
    else:
        found = key if isinstance(key, tuple) else _locate(c, key)
        if found is None or found[0] >= att.max_objects:
            return None
        seen = [one for one in check.holdings(c, found[0]) if one.generation == found[1]]
        if not seen and not slots.is_live(c, *found):
            return None
    people = {}
    for row in {one.row for one in seen}:
        alive = check.is_alive(c, att.folder, row, att.own)
        ended = alive and recovery.has_ended(c, row)
        people[row] = process_table.pid_of(c, row), process_table.command_of(c, row), alive, ended
    return seen, people


# --- one open store


class Engine:
    """The calls of a `Store` over this engine; `Store` has their docs."""

    __slots__ = ("_att",)

    _att: Attachment | None

    def __new__(cls, *_: object, **__: object) -> Engine:
        self = super().__new__(cls)
        self._att = None
        return self

    def _open(self, att: Attachment) -> None:
        self._att = att

    @property
    def _attachment(self) -> Attachment:
        att = self._att  # looked at once: it may be closed meanwhile
        if att is None:
            raise _messages.closed()
        att.require_alive()
        return att

    @property
    def _call(self) -> Call:
        """The state of a public call that begins here."""
        life = here()
        return Call(self._attachment, life)

    @property
    def closed(self) -> bool:
        return self._att is None

    def close(self) -> None:
        self._att = None

    # --- keys

    def _parse(self, att: Attachment, key: Key) -> tuple[int, int] | bytes:
        """A key as operations take it. Errors: ObjectNotFoundError, TypeError, ValueError."""
        if type(key) is not ObjectRef:
            return encode_key(key)
        slot, generation, tag = parts_of(key)
        if tag != att.tag:
            raise _messages.not_found(att.path, key, of_other_store=True)
        return slot, generation

    # --- objects

    def put(
        self,
        obj: object,
        *,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
    ) -> ObjectRef:
        life = here()
        self._attachment  # noqa: B018  a closed store raises
        require_no_wait(timeout)
        utf8 = None if name is None else encode_name(name)
        prepared = prepare(obj)  # an error from there, which somebody may keep, keeps no store
        call = Call(self._attachment, life)
        att = call.att
        try:
            att.put(call, prepared, utf8, replace)
            return make_ref(call.slot, call.generation, att.tag)
        except BaseException as error:
            if att.stays(call, error):
                return make_ref(call.slot, call.generation, att.tag)
            att.give_up(call)
            raise

    def create(
        self,
        nbytes: SupportsIndex | None = None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None,
        dtype: npt.DTypeLike | None = None,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
    ) -> writers.Writer:
        call = self._call
        require_no_wait(timeout)
        require_bytes_or_shape(nbytes, shape, dtype)
        utf8 = None if name is None else encode_name(name)
        if nbytes is not None:
            size, kind, text = checked_size(nbytes), BYTES, b""
        else:
            assert shape is not None
            size, text = _describe(shape, np.dtype(dtype))
            kind = ARRAY
        try:
            call.att.begin(call, size, kind, text, utf8, replace)
            writer = writers.writer(call.att, call, name, replace)
            call.life.require_ours(call.att.path)  # who is forked from here on inherits a Writer
            return writer
        except BaseException:
            call.att.give_up(call)
            raise

    def get(
        self, key: Key, *, timeout: float | None = 0, writable: bool = False
    ) -> buffers.PinnedBuffer:
        call = self._call
        att = call.att
        require_no_wait(timeout)
        parsed, pin = self._parse(att, key), Pin(att)
        try:
            generation = call.with_room("a get", 0, _get, att, parsed, pin)
            if generation is None:
                raise _messages.not_found(att.path, key, of_other_store=False)
            return buffers.pinned(att, pin, generation, bool(writable))
        except slots.TooManyPinsError:
            raise RefstoreError(
                f"this process holds {MAX_PINS} pins on {key!r}: release some"
            ) from None
        except BaseException:
            pin.give_back()
            raise

    def delete(self, key: Key) -> None:
        call = self._call
        att = call.att
        if not call.run(f"the deletion of {key!r}", _delete, att, self._parse(att, key)):
            raise _messages.not_found(att.path, key, of_other_store=False)

    def refcount(self, key: Key) -> int:
        call = self._call
        att = call.att
        count = call.run("a count", _refcount, self._parse(att, key))
        if count is None:
            raise _messages.not_found(att.path, key, of_other_store=False)
        return count

    def ref(self, name: str) -> ObjectRef:
        call = self._call
        att = call.att
        found = call.run("a look", _locate, self._parse(att, name))
        if found is None:
            raise _messages.not_found(att.path, name, of_other_store=False)
        return make_ref(*found, att.tag)

    def __contains__(self, key: Key) -> bool:
        call = self._call
        att = call.att
        if type(key) is ObjectRef and parts_of(key).tag != att.tag:
            return False
        return call.run("a look", _locate, self._parse(att, key)) is not None

    def __len__(self) -> int:
        return len(self._call.run("a count", _live))

    def __iter__(self) -> Iterator[ObjectRef]:
        call = self._call
        att = call.att
        return iter([make_ref(*found, att.tag) for found in call.run("a list", _live)])

    def names(self) -> list[str]:
        return self._call.run("a list", _names)

    # --- the store as a whole

    def trim(self) -> int:
        return self._call.run("trim", extents.trim)

    def _census(self) -> tuple[int, ...]:
        call = self._call
        att = call.att
        return call.run("stats()", check.stats, att.folder, att.own)

    def _problems(self) -> set[str]:
        return self._call.run("check()", check.problems)

    def _recover_all(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        call = self._call
        att = call.att
        call.run("recover()", att.recover_dead)
        return att.report.take()

    def _holders(
        self, key: Key | None
    ) -> list[tuple[int, str, ObjectRef | None, str | None, int, int, bool]]:
        call = self._call
        att = call.att
        parsed = None if key is None else self._parse(att, key)
        found = call.run("holders()", _holders, att, parsed)
        if found is None:
            assert key is not None
            raise _messages.not_found(att.path, key, of_other_store=False)
        rows = []
        for one in found[0]:
            pid, command, alive, ended = found[1][one.row]
            command = _children.holder(command, one.kept, ended)
            ref = None if one.generation is None else make_ref(one.slot, one.generation, att.tag)
            rows.append((pid, command, ref, one.name, one.pins, one.nbytes, alive))
        return rows


def _describe(
    shape: SupportsIndex | tuple[SupportsIndex, ...], dtype: np.dtype[np.generic]
) -> tuple[int, bytes]:
    """Bytes of an array in C order, and its description."""
    extents, nbytes = arrays.measure(shape, dtype)
    clipped = tuple(checked_size(n) for n in extents)
    return checked_size(nbytes), arrays.describe(dtype, clipped, tuple(range(len(extents))))
