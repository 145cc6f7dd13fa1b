"""Room for what is to be put: the dead are recovered, others' objects evicted, or it is waited for.

Those who wait look again every POLL seconds, whole, since nobody tells them of room: it may come
free by a death. One of all of them has the turn, and the others let it try alone for HOLD_BACK
seconds at a time: else a large request would starve behind small ones, and one that is too large
would hold up all others.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from refstore import _full_messages, _limits, _logging, _threads
from refstore._errors import StoreFullError, TopHolder
from refstore.engines.filelock import check, eviction, extents, process_table, recovery, slots
from refstore.engines.filelock.call import POLL, Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    EVICTIONS,
    FREE_SLOT,
    OFFSET,
    PAGE,
    SLOTS_USED,
    TURN,
    UNIT,
)
from refstore.engines.filelock.membership import Membership
from refstore.engines.filelock.transaction import Operation, T

__all__ = ["HOLD_BACK", "RoomKeeper"]

HOLD_BACK: Final = 1.0  # seconds for which others let the one whose turn it is try alone
RECOVERY_PAUSE: Final = 0.1  # seconds between two looks for the dead before others' objects go
NEWS_EVERY: Final = 1.0  # seconds between two records of what happened by the way


class RoomKeeper(Membership):
    """An attachment, as far as it makes room."""

    _recovered_at = 0.0  # by time.monotonic(): when the dead were last looked for before others go
    _turn: weakref.ref[Call] | None = None  # of the call of ours whose turn it is
    _evicted = 0  # objects, not yet told to `logging`
    _told_at = 0.0  # by time.monotonic()

    def with_room(
        self, call: Call, what: str, nbytes: int, operation: Operation[T], *args: object
    ) -> T:
        """Runs an operation that allocates, see `try_with_eviction`. When the store is full it
        retries after recovering dead processes, then after collecting garbage of this one that
        still pins."""
        found = self._run_with_remedies(call, what, nbytes, operation, *args)
        if isinstance(found, slots.NoRoomError):
            raise self.full(call, nbytes, str(found))
        return found

    def wait_for_room(
        self, call: Call, what: str, nbytes: int, operation: Operation[T], *args: object
    ) -> T:
        """The same, again and again until there is room or the call is over."""
        run = self._run_with_remedies
        try:
            # read without the lock: who is wrong tries once too often, or sleeps once too often
            if self._is_turn_of_others() and not self._is_waited_for(call):
                call.run("recovery", self.recover_dead)  # of whom one may have it
                if self._is_turn_of_others():
                    self.sleep_for_room(call, what)
            while True:
                found = run(call, what, nbytes, operation, *args)
                if not isinstance(found, slots.NoRoomError):
                    return found
                if self._would_wait_in_vain(call, found) or not self.sleep_for_room(call, what):
                    raise self.full(call, nbytes, str(found))
                run = self._run
        finally:
            self.end_turn(call)

    def _run_with_remedies(
        self, call: Call, what: str, nbytes: int, operation: Operation[T], *args: object
    ) -> T | slots.NoRoomError:
        remedies: Iterator[Callable[[Call], bool]] | None = None
        while True:
            found = self._run(call, what, nbytes, operation, *args)
            if not isinstance(found, slots.NoRoomError) or _is_hopeless(found):
                return found
            remedies = remedies or iter((self._recover, self._collect_garbage))
            if not any(remedy(call) for remedy in remedies):
                return found

    def _run(
        self, call: Call, what: str, nbytes: int, operation: Operation[T], *args: object
    ) -> T | slots.NoRoomError:
        self.tell_news()
        while True:
            try:
                result: T = call.run(what, self.try_with_eviction, operation, *args)
                return result
            except slots.NoRoomError as error:  # of which a signal handler's keeps nothing
                found = error.with_traceback(None)
            if str(found) != _full_messages.NO_MEMORY or not self.find_memory(call, nbytes):
                return found

    def find_memory(self, call: Call, nbytes: int) -> bool:
        """Gives a full file system pages back: those that are free, then those of evicted objects.
        Whether that was of any use."""
        given = call.run("memory", extents.trim)  # what a try has got before it failed, too
        if given and not call.is_trimmed:
            call.is_trimmed = True
            return True
        call.is_trimmed = False
        fd = self.file.descriptor_or_none()
        if nbytes > _limits.free_on(fd) + _limits.resident(fd):
            return False
        return call.run("memory", self._evict_for_memory, -(-nbytes // UNIT))

    def _evict_for_memory(self, c: Change, units: int) -> bool:
        if eviction.lacks_memory(c) and self._evict(c, 2 * PAGE // UNIT):  # with a whole page in it
            extents.trim(c)
            eviction.lacks_memory(c)
        return self._evict(c, units)

    def full(self, call: Call, nbytes: int, why: str) -> StoreFullError:
        room, holders = call.run("counting", self._room)
        if call.until != 0.0:  # the caller may be who holds it up
            holders.sort(key=lambda pair: pair[0] != self.own)
        rows, named = [row for row, _ in holders], [holder for _, holder in holders]
        own = rows.index(self.own) if self.own in rows else -1
        fd = self.file.descriptor_or_none()
        return _full_messages.full(self.path, nbytes, why, room, named, own, fd)

    def _room(self, c: Change) -> tuple[_full_messages.Room, list[tuple[int, TopHolder]]]:
        held = check.holdings(c)
        room = check.census(c).room._replace(
            kept=check.kept(c, held), evicts=self.evict is not None
        )
        return room, check.top_holders(c, held)

    # --- remedies

    def try_with_eviction(self, c: Change, operation: Callable[..., T], *args: object) -> T:
        """The operation; if it finds no room, once more after the dead are recovered, then after
        others' objects are evicted. An operation that finds none has changed nothing since its
        last commit."""
        remedies: Iterator[Callable[[Change, int], bool]] | None = None
        while True:
            try:
                return operation(c, *args)
            except slots.NoRoomError as error:  # of which a signal handler's keeps nothing
                lack, units = error.arguments(), error.units
            remedies = remedies or iter((self._recover_sometimes, self._evict))
            if units is None or not any(remedy(c, units) for remedy in remedies):
                raise slots.NoRoomError(*lack)

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
            self.evict_these(c, found)
        return found is not None

    def evict_these(self, c: Change, slots_: list[int]) -> None:
        """The end of objects that make room."""
        self._evicted += self.delete_all(c, slots_, EVICTIONS)

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

    def recover_dead(self, c: Change) -> bool:
        return recovery.recover_rows(
            c, self.folder, process_table.used_rows(c), self.row, self.report
        )

    def recover_condemned(self, c: Change, slot: int | None) -> None:
        """Recovers the dead processes that pin a deleted object."""
        if slot is not None and slots.is_condemned(c, slot):
            rows = slots.pinning_rows(c, slot)
            with contextlib.suppress(OSError):  # no descriptor left: what was asked for is done
                recovery.recover_rows(c, self.folder, rows, self.row, self.report)

    def _holds_condemned(self, c: Change) -> bool:
        return recovery.holds_condemned(c, self.own)

    def tell_news(self) -> None:
        """Tells `logging` what happened by the way, at most once in a while."""
        dead, evicted = self.report.untold, self._evicted
        if not dead and not evicted:
            return
        now = time.monotonic()
        if now - self._told_at >= NEWS_EVERY:
            self._told_at = now
            self.report.untold = self._evicted = 0
            _logging.news(self.path, dead, evicted)

    # --- waiting

    def _is_waited_for(self, call: Call) -> bool:
        """Whether the call has a claim's slot, and others may wait for that, since none is free."""
        words = self.file.words
        return (
            call.is_taken()
            and not words[FREE_SLOT]
            and words[SLOTS_USED] >= self.file.g.max_objects
        )

    def sleep_for_room(self, call: Call, what: str) -> bool:
        """Sleeps until another try is worth it; False at once if the call is over."""
        if not call.left(POLL):
            return False
        alone_until = time.monotonic() + HOLD_BACK
        while True:
            call.sleep(call.left(POLL), what)
            if time.monotonic() >= alone_until or not call.left(POLL) or self._has_turn(call):
                return True

    def _is_turn_of_others(self) -> bool:
        """Whether a call of another process has it, or another one of this process."""
        return self.file.words[TURN] not in (0, self.own + 1) or self._turn is not None

    def _has_turn(self, call: Call) -> bool:
        """Whether it is this call's turn, which it takes if nobody has it."""
        if self._turn is not None:
            return self._turn() is call
        is_free = self.file.words[TURN] in (0, self.own + 1)
        return is_free and call.run("a turn", self._take_turn, call)

    def _take_turn(self, c: Change, call: Call) -> bool:
        if self._turn is not None or c[TURN] not in (0, self.own + 1):
            return False
        # a signal handler that raises may keep the call from ending it
        self._turn = weakref.ref(call, self._let_go_of_turn)
        c[TURN] = self.own + 1
        c.commit()
        return True

    def end_turn(self, call: Call) -> None:
        """Called by those who may have slept for room."""
        if self._turn is not None and self._turn() is call:
            self._let_go_of_turn(self._turn)

    def _let_go_of_turn(self, turn: weakref.ref[Call]) -> None:
        self.defer(self._end_turn, turn)

    def _end_turn(self, c: Change, turn: weakref.ref[Call]) -> None:
        if self._turn is turn:
            if self.row is not None and c[TURN] == self.row + 1:
                c[TURN] = 0
                c.commit()
            self._turn = None

    def after_fork_in_child(self) -> None:
        self._turn = None
        super().after_fork_in_child()

    def _would_wait_in_vain(self, call: Call, lack: slots.NoRoomError) -> bool:
        """Whether to wait is useless, since all that could come free is the calling thread's."""
        if _is_hopeless(lack):
            return True
        return not _threads.has_others() and call.run("counting", self._is_up_to_us, lack)

    def _is_up_to_us(self, c: Change, lack: slots.NoRoomError) -> bool:
        self.recover_dead(c)
        if not self.is_last(c):
            return False
        return self.is_removed() or not _could_fit(c, lack.lot)

    def is_removed(self) -> bool:
        """Whether the file is gone, so that nobody can attach any more."""
        fd = self.file.descriptor_or_none()
        return not os.path.exists(self.path) if fd < 0 else os.fstat(fd).st_nlink == 0


def _is_hopeless(lack: slots.NoRoomError) -> bool:
    return str(lack).endswith(_full_messages.OVER_CAPACITY)


def _could_fit(c: Change, lot: Sequence[int]) -> bool:
    """Whether blocks of so many units each would fit if all went that nobody holds."""
    held = [one for one in check.blocks(c) if one.pinned or slots.is_half_made(one.state)]
    if len(held) + len(lot) > c.file.g.max_objects:
        return False
    end, gaps = 0, []
    for start, size in [*sorted(_place(c, one) for one in held if one.nbytes), (c.file.g.units, 0)]:
        gaps.append(start - end)
        end = start + size
    return eviction.gaps_hold(gaps, lot)


def _place(c: Change, held: check.Held) -> tuple[int, int]:
    """First unit, and units."""
    return c[c.file.slot(held.slot) + OFFSET], held.nbytes // UNIT
