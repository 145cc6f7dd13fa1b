"""get_or_put(): one maker for all who want an object that is not there yet."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Final

from refstore import _threads, _waiting_messages
from refstore._arguments import deadline_of
from refstore._errors import ObjectExistsError
from refstore._names import encode_name
from refstore.engines.filelock import buffers, claims, liveness, lookups, process_table, slots
from refstore.engines.filelock.call import POLL, Asked, Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import PAGE
from refstore.engines.filelock.life import is_from_here
from refstore.engines.filelock.opened import NAP, Opened, changes
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import Prepared, prepare
from refstore.engines.filelock.waiting_calls import too_many_pins

__all__ = ["MakingCalls"]

# Claims under which this context makes objects: tag of the store, slot and generation. Tasks that a
# factory starts inherit it.
_making: Final[contextvars.ContextVar[tuple[tuple[int, int, int], ...]]] = contextvars.ContextVar(
    "refstore_making_by_filelock", default=()
)


class MakingCalls(Opened):
    """The call that makes what is not there."""

    __slots__ = ()

    def get_or_put(
        self,
        name: str,
        factory: Callable[[], object],
        *,
        timeout: float | None = None,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> buffers.PinnedBuffer:
        call = self._call
        call.until = deadline_of(timeout)
        call.asked = Asked(name, owned=owned, evictable=evictable)
        if not callable(factory):
            raise _waiting_messages.no_factory(factory)
        encode_name(name)
        pin = Pin(call.att)
        try:
            return self._get_or_make(call, name, factory, pin, timeout)
        except slots.TooManyPinsError:
            raise too_many_pins(name) from None
        except BaseException:
            pin.give_back()
            raise

    def _get_or_make(
        self,
        call: Call,
        name: str,
        factory: Callable[[], object],
        pin: Pin,
        timeout: float | None,
    ) -> buffers.PinnedBuffer:
        what, prepared = f"get_or_put({name!r})", None
        while True:
            attempt = Call(call.att, call.life, call.asked, call.until, call.stay)
            try:
                generation = self._wait_or_claim(attempt, what, name, pin, timeout)
                if generation is None:
                    prepared = prepared or self._made(attempt, factory)
                    attempt.att.put(attempt, prepared, pin)
                    generation = attempt.generation
                return buffers.pinned(attempt.att, pin, generation)
            except BaseException as error:
                attempt.att.give_up(attempt)
                was_taken = isinstance(error, ObjectExistsError) and is_from_here(error)
                if prepared is None or not was_taken:
                    raise

    def _wait_or_claim(
        self, call: Call, what: str, name: str, pin: Pin, timeout: float | None
    ) -> int | None:
        """The generation of the object that is pinned; None if there is none, and the call has
        claimed the name. Errors: GetTimeoutError, RefstoreError."""
        att, own = call.att, _own_claims(call.att.tag)
        is_waiting = False
        try:
            while True:
                seen = changes(att.file)
                found = call.with_room(what, PAGE, _get_or_look, call, own, pin)
                if found is None:
                    found = call.wait_for_room(what, 0, _get_or_claim, call, own, pin)
                if not isinstance(found, claims.Claim):
                    return found
                is_waiting = bool(own)
                if found.leads_back:
                    raise _waiting_messages.own_factory(att.path, name)
                is_own_writer = found.is_hard and found.row == att.row
                if (
                    call.until is None
                    and is_own_writer
                    and not _threads.has_others()
                    # once more: another thread may have sealed it until it ended
                    and call.run(what, claims.of_others, att, encode_name(name), own) == found
                ):
                    raise _waiting_messages.own_writer(att.path, name)
                if not call.left(POLL):
                    seconds = 0.0 if timeout is None else timeout
                    raise _waiting_messages.not_made(att.path, name, found.pid, seconds)
                _sleep_while_made(call, what, seen, found.row)
        finally:
            if is_waiting:
                att.defer(claims.stop_waiting, att, own)

    def _made(self, call: Call, factory: Callable[[], object]) -> Prepared:
        """Runs the factory, without any lock; its result, ready to be put."""
        token = _making.set((*_making.get(), (call.att.tag, call.slot, call.generation)))
        try:
            made = factory()
            call.life.require_ours(call.att.path)
            self._attachment  # noqa: B018  the factory may have closed the store
            return prepare(made)
        finally:
            _making.reset(token)


def _sleep_while_made(call: Call, what: str, seen: int, row: int) -> None:
    """Sleeps for a moment at least, and till names change, or the maker is dead; without the
    lock, for which makers would wait."""
    att, end = call.att, time.monotonic() + call.left(NAP)
    path = process_table.lock_path(att.folder, row)
    while (left := end - time.monotonic()) > 0:
        call.sleep(min(POLL, left), what)
        if changes(att.file) != seen or (row != att.row and not _is_held(path)):
            break


def _is_held(path: str) -> bool:
    try:
        return liveness.is_held(path)
    except OSError:  # no descriptor left: nobody can tell
        return True


def _own_claims(tag: int) -> set[tuple[int, int]]:
    """Slots and generations of the claims under which this context makes objects of a store."""
    return {(slot, generation) for of, slot, generation in _making.get() if of == tag}


def _get_or_look(
    c: Change, call: Call, own: set[tuple[int, int]], pin: Pin
) -> int | claims.Claim | None:
    """The generation of the object that is pinned, or a claim of somebody else's."""
    att, utf8 = call.att, call.asked.utf8
    assert utf8 is not None
    generation = lookups.get(c, att, utf8, pin)
    return claims.of_others(c, att, utf8, own) if generation is None else generation


def _get_or_claim(
    c: Change, call: Call, own: set[tuple[int, int]], pin: Pin
) -> int | claims.Claim | None:
    """The same; if there is neither, the call has a claim."""
    found = _get_or_look(c, call, own, pin)
    if found is None:
        claims.make(c, call.att, call)
    return found
