"""One public call: what it asks for, how long it may wait, and what it has taken."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from refstore import _logging, _messages
from refstore._names import encode_name
from refstore.engines.filelock.journal import Moment
from refstore.engines.filelock.life import Life
from refstore.engines.filelock.transaction import Operation, T

if TYPE_CHECKING:
    from refstore.engines.filelock.attachment import Attachment
    from refstore.engines.filelock.owners import Stay

__all__ = ["POLL", "Asked", "Call"]

LONG: Final = 1.0  # seconds: a wait of which a program may want to know
POLL: Final = 0.05  # seconds between two looks of who waits


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
        self.replace = bool(replace)  # early: they may be anything
        self.claim = bool(claim)
        self.owned = bool(owned)
        self.evictable = None if evictable is None else bool(evictable)
        self.meta = meta


_NOTHING: Final = Asked()


class Call:
    """One public call, and what it took for whoever is interrupted before it can hand it out."""

    __slots__ = (
        "__weakref__",
        "asked",
        "asleep_since",
        "att",
        "generation",
        "is_trimmed",
        "life",
        "published",
        "replaced",
        "slot",
        "stay",
        "taken",
        "until",
    )

    def __init__(
        self,
        att: Attachment,
        life: Life,
        asked: Asked = _NOTHING,
        until: float | None = 0.0,
        stay: Stay | None = None,
    ) -> None:
        self.att = att
        self.life = life  # in which it began
        self.asked = asked
        self.until = until  # by time.monotonic(): it may wait as long as that; None: for ever
        self.stay = stay  # without which it is over; None for those that do not wait
        self.slot = self.generation = 0
        self.asleep_since: float | None = None  # by time.monotonic(); infinite once that is told
        self.taken: Moment | None = None  # when the slot became ours
        self.published: Moment | None = None
        self.is_trimmed = False  # free memory has gone back to the system since the last eviction
        self.replaced = False  # an object that had the name is gone with that

    def run(self, what: str, operation: Operation[T], *args: object) -> T:
        """Runs an operation of the call under the lock."""
        return self.att.run(self.life, what, operation, *args, until=self.until)

    def with_room(self, what: str, nbytes: int, operation: Operation[T], *args: object) -> T:
        """Runs an operation that allocates; see `RoomKeeper.with_room`."""
        return self.att.with_room(self, what, nbytes, operation, *args)

    def wait_for_room(self, what: str, nbytes: int, operation: Operation[T], *args: object) -> T:
        """Runs an operation that allocates, and waits if need be."""
        if self.until == 0.0:
            return self.att.with_room(self, what, nbytes, operation, *args)
        return self.att.wait_for_room(self, what, nbytes, operation, *args)

    # --- waiting

    def left(self, most: float) -> float:
        """Seconds that it may sleep, at most so many; 0 if its time is over."""
        return most if self.until is None else min(most, max(self.until - time.monotonic(), 0.0))

    def sleep(self, seconds: float, what: str) -> None:
        """Sleeps; `what` does, as in "wait('weights')".

        Errors: ValueError if the store is closed meanwhile, RefstoreError in a child that is forked
        meanwhile.
        """
        if self.asleep_since is None:
            self.asleep_since = time.monotonic()
        with self.att.sleeping(what):
            time.sleep(seconds)
        self.att.tell_news()
        if time.monotonic() - self.asleep_since >= LONG:
            self.asleep_since = math.inf
            _logging.waits(self.att.path, what)
        self.life.require_ours(self.att.path)
        if self.stay is not None and self.stay.is_over:
            raise _messages.closed()

    # --- what it took

    def take(self, slot: int, generation: int, moment: Moment) -> None:
        self.slot, self.generation, self.taken = slot, generation, moment

    def is_taken(self) -> bool:
        return self.taken is not None and self.taken.has_come()

    def is_published(self) -> bool:
        return self.published is not None and self.published.has_come()
