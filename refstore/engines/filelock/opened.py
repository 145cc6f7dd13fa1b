"""An open `Store`, as the engine has it: its attachment, and how its calls begin and sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from refstore import _messages, _waiting_messages
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.call import POLL, Call
from refstore.engines.filelock.layout import CHANGES, COUNT
from refstore.engines.filelock.life import here, raise_interrupt
from refstore.engines.filelock.lookups import Key
from refstore.engines.filelock.mapping import Mapping
from refstore.engines.filelock.owners import Stay

__all__ = ["NAP", "Key", "Opened", "changes"]

NAP: Final = 1.0  # seconds after which a sleeper looks in any case

T = TypeVar("T")


def changes(file: Mapping) -> int:
    """A number that is another one after each change of a name; read without the lock, before a
    look.

    Also when there is a change that its maker began, since that may be dead: the next one who has
    the lock ends it, and a sleeper must be that if there is nobody else.
    """
    return file.words[CHANGES] << 1 | (file.words[COUNT] != 0)


class Opened:
    """One open store, of one `Store` object."""

    __slots__ = ("_att", "_stay")

    _att: Attachment | None
    _stay: Stay | None

    def __new__(cls, *_: object, **__: object) -> Opened:
        self = super().__new__(cls)
        self._att = self._stay = None
        return self

    def _open(self, att: Attachment) -> None:
        self._att, self._stay = att, Stay(att)

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
        return Call(self._attachment, life, stay=self._stay)

    @property
    def closed(self) -> bool:
        return self._att is None

    def close(self) -> None:
        stay, self._att, self._stay = self._stay, None, None
        if stay is not None:
            stay.end()
        del stay  # and with it the last reference to the attachment, perhaps, which leaves
        raise_interrupt()

    # --- sleeping

    def _look_until_found(self, call: Call, what: str, look: Callable[[], T | None]) -> T | None:
        """Result of `look`, once it finds something; None if it does not before the call is over.

        `what` waits, as in "wait('weights')". Nothing is held between two looks: no lock and no
        pin.
        """
        att = call.att
        while True:
            seen = changes(att.file)
            found = look()
            if found is not None or not call.left(NAP):
                return found
            if att.is_removed() and call.run("a look", att.is_last):
                raise _waiting_messages.abandoned(att.path, what)
            self._sleep(call, what, seen, NAP)

    def _sleep(self, call: Call, what: str, seen: int, nap: float) -> None:
        """Sleeps until names change after `seen`, for `nap` seconds or what the call has left."""
        end = time.monotonic() + call.left(nap)
        while (left := end - time.monotonic()) > 0 and changes(call.att.file) == seen:
            call.sleep(min(POLL, left), what)
