"""Known ways to get owners and truncation wrong."""

from __future__ import annotations

from tests.native.mutants.mutation import Mutation

MATRIX, INTERLEAVE = "tests.native.crash.matrix", "tests.native.crash.interleave"

OF_OWNERS = [
    Mutation(
        "owner_not_taken",
        "a recoverer deletes an object that another process has adopted meanwhile",
        "owners.pxd",
        "        if cas_acq_rel_u16(&v.slots[i].owned_by, &owner, owner | GOING):     # [owner]\n"
        "            return True\n",
        "        return True\n",
        (INTERLEAVE, "--to-the-end", "--only=owner_die recover disown"),
    ),
    Mutation(
        "taken_while_going",
        "an object that a recoverer is about to delete is adopted or disowned, and then gone",
        "owners.pxd",
        "    while not seen & GOING:\n",
        "    while True:\n",
        (INTERLEAVE, "--to-the-end", "--only=disown"),
    ),
    Mutation(
        "owned_left",
        "a dead process's objects stay, and belong to the next process in its row",
        "recovery.pxd",
        "            if owned:\n                delete_if_owned(v, i, dead)\n"
        "            continue\n",
        "            continue\n",
        (MATRIX, "--only=owner_die put_small"),
    ),
    Mutation(
        "published_and_left",
        "an owner dies amid a publication, and its object stays",
        "recovery.pxd",
        "                finish_dead_publish(v, i, word)\n"
        "                if owned:\n"
        "                    delete_if_owned(v, i, dead)\n",
        "                finish_dead_publish(v, i, word)\n",
        (MATRIX, "--only=populated put_owned"),
    ),
    Mutation(
        "owner_not_noted",
        "no process looks for the objects of a dead owner",
        "put.pxd",
        "        note_owner(v)\n",
        "",
        (MATRIX, "--only=populated put_owned"),
    ),
    Mutation(
        "owner_of_an_earlier_object",
        "an object is deleted with the owner of an earlier object in its slot",
        "put.pxd",
        "    assign(slot.owned_by, 0)\n",
        "",
        (MATRIX, "--only=populated put_owned"),
    ),
    Mutation(
        "name_of_the_dead_stays",
        "the name of what a dead process owned is taken until somebody recovers it",
        "recovery.pxd",
        "    got = recover_row(v, owner - 1)\n    if got == 0 and is_being",
        "    got = 0\n    if got == 0 and is_being",
        ("tests/processes/test_recover.py",),
    ),
    Mutation(
        "name_of_the_dead_at_the_end",
        "a seal is refused for the name of what a dead process owned",
        "put.pxd",
        "        got = look_for_owner(v, name)\n        if got == 0:\n",
        "        got = 0\n        if got == 0:\n",
        ("tests/processes/test_recover.py",),
    ),
    Mutation(
        "name_amid_a_recovery",
        "the name of what a dead process owned is taken as long as another process recovers it",
        "recovery.pxd",
        "        return blocked_by(ERR_HELD, owner - 1)\n    return got\n",
        "        return 0\n    return got\n",
        ("tests/native/crash/test_stopped.py",),
    ),
    Mutation(
        "left_with_the_last_view",
        "an owned object stays as long as a view that its process has kept",
        "attachment.pxi",
        "        if self.stores == 0 and self.view.alive[0]:\n",
        "        if self.stores < 0 and self.view.alive[0]:\n",
        (MATRIX, "--only=populated leave"),
    ),
    Mutation(
        "cut_under_a_view",
        "memory that a view of a truncated object still shows is given to others",
        "writers.pxi",
        "        if self.is_seen():\n            return 0\n        needed",
        "        needed",
        ("tests/api/test_writer_write_at.py",),
    ),
]
