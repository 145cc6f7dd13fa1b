"""Claims on names: who makes the object of a name that has none.

A claim is a slot in CLAIMED, which is in the name's chain, and which nobody takes for an object.
That of get_or_put() is soft: others may publish under the name all the same, and its maker finds
out at the end. It stays meanwhile, so that nobody else begins to make the object once what was
published is deleted. That of create(claim=True) is hard: it keeps others from publishing; it may
stand beside a soft one. Claims of the dead are found by those whom they hold up. These operations
run under the change lock.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from refstore import _messages, _waiting_messages
from refstore.engines.filelock import names, process_table, recovery, slots
from refstore.engines.filelock.call import Call
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import CLAIMED, MAKER, MAX_ROWS, OWNED_BY, WAITS_FOR, WORD
from refstore.engines.filelock.prepare import BYTES

if TYPE_CHECKING:
    from refstore.engines.filelock.attachment import Attachment

__all__ = ["Claim", "Claims", "find_replaced", "make", "maker_of", "of_others", "stop_waiting"]

Claims = set[tuple[int, int]]  # slots and generations


class Claim(NamedTuple):
    """A claim of somebody else's."""

    row: int  # its maker's
    pid: int
    is_hard: bool
    leads_back: bool  # its maker waits for an object that the caller makes


def find_replaced(c: Change, att: Attachment, call: Call) -> int | None:
    """The slot of the object that has the name under which the call publishes, and which goes then.

    Errors: ObjectExistsError if the call may not publish there.
    """
    asked = call.asked
    if asked.utf8 is None:
        return None
    replaced, claim = names.look(c, asked.utf8)
    if replaced is not None and not asked.replace:
        if _recover_row(c, att, c[c.file.slot(replaced) + OWNED_BY] - 1):
            return find_replaced(c, att, call)
        raise _messages.exists(att.path, asked.utf8.decode())
    is_own = call.is_taken() and claim == call.slot
    if claim is not None and not is_own and slots.is_hard(c, claim):
        if recover_maker(c, att, claim):
            return find_replaced(c, att, call)
        pid = process_table.pid_of(c, c[c.file.slot(claim) + MAKER])
        raise _waiting_messages.claimed(att.path, asked.utf8.decode(), pid)
    return replaced


def recover_maker(c: Change, att: Attachment, claim: int) -> bool:
    """Whether the maker of a claim was dead, and the claim is none any more."""
    row = c[c.file.slot(claim) + MAKER]
    if row == att.own:
        return False
    if _recover_row(c, att, row):
        return True
    if recovery.has_ended(c, row):  # its children keep the row, and can publish nothing
        slots.unclaim(c, claim)
        c.commit()
        return True
    return False


def _recover_row(c: Change, att: Attachment, row: int) -> bool:
    """Whether the process of a row, if there is one, was dead, and holds nothing any more."""
    with contextlib.suppress(OSError):  # no descriptor left: nobody can tell
        return 0 <= row < MAX_ROWS and recovery.recover_rows(
            c, att.folder, [row], att.own, att.report
        )
    return False


def of_others(c: Change, att: Attachment, utf8: bytes, own: Claims) -> Claim | None:
    """The claim that a living process has on a name, for whom those wait who make `own`."""
    claim = names.look(c, utf8)[1]
    if claim is None:
        return None
    if recover_maker(c, att, claim):
        return of_others(c, att, utf8, own)
    row = c[c.file.slot(claim) + MAKER]
    leads_back = bool(own) and _leads_back(c, att, own, claim)
    return Claim(row, process_table.pid_of(c, row), slots.is_hard(c, claim), leads_back)


def maker_of(c: Change, utf8: bytes) -> int | None:
    """The pid of who has claimed a name."""
    claim = names.look(c, utf8)[1]
    return None if claim is None else process_table.pid_of(c, c[c.file.slot(claim) + MAKER])


def make(c: Change, att: Attachment, call: Call) -> None:
    """The call claims a name that nobody else has, softly."""
    utf8 = call.asked.utf8
    assert utf8 is not None
    slot, generation = att.claim(c, call, slots.Wanted(0, BYTES), True)
    slots.write_name(c, slot, utf8)
    slots.claim_name(c, slot, utf8, is_hard=False)
    call.take(slot, generation, c.next())
    c.commit()


# --- makers that wait for each other


def _leads_back(c: Change, att: Attachment, own: Claims, claim: int) -> bool:
    """Whether the maker of a claim waits for one of `own`; if not, they wait for it from now on."""
    mine = {slot for slot, generation in own if _is_claim(c, slot, generation)}
    seen, slot = set[int](), claim
    while slot not in seen:
        if slot in mine:
            return True
        seen.add(slot)
        link = _waits_for(c, slot)
        if not link:
            break
        slot = link - 1
    _wait_for(c, att, own, claim + 1)
    return False


def stop_waiting(c: Change, att: Attachment, own: Claims) -> None:
    """The makers of these claims wait for no other."""
    _wait_for(c, att, own, 0)


def _wait_for(c: Change, att: Attachment, own: Claims, link: int) -> None:
    for slot, generation in own:
        at = c.file.slot(slot)
        # a child that is forked in a factory has its parent's claims in its context
        if (
            c[at + MAKER] == att.row
            and _is_claim(c, slot, generation)
            and c[at + WAITS_FOR] != link
        ):
            c[at + WAITS_FOR] = link
    c.commit()


def _is_claim(c: Change, slot: int, generation: int) -> bool:
    """Whether it is still a claim without a block."""
    at = c.file.slot(slot)
    return c[at + WORD] == generation << 8 | CLAIMED and not slots.has_block(c, slot)


def _waits_for(c: Change, slot: int) -> int:
    if slot >= slots.slots_used(c) or c[c.file.slot(slot) + WORD] & 0xFF != CLAIMED:
        return 0
    return 0 if slots.has_block(c, slot) else c[c.file.slot(slot) + WAITS_FOR]
