"""The calls that wait for objects that other processes publish; and a watch for many names.

A word in the file counts all changes of names. A sleeper reads it without the lock, twenty times a
second, and looks up its names under the lock when it has changed.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Final, SupportsIndex

from refstore import _waiting_messages
from refstore._arguments import checked_count, deadline_of, listed_names
from refstore._errors import RefstoreError
from refstore._names import encode_name
from refstore._refs import ObjectRef, parts_of
from refstore.engines.filelock import buffers, claims, lookups, slots
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.call import POLL, Call
from refstore.engines.filelock.layout import PAGE, PIN_LIMIT
from refstore.engines.filelock.opened import Key, Opened, changes
from refstore.engines.filelock.pins import Pin

__all__ = ["WaitingCalls", "Watch"]

BATCH: Final = 500  # names that are looked up under one lock


class WaitingCalls(Opened):
    """The calls that wait for objects."""

    __slots__ = ()

    def wait(
        self, name: str, *, newer_than: ObjectRef | None = None, timeout: float | None = None
    ) -> buffers.PinnedBuffer:
        call = self._call
        att = call.att
        call.until = deadline_of(timeout)
        encode_name(name)
        known, pin = _known(att, newer_than), Pin(att)
        try:
            generation = self._wait_for(call, f"wait({name!r})", name, known, pin, timeout)
            return buffers.pinned(att, pin, generation)
        except slots.TooManyPinsError:
            raise too_many_pins(name) from None
        except BaseException:
            pin.give_back()
            raise

    def _wait_for(
        self,
        call: Call,
        what: str,
        name: str,
        known: tuple[int, int] | None,
        pin: Pin,
        timeout: float | None,
    ) -> int:
        """The generation of the object that is pinned. Errors: GetTimeoutError, and others."""
        att, utf8 = call.att, encode_name(name)
        generation = self._look_until_found(
            call, what, lambda: call.with_room(what, PAGE, lookups.get_newer, att, utf8, known, pin)
        )
        if generation is not None:
            return generation
        assert timeout is not None
        if known is not None and call.run(what, lookups.locate, utf8) == known:
            raise _waiting_messages.not_replaced(att.path, name, timeout)
        maker = call.run(what, claims.maker_of, utf8)
        raise _waiting_messages.not_published(att.path, name, timeout, maker)

    def wait_any(
        self, names: Iterable[str], *, count: SupportsIndex = 1, timeout: float | None = None
    ) -> list[str]:
        call = self._call
        att = call.att
        call.until = deadline_of(timeout)
        asked = listed_names(names)
        wanted, keys = checked_count(count, asked), [encode_name(name) for name in asked]
        what, ready = f"wait_any() of {len(asked)} names", list[str]()

        def look() -> bool | None:
            found: list[bool] = []
            for at in range(0, len(keys), BATCH):
                found += call.run(what, lookups.are_published, keys[at : at + BATCH])
            ready[:] = [name for name, is_there in zip(asked, found, strict=True) if is_there]
            return True if len(ready) >= wanted else None

        if self._look_until_found(call, what, look) is None:
            assert timeout is not None
            raise _waiting_messages.not_enough(att.path, ready, wanted, len(asked), timeout)
        return ready

    def _watch(self) -> Watch:
        return Watch(self._attachment)


def too_many_pins(key: Key) -> RefstoreError:
    return RefstoreError(f"this process holds {PIN_LIMIT} pins on {key!r}: release some")


def _known(att: Attachment, newer_than: ObjectRef | None) -> tuple[int, int] | None:
    """Slot and generation; an object of another store is older than all of this one."""
    if newer_than is None:
        return None
    if not isinstance(newer_than, ObjectRef):
        raise _waiting_messages.no_version(newer_than)
    slot, generation, tag = parts_of(newer_than)
    return (slot, generation) if tag == att.tag else None


class Watch:
    """A `Watch` of the interface."""

    __slots__ = ("__weakref__", "_att", "_file", "_poked")

    def __init__(self, att: Attachment) -> None:
        self._att = weakref.ref(att)
        self._file = weakref.ref(att.file)
        self._poked = threading.Event()

    def seen(self, names: Sequence[str]) -> list[int]:
        file = self._file()
        return [0 if file is None else changes(file)]

    def sleep(self, names: Sequence[str], seen: Sequence[int], seconds: float) -> None:
        if names:
            self._note(_waiting_messages.an_await(names))
        try:
            end = time.monotonic() + seconds
            while not self._has_changed(seen[0]):
                left = end - time.monotonic()
                if left <= 0 or self._poked.wait(min(POLL, left)):
                    break
            self._poked.clear()
        finally:
            if names:
                self._note(None)

    def _note(self, what: str | None) -> None:
        att = self._att()  # not kept, as below
        if att is not None:
            att.note_sleeper(self, what)

    def _has_changed(self, seen: int) -> bool:
        file = self._file()  # not kept: a store that is closed meanwhile is unmapped
        return file is not None and changes(file) != seen

    def poke(self) -> None:
        self._poked.set()
