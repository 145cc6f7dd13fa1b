"""The calls on many objects at once: many changes under one lock.

A change has as many words as the journal has room for, so a batch is several changes. Those who
wait for the lock get it between two turns of TURN objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from refstore import _messages
from refstore._arguments import checked_names, deadline_of
from refstore._errors import ObjectExistsError
from refstore._refs import ObjectRef, make_ref
from refstore.engines.filelock import buffers, lookups, slots
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.call import Asked, Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.life import here
from refstore.engines.filelock.lookups import Parsed
from refstore.engines.filelock.opened import Key, Opened
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.prepare import Prepared, prepare

__all__ = ["BatchCalls"]

TURN: Final = 1000  # objects that are dealt with under one lock
