"""Operations that find objects, by ref or by name. They run under the change lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from refstore import _messages
from refstore._names import encode_key
from refstore._refs import ObjectRef, parts_of
from refstore.engines.filelock import eviction, names, recovery, slots
from refstore.engines.filelock.attachment import Attachment
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import DELETES, GETS, OWNED_BY, SEALED, WORD
from refstore.engines.filelock.pins import Pin
from refstore.engines.filelock.transaction import Operation

Key = ObjectRef | str
Parsed = tuple[int, int] | bytes  # a key: slot and generation, or a name's UTF-8
T = TypeVar("T")


class Of(Protocol):
    """The store in which objects are looked for."""

    path: str
    tag: int


def parse(of: Of, key: Key) -> Parsed:
    """A key as operations take it. Errors: ObjectNotFoundError, TypeError, ValueError."""
    if type(key) is not ObjectRef:
        return encode_key(key)
    slot, generation, tag = parts_of(key)
    if tag != of.tag:
        raise _messages.not_found(of.path, key, of_other_store=True)
    return slot, generation


def required(
    of: Of,
    key: Key,
    run: Callable[..., Any],
    what: str,
    operation: Operation[T | None],
    *args: object,
) -> T:
    """Result of an operation on an object.

    `run` runs it. Errors: those of parse(), what `run` raises, and ObjectNotFoundError if the
    result is None or False.
    """
    found: T | None = run(what, operation, *args, parse(of, key))
    if found is None or found is False:
        raise _messages.not_found(of.path, key, of_other_store=False)
    return found


# --- operations


def locate(c: Change, key: Parsed) -> tuple[int, int] | None:
    """Slot and generation of a live object."""
    if isinstance(key, tuple):
        return key if slots.is_live(c, *key) else None
    slot = names.find(c, key)
    return None if slot is None else (slot, slots.generation_of(c, slot))


def pin(c: Change, att: Attachment, found: tuple[int, int], pin: Pin) -> None:
    """Pins an object that was found, with the commit that is in preparation."""
    slots.pin(c, found[0], att.own)
    eviction.note_use(c, found[0])
    pin.take(found[0], c.next())


def _pin_one(c: Change, att: Attachment, found: tuple[int, int], to_be: Pin) -> int:
    """Pins an object; its generation."""
    pin(c, att, found, to_be)
    c.commit()
    att.count(GETS)
    return found[1]


def get(c: Change, att: Attachment, key: Parsed, to_be: Pin) -> int | None:
    """The generation of the object that is pinned."""
    found = locate(c, key)
    return None if found is None else _pin_one(c, att, found, to_be)


def get_newer(
    c: Change, att: Attachment, utf8: bytes, known: tuple[int, int] | None, to_be: Pin
) -> int | None:
    """The same, unless it is the object that is known."""
    found = locate(c, utf8)
    return None if found is None or found == known else _pin_one(c, att, found, to_be)


def are_published(c: Change, keys: Sequence[bytes]) -> list[bool]:
    """Whether each of some names has an object."""
    return [names.find(c, utf8) is not None for utf8 in keys]


def delete(c: Change, att: Attachment, key: Parsed) -> bool:
    found = locate(c, key)
    if found is None:
        return False
    att.delete_all(c, found[:1], DELETES)
    return True


def adopt(c: Change, att: Attachment, key: Parsed) -> bool:
    """An object goes with this process from here on."""
    found = locate(c, key)
    if found is not None:
        att.make_own(c, found[0])
        c.commit()
        att.disown_all()  # a thread may have closed the last `Store` meanwhile
    return found is not None


def disown(c: Change, att: Attachment, key: Parsed) -> bool:
    """An object goes with no process."""
    found = locate(c, key)
    if found is not None:
        c[c.file.slot(found[0]) + OWNED_BY] = 0
        c.commit()
    return found is not None


def refcount(c: Change, key: Parsed) -> int | None:
    found = locate(c, key)
    if found is None:
        return None
    rows = slots.pinning_rows(c, found[0])
    return 1 + sum(slots.pins_of(c, row, found[0]) for row in rows)


def live(c: Change) -> list[tuple[int, int]]:
    words = recovery.used_slots(c, WORD)
    found = [slot for slot, word in enumerate(words) if word & 0xFF == SEALED]
    return [(slot, slots.generation_of(c, slot)) for slot in found]


def all_names(c: Change) -> list[str]:
    return [name for slot, _ in live(c) if (name := name_of(c, slot)) is not None]


def name_of(c: Change, slot: int) -> str | None:
    utf8 = slots.name(c, slot)
    try:
        return utf8.decode() if utf8 else None
    except UnicodeDecodeError:
        raise c.file.damaged(f"the label of slot {slot} has a name that is not UTF-8") from None
