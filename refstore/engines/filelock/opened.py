"""An open `Store`, as the engine has it: its attachment, and how its calls begin and sleep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from refstore import _messages, _waiting_messages
from refstore._names import encode_key
from refstore._refs import ObjectRef, parts_of
from refstore.engines.filelock.attachment import Attachment, Call
from refstore.engines.filelock.layout import CHANGES, COUNT
from refstore.engines.filelock.life import here
from refstore.engines.filelock.lookups import Parsed
from refstore.engines.filelock.mapping import Mapping

__all__ = ["NAP", "POLL", "Key", "Opened", "changes", "has_changed"]

POLL: Final = 0.05  # seconds between two looks at the word that says that names changed
NAP: Final = 1.0  # seconds after which a sleeper looks in any case

Key = ObjectRef | str
T = TypeVar("T")


def changes(file: Mapping) -> int:
    """The count of changes, to be read before a look and handed to `has_changed`."""
    return file.words[CHANGES]


def has_changed(file: Mapping, seen: int) -> bool:
    """Whether some name changed since `changes` was read. Read without the lock.

    Whoever dies in the middle of a change leaves it to the next one who has the lock; a sleeper
    must be that if there is nobody else.
    """
    return file.words[CHANGES] != seen or file.words[COUNT] != 0


class Opened:
    """One open store, of one `Store` object."""

    __slots__ = ("_att",)

    _att: Attachment | None

    def __new__(cls, *_: object, **__: object) -> Opened:
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

    def _parse(self, att: Attachment, key: Key) -> Parsed:
        """A key as operations take it. Errors: ObjectNotFoundError, TypeError, ValueError."""
        if type(key) is not ObjectRef:
            return encode_key(key)
        slot, generation, tag = parts_of(key)
        if tag != att.tag:
            raise _messages.not_found(att.path, key, of_other_store=True)
        return slot, generation

    # --- sleeping

    def _look_until_found(
        self, call: Call, what: str, look: Callable[[], T | None], nap: float = NAP
    ) -> T | None:
        """Result of `look`, once it finds something; None if it does not before the call is over.

        `what` waits, as in "wait('weights')". Nothing is held between two looks: no lock and no
        pin.
        """
        file = call.att.file
        while True:
            seen = changes(file)
            found = look()
            if found is not None:
                return found
            if not self._sleep(call, what, seen, nap):
                return None

    def _sleep(self, call: Call, what: str, seen: int, nap: float) -> bool:
        """Sleeps until names change, or for `nap` seconds; False at once if the call is over."""
        att, now = call.att, time.monotonic()
        if call.until is not None and call.until <= now:
            return False
        if _is_removed(att) and call.run("a look", att.is_last):
            raise _waiting_messages.abandoned(att.path, what)
        end = now + nap if call.until is None else min(now + nap, call.until)
        while now < end and not has_changed(att.file, seen):
            time.sleep(min(POLL, end - now))
            call.life.require_ours(att.path)
            if self._att is None:
                raise _messages.closed()
            now = time.monotonic()
        return True


def _is_removed(att: Attachment) -> bool:
    """Whether nobody can attach any more."""
    fd = att.file.descriptor_or_none()
    return fd >= 0 and os.fstat(fd).st_nlink == 0
