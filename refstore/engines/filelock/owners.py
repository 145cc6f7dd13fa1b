"""Owners: what a process owns is deleted when its last `Store` object on the file is gone.

A `Store` that is open has a `Stay`. Buffers, Writers and views may keep the attachment, and with it
the process's row, for longer; they keep no stay. What a dead process owned is deleted by whoever
recovers it, before its row is free.
"""

from __future__ import annotations

import contextlib
import os
import sys

from refstore.engines.filelock import recovery
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import OWNED_BY, Header
from refstore.engines.filelock.life import finalize
from refstore.engines.filelock.room import RoomKeeper

__all__ = ["Owner", "Stay"]


class Owner(RoomKeeper):
    """An attachment, as far as it owns objects."""

    def __init__(self, path: str, fd: int, header: Header, found: os.stat_result) -> None:
        self.open_stores: set[int] = set()  # those that are not over, by id
        self._owns_any = False
        super().__init__(path, fd, header, found)

    def make_own(self, c: Change, slot: int) -> None:
        """This process becomes an object's owner, with the commit that is in preparation."""
        self._owns_any = True
        c[c.file.slot(slot) + OWNED_BY] = self.own + 1

    def disown_all(self) -> None:
        """Deletes, now or soon, what this process owns, if no `Store` of its is open any more."""
        if self._owns_any and not self.open_stores:
            self.defer(self._delete_owned)

    def _delete_owned(self, c: Change) -> None:
        if self.row is not None and not self.open_stores:
            recovery.delete_owned(c, self.row)
            self._owns_any = False

    def leave_at_exit(self) -> None:
        if self._owns_any and self.row is not None:
            self.open_stores.clear()
            self.run_locked("exit", self._delete_owned)
        super().leave_at_exit()

    def after_fork_in_child(self) -> None:
        self._owns_any = False
        super().after_fork_in_child()


class Stay:
    """The time for which a `Store` object is open."""

    __slots__ = ("_att", "is_over")

    def __init__(self, att: Owner) -> None:
        self.is_over = False
        self._att = att
        att.open_stores.add(id(self))

    def end(self) -> None:
        """Ends it; idempotent."""
        self.is_over = True
        self._att.open_stores.discard(id(self))
        self._att.disown_all()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            finalize(self.end, sys.is_finalizing)
