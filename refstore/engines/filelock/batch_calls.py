"""The calls on many objects at once: many changes under one lock.

A change has as many words as the journal has room for, so a batch is several changes. Those who
wait for the lock get it after each TURN objects. But the room for all objects of a put_many is
taken in one go, so that nobody waits for room and holds some.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from refstore import _full_messages, _messages, _waiting_messages
from refstore._arguments import (
    deadline_of,
    listed_keys,
    listed_objects,
    names_for,
    require_distinct,
)
from refstore._errors import ObjectExistsError, ObjectNotFoundError
from refstore._names import encode_name
from refstore._refs import ObjectRef, make_ref
from refstore.engines.filelock import buffers, claims, eviction, lookups, slots
from refstore.engines.filelock.attachment import SMALL, Attachment
from refstore.engines.filelock.call import Asked, Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import DELETES, GETS, OFFSET, PAGE, PUTS
from refstore.engines.filelock.life import here, is_from_here
from refstore.engines.filelock.lookups import Parsed
from refstore.engines.filelock.opened import Key, Opened
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import Prepared, prepare
from refstore.engines.filelock.targets import Target
from refstore.engines.filelock.transaction import Deferred
from refstore.engines.filelock.waiting_calls import too_many_pins

__all__ = ["BatchCalls"]

TURN: Final = 1000  # objects that are dealt with under one lock


class One(NamedTuple):
    """One object of a put_many."""

    call: Call
    prepared: Prepared
    wanted: slots.Wanted

    @property
    def is_near(self) -> bool:
        """Whether the memory of its block is committed under the lock."""
        return self.wanted.nbytes <= SMALL


# --- operations, under the change lock


def _begin(c: Change, att: Attachment, batch: Sequence[One]) -> None:
    """Slots in WRITING with room for all of them, or for none."""
    why = _try_to_begin(c, att, batch)
    if why is None:
        return
    units = [one.wanted.units for one in batch]
    # what went one by one has left gaps in the wrong places
    if why != _full_messages.NO_MEMORY and eviction.lot_fits(c, units):
        att.evict_these(c, eviction.all_that_may_go(c))
        if _try_to_begin(c, att, batch) is None:
            return
    raise slots.NoRoomError(why, lot=units)


def _try_to_begin(c: Change, att: Attachment, batch: Sequence[One]) -> str | None:
    """None, or why there is no room; then nothing is held."""
    try:
        _begin_each(c, att, batch)
        return None
    except slots.NoRoomError as error:
        why = str(error)
    _free(c, batch)
    return why


def _begin_each(c: Change, att: Attachment, batch: Sequence[One]) -> None:
    begin: Callable[[One], None] = functools.partial(_begin_one, c, att)
    evict = functools.partial(att.try_with_eviction, c, _begin_one, att)
    for k, one in enumerate(batch):
        lack = None
        try:
            begin(one)
        except slots.NoRoomError as error:
            lack = error.arguments()
        if lack is not None:
            c.commit()
            if begin is evict or not eviction.lot_fits(c, [one.wanted.units for one in batch[k:]]):
                raise slots.NoRoomError(*lack)
            begin = evict
            begin(one)
        if c.is_full():
            c.commit()
        if k % TURN == TURN - 1:
            att.show_progress()
    c.commit()


def _begin_one(c: Change, att: Attachment, one: One) -> None:
    slot, generation = att.claim(c, one.call, one.wanted, one.is_near)
    one.call.take(slot, generation, c.next())


def _free(c: Change, batch: Sequence[One]) -> None:
    c.commit()
    for one in batch:
        if one.call.is_taken():
            slots.free_slot(c, one.call.slot)
            c.commit()
            one.call.taken = None


def _publish(c: Change, att: Attachment, batch: Sequence[One]) -> None:
    """One after the other, up to one whose name is taken."""
    gone: list[int] = []
    for done, one in enumerate(batch):
        try:
            replaced = claims.find_replaced(c, att, one.call)
        except ObjectExistsError:
            c.commit()
            att.count(PUTS, done)
            att.count(DELETES, len(gone))
            raise
        att.publish(c, one.call, replaced)
        if replaced is not None:
            gone.append(replaced)
        if c.is_full():
            c.commit()
    c.commit()
    att.count(PUTS, len(batch))
    att.count(DELETES, len(gone))
    for slot in gone:
        att.recover_condemned(c, slot)


def _pin(
    c: Change, att: Attachment, keys: Sequence[Key], parsed: Sequence[Parsed], pins: Sequence[Pin]
) -> list[int] | int:
    """The generations of the objects that are pinned; the index of a key that none has, and then
    nothing is pinned."""
    found = []
    for k, one in enumerate(parsed):
        located = lookups.locate(c, one)
        if located is None:
            return k
        found.append(located)
    for key, located, pin in zip(keys, found, pins, strict=True):
        try:
            lookups.pin(c, att, located, pin)
        except slots.TooManyPinsError:
            raise too_many_pins(key) from None
        if c.is_full():
            c.commit()
    c.commit()
    att.count(GETS, len(found))
    return [generation for _, generation in found]


def _delete(c: Change, att: Attachment, parsed: Sequence[Parsed]) -> int:
    found = (located[0] for key in parsed if (located := lookups.locate(c, key)) is not None)
    return att.delete_all(c, found, DELETES)


# --- of one open store


class BatchCalls(Opened):
    """The calls on many objects at once."""

    __slots__ = ()

    def put_many(
        self,
        objs: Iterable[object],
        *,
        names: Iterable[str] | None = None,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> list[ObjectRef]:
        life = here()
        self._attachment  # noqa: B018  a closed store raises
        until = deadline_of(timeout)
        objects = listed_objects(objs)
        told = names_for(len(objects), names)
        if told is not None:
            for name in told:
                encode_name(name)
            require_distinct(told)
        prepared = [prepare(obj) for obj in objects]
        att = self._attachment
        nameless = Asked(None, replace, False, owned, evictable)
        batch = []
        for k, one in enumerate(prepared):
            asked = nameless if told is None else Asked(told[k], replace, False, owned, evictable)
            batch.append(One(Call(att, life, asked, until, self._stay), one, one.wanted(b"")))
        try:
            _put_all(att, batch)
            return _refs(att, batch)
        except BaseException as error:
            if _stay(att, batch, error):
                return _refs(att, batch)
            raise

    def get_many(
        self, keys: Iterable[Key], *, timeout: float | None = 0, writable: bool = False
    ) -> list[buffers.PinnedBuffer]:
        call = self._call
        att, asked = call.att, listed_keys(keys, ObjectRef)
        call.until = deadline_of(timeout)
        parsed = [lookups.parse(att, key) for key in asked]
        what, pins, missing = f"get_many() of {len(asked)} keys", list[Pin](), list[str]()

        def look() -> list[int] | None:
            pins[:] = [Pin(att) for _ in asked]
            found: list[int] = []
            for at in range(0, len(asked), TURN):
                some = slice(at, at + TURN)
                got = call.with_room(what, PAGE, _pin, att, asked[some], parsed[some], pins[some])
                if not isinstance(got, list):
                    att.defer_once(*_unpins(pins))
                    key = asked[at + got]
                    if timeout == 0 or not isinstance(key, str):
                        raise _messages.not_found(att.path, key, of_other_store=False)
                    missing[:] = [key]
                    call.run(what, _require_refs, att, asked, parsed)
                    return None
                found += got
            return found

        try:
            generations = self._look_until_found(call, what, look)
            if generations is None:
                assert timeout is not None
                maker = call.run(what, claims.maker_of, encode_name(missing[0]))
                raise _waiting_messages.not_published(att.path, missing[0], timeout, maker)
            private = bool(writable)
            return [
                buffers.pinned(att, pin, generation, private)
                for pin, generation in zip(pins, generations, strict=True)
            ]
        except BaseException:
            att.defer_once(*_unpins(pins))
            raise

    def delete_many(self, keys: Iterable[Key]) -> int:
        call = self._call
        att, parsed = call.att, list[Parsed]()
        for key in listed_keys(keys, ObjectRef):
            with contextlib.suppress(ObjectNotFoundError):  # it is of another store
                parsed.append(lookups.parse(att, key))
        what = f"the deletion of {len(parsed)} objects"
        return sum(
            call.run(what, _delete, att, parsed[at : at + TURN])
            for at in range(0, len(parsed), TURN)
        )


def _require_refs(
    c: Change, att: Attachment, keys: Sequence[Key], parsed: Sequence[Parsed]
) -> None:
    """A ref is never waited for."""
    for key, one in zip(keys, parsed, strict=True):
        if isinstance(key, ObjectRef) and lookups.locate(c, one) is None:
            raise _messages.not_found(att.path, key, of_other_store=False)


def _unpins(pins: Sequence[Pin]) -> list[Deferred]:
    return [pin.unpin for pin in pins if pin.unpin is not None]


def _refs(att: Attachment, batch: Sequence[One]) -> list[ObjectRef]:
    """The refs of those that are published."""
    return [
        make_ref(one.call.slot, one.call.generation, att.tag)
        for one in batch
        if one.call.is_published()
    ]


def _put_all(att: Attachment, batch: Sequence[One]) -> None:
    """Puts a batch in one change. If this raises, `_stay` says what becomes of it."""
    if not batch:
        return
    call, nbytes = batch[0].call, sum(one.wanted.nbytes for one in batch)
    what = f"a put of {len(batch)} objects"
    if nbytes > att.file.header.capacity:
        raise att.full(call, nbytes, _full_messages.OVER_CAPACITY)
    if len(batch) > att.file.g.max_objects:
        raise att.full(call, nbytes, _full_messages.no_slot(att.file.g.max_objects))
    call.wait_for_room(what, nbytes, _begin, att, batch)
    for one in batch:
        while not att.prepare_block(one.call, one.wanted, one.is_near):
            if not att.find_memory(call, one.wanted.nbytes):
                raise att.no_memory(call, nbytes)
        if one.wanted.nbytes:
            at = att.file.block_at(att.file.words[att.file.slot(one.call.slot) + OFFSET])
            one.prepared.fill(Target(att.file, at, one.wanted.nbytes, call.life))
    for at in range(0, len(batch), TURN):
        call.run(what, _publish, att, batch[at : at + TURN])


def _stay(att: Attachment, batch: Sequence[One], error: BaseException) -> bool:
    """Gives back what cannot stay after an error; whether all that was put stays, and the error
    comes out of the next call."""
    calls = [one.call for one in batch]
    published = [call for call in calls if call.is_published()]
    if isinstance(error, ObjectExistsError) and is_from_here(error):
        error.refs = _refs(att, batch)
        calls = [call for call in calls if not call.is_published()]
    elif len(published) == len(calls) and any(att.stays(call, error) for call in calls):
        return True
    att.give_up_all(calls)
    return False
