"""The filelock engine: a store in pure Python, in an ordinary file, with `filelock` for its locks.

It is what `refstore._core` is, where that cannot be: without a compiler, on systems other than
Linux, on file systems that lack what the native engine needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from refstore import _messages
from refstore._arguments import (
    checked_meta,
    checked_size,
    deadline_of,
    require_bytes_or_shape,
    require_name,
    require_order,
)
from refstore._names import require_text
from refstore._refs import ObjectRef, make_ref, parts_of
from refstore.engines.filelock import (
    buffers,
    check,
    extents,
    files,
    listing_calls,
    liveness,
    looking,
    lookups,
    slots,
    writers,
)
from refstore.engines.filelock.attachment import Attachment, attach, leave_if_exiting
from refstore.engines.filelock.batch_calls import BatchCalls
from refstore.engines.filelock.call import Asked, Call
from refstore.engines.filelock.files import remove_orphans
from refstore.engines.filelock.layout import OBJECTS_LIMIT, PAGE, lay_out
from refstore.engines.filelock.life import here
from refstore.engines.filelock.listing_calls import ListingCalls
from refstore.engines.filelock.lookups import required
from refstore.engines.filelock.making_calls import MakingCalls
from refstore.engines.filelock.opened import Key
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import BYTES, by_header, by_shape, prepare
from refstore.engines.filelock.transaction import Operation
from refstore.engines.filelock.waiting_calls import WaitingCalls, too_many_pins

if TYPE_CHECKING:
    from refstore.engines.interface import HolderRow

__all__ = [
    "BACKEND",
    "OBJECTS_LIMIT",
    "Attachment",
    "Engine",
    "attach",
    "file_nbytes",
    "is_creator_alive",
    "is_unused",
    "look",
    "make_file",
    "remove_orphans",
    "unsupported_reason",
]

BACKEND = "filelock"

# --- files

is_creator_alive = files.is_creator_alive
is_unused = files.is_unused
look = looking.look


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
    path: str,
    capacity: int,
    max_objects: int,
    mode: int,
    temporary: bool,
    evict: Literal["lru", "s3fifo"] | None,
) -> CreatorLock | None:
    remove_orphans(os.path.dirname(path))
    lock = files.make(path, capacity, max_objects, mode, temporary, evict)
    return None if lock is None else CreatorLock(lock)


def unsupported_reason(folder: str) -> str | None:
    return None


# --- one open store


class Engine(MakingCalls, WaitingCalls, BatchCalls, ListingCalls):
    """The calls of a `Store` over this engine; `Store` has their docs."""

    __slots__ = ()

    # --- objects

    def put(
        self,
        obj: object,
        *,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
        meta: bytes = b"",
    ) -> ObjectRef:
        life = here()
        self._attachment  # noqa: B018  a closed store raises
        until = deadline_of(timeout)
        asked = Asked(name, replace, False, owned, evictable, checked_meta(meta))
        prepared = prepare(obj)  # an error from there, which somebody may keep, keeps no store
        call = Call(self._attachment, life, asked, until, self._stay)
        att = call.att
        try:
            att.put(call, prepared)
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
        order: Literal["C", "F"] = "C",
        header: bytes | None = None,
        name: str | None = None,
        replace: bool = False,
        claim: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
        meta: bytes = b"",
    ) -> writers.Writer:
        call = self._call
        call.until = deadline_of(timeout)
        require_bytes_or_shape(nbytes, shape, dtype, header)
        require_order(order)
        require_name(claim, name)
        call.asked = Asked(name, replace, claim, owned, evictable, checked_meta(meta))
        if header is not None:
            wanted = by_header(nbytes, header)
        elif nbytes is not None:
            wanted = slots.Wanted(checked_size(nbytes), BYTES)
        else:
            assert shape is not None
            wanted = by_shape(shape, np.dtype(dtype), order)
        try:
            call.att.begin(call, wanted._replace(meta=call.asked.meta))
            writer = writers.writer(call.att, call, may_shrink=wanted.kind == BYTES and not header)
            call.life.require_ours(call.att.path)  # who is forked from here on inherits a Writer
            call.stay = None  # a Writer does not keep a store open
            return writer
        except BaseException:
            call.att.give_up(call)
            raise

    def get(
        self, key: Key, *, timeout: float | None = 0, writable: bool = False
    ) -> buffers.PinnedBuffer:
        call = self._call
        att = call.att
        waits = timeout != 0
        if waits:
            call.until = deadline_of(timeout)
        parsed, pin = lookups.parse(att, key), Pin(att)
        try:
            generation = call.with_room("a get", PAGE, lookups.get, att, parsed, pin)
            if generation is None and waits and isinstance(key, str):
                generation = self._wait_for(call, f"get({key!r})", key, None, pin, timeout)
            if generation is None:
                raise _messages.not_found(att.path, key, of_other_store=False)
            return buffers.pinned(att, pin, generation, bool(writable))
        except slots.TooManyPinsError:
            raise too_many_pins(key) from None
        except BaseException:
            pin.give_back()
            raise

    def delete(self, key: Key) -> None:
        call = self._call
        what = f"the deletion of {key!r}"
        required(call.att, key, call.run, what, lookups.delete, call.att)

    def adopt(self, key: Key) -> None:
        self._give(key, lookups.adopt)

    def disown(self, key: Key) -> None:
        self._give(key, lookups.disown)

    def _give(self, key: Key, to: Operation[bool]) -> None:
        """An object gets another owner."""
        call = self._call
        required(call.att, key, call.run, "a change of owners", to, call.att)

    def refcount(self, key: Key) -> int:
        call = self._call
        return required(call.att, key, call.run, "a count", lookups.refcount)

    def ref(self, name: str) -> ObjectRef:
        call = self._call
        found = required(call.att, name, call.run, "a look", lookups.locate)
        return make_ref(*found, call.att.tag)

    def __contains__(self, key: Key) -> bool:
        call = self._call
        att = call.att
        if type(key) is ObjectRef and parts_of(key).tag != att.tag:
            return False
        return call.run("a look", lookups.locate, lookups.parse(att, key)) is not None

    def __len__(self) -> int:
        return len(self._call.run("a count", lookups.live))

    def __iter__(self) -> Iterator[ObjectRef]:
        call = self._call
        att = call.att
        return iter([make_ref(*found, att.tag) for found in call.run("a list", lookups.live)])

    def names(self, prefix: str = "") -> list[str]:
        start = require_text(prefix, "a prefix")
        found = self._call.run("a list", lookups.all_names)
        return [name for name in found if name.startswith(start)]

    # --- the store as a whole

    def trim(self) -> int:
        return self._call.run("trim", extents.trim)

    def _census(self) -> tuple[int, ...]:
        call = self._call
        att = call.att
        return call.run("stats()", check.stats, att.folder, att.own)

    def _problems(self) -> set[str]:
        return self._call.run("check()", check.find_problems)

    def _recover_all(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        call = self._call
        att = call.att
        call.run("recover()", att.recover_dead)
        return att.report.take()

    def _processes(self) -> list[tuple[Any, ...]]:
        call = self._call
        att = call.att
        return call.run("a look", looking.processes, att.folder, att.own)

    def _holders(self, key: Key | None) -> list[HolderRow]:
        call = self._call
        att = call.att
        return listing_calls.holders(att, key, call.run, att.own)
