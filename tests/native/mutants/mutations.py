"""Known ways to get the core wrong, each one a change of its source that the tests must catch.

A mutation is text that stands once in a file of the core, and what stands there instead. The holes
are those that were thought of, or fallen into, while the protocol was designed; the numbers are
those under which they were written down then.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One mistake."""

    name: str
    hole: str  # what goes wrong by it
    file: str
    old: str
    new: str
    shown_by: tuple[str, ...] = ()  # tests, or the part of `make crash`, with it in mind


MUTATIONS = [
    Mutation(
        "undo_without_reap",
        "H1: a pin that comes too late keeps a reaper off, and nobody looks again",
        "_slots.pxd",
        "    unpin(s, i)         # undoing is unpinning: a reaper may have given up because of us\n",
        "    fetch_sub_seq_cst_u32(&s.pins[i], 1)\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_small",
        ),
    ),
    Mutation(
        "look_before_pin",
        "H2: the word is looked at before the pin counts, and not after",
        "_slots.pxd",
        "        word = load_seq_cst(&slot.word)                                  # [pin]\n"
        "        if is_readable(word, generation):\n            return 0\n",
        "        return 0\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_and_reuse",
        ),
    ),
    Mutation(
        "unpin_without_reap",
        "H8: the last pin goes and nobody frees the block",
        "_slots.pxd",
        "        if word_state(word) == CONDEMNED:\n            try_reap(s, i, word)\n",
        "        if word_state(word) == RETIRED:\n            try_reap(s, i, word)\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_small",
        ),
    ),
    Mutation(
        "reap_without_generation",
        "H4: a reaper that slept frees the object that lies there now",
        "_slots.pxd",
        "    if not cas_seq_cst(&s.slots[i].word, &word, make_word(word_generation(word), RECLAIMING, s.row)):\n"
        "        return False\n",
        "    word = load_seq_cst(&s.slots[i].word)\n"
        "    if word_state(word) != CONDEMNED or not cas_seq_cst(\n"
        "            &s.slots[i].word, &word, make_word(word_generation(word), RECLAIMING, s.row)):\n"
        "        return False\n",
        ("tests.native.crash.interleave", "--only=populated delete_small sweep_and_reuse"),
    ),
    Mutation(
        "reap_without_claim",
        "H6: two reapers free one block",
        "_slots.pxd",
        "    if not cas_seq_cst(&s.slots[i].word, &word, make_word(word_generation(word), RECLAIMING, s.row)):\n"
        "        return False\n",
        "    store_seq_cst(&s.slots[i].word, make_word(word_generation(word), RECLAIMING, s.row))\n",
        ("tests.native.crash.interleave", "--only=populated delete_small sweep_and_reuse"),
    ),
    Mutation(
        "reclaiming_forgotten",
        "H6: a reaper dies, and what it was about to free stays as it is",
        "_rows.pxd",
        "            elif state == RECLAIMING:\n",
        "            elif state == RETIRED:\n",
        ("tests.native.crash.matrix", "--only=populated delete_small"),
    ),
    Mutation(
        "writing_freed",
        "H21: a dead writer's block is put to use under the views of its forked child",
        "_rows.pxd",
        "            if state == WRITING:\n                condemn_dead(s, i, word)\n",
        "            if state == WRITING:\n                free_slot(s, i)\n",
    ),
    Mutation(
        "hint_before_word",
        "H7: an allocator drops the hint, since the slot is not free yet",
        "_slots.pxd",
        "        store_release(&slot.word, make_word(generation + 1, FREE, 0))    # [free]\n"
        "    give_hint(s, i, extent, run, block, size_class)\n",
        "        give_hint(s, i, extent, run, block, size_class)\n"
        "        store_release(&slot.word, make_word(generation + 1, FREE, 0))    # [free]\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated delete_small put_small",
        ),
    ),
    Mutation(
        "hint_not_restored",
        "H8: a death between the word and the hint loses the slot",
        "_rows.pxd",
        "        if state == FREE or state == RETIRED:\n            restore_hint(s, i, slot)\n",
        "        if state == FREE or state == RETIRED:\n            pass\n",
        ("tests.native.crash.matrix", "--only=mid_free"),
    ),
    Mutation(
        "condemned_not_swept",
        "H8: a death between the last unpin and the look at the word loses the block",
        "_rows.pxd",
        "            nbytes += reap_counted(s, i)\n",
        "            pass\n",
        ("tests.native.crash.matrix", "--only=populated delete_small"),
    ),
    Mutation(
        "blocker_not_looked_at",
        "H9: a dead process's pin blocks a reap until somebody happens to attach",
        "_rows.pxd",
        "    if s.blocked_by and s.blocked_by - 1 != s.row and recover",
        "    if s.blocked_by and s.blocked_by - 1 == s.row and recover",
    ),
    Mutation(
        "one_blocker_looked_at",
        "H9: of several dead processes that pin a block, only the first is looked at",
        "_rows.pxd",
        "recover_row(s, s.blocked_by - 1) == 1:\n        recover_dead(s, False)\n",
        "recover_row(s, s.blocked_by - 1) == 1:\n        return\n",
    ),
    Mutation(
        "replaced_not_looked_at",
        "H9: a dead process's pin keeps what was replaced",
        "_put.pxd",
        "        look_at_blocker(s)              # of what was replaced\n",
        "",
    ),
    Mutation(
        "recovery_without_lock",
        "H11: a row is recovered that somebody has taken since",
        "_rows.pxd",
        "    if lock_byte(fd, r):\n        # still",
        "    if True:\n        # still",
        ("tests.native.crash.interleave", "--only=_die recover recover"),
    ),
    Mutation(
        "row_taken_as_it_is",
        "H11: who attaches inherits a dead process's pins",
        "_rows.pxd",
        "        recover_locked(s, r)\n    join_row(s, r)\n",
        "    join_row(s, r)\n",
        ("tests.native.crash.matrix", "--only=no_free_row"),
    ),
    Mutation(
        "row_freed_before_sweep",
        "H12: a recoverer dies and nobody knows that the rest is to be done",
        "_rows.pxd",
        "    sweep(s, dead)\n    release_locks(s, dead)\n    free_row(s, dead)\n",
        "    free_row(s, dead)\n    sweep(s, dead)\n    release_locks(s, dead)\n",
        ("tests.native.crash.matrix", "--depth=2", "--only=populated put_large"),
    ),
    Mutation(
        "lock_apart_from_mapping",
        "H14: a program that closes its descriptors counts as dead, with its mapping in use",
        "_file.pxd",
        "    failed = map_twice(s)\n",
        "    cdef int other = s.fd\n"
        "    s.fd = reopen(other, O_RDWR)\n"
        "    failed = map_twice(s)\n"
        "    close(s.fd)\n"
        "    s.fd = other\n",
    ),
    Mutation(
        "name_locks_kept",
        "H17: a name's lock stays with the dead",
        "_rows.pxd",
        "    release_locks(s, dead)\n    free_row",
        "    free_row",
        ("tests.native.crash.matrix", "--only=mid_replace_die"),
    ),
    Mutation(
        "lock_taken_over",
        "H17: the lock of a dead process is taken without its row's, and nothing is repaired",
        "_pages.pxd",
        "            s.blocked_by = expected\n            return ERR_DEAD\n",
        "            if cas_acq_rel(word, &expected, s.row + 1):\n                return 0\n            continue\n",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "space_not_rebuilt",
        "H33: the map of pages stays as the dead left it",
        "_rows.pxd",
        "        rebuild(s)\n        unlock",
        "        unlock",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "unlocked_before_rebuild",
        "H33: a recoverer dies, and nobody knows that the map is half made",
        "_rows.pxd",
        "        rebuild(s)\n        unlock(&s.pool.lock)\n",
        "        unlock(&s.pool.lock)\n        rebuild(s)\n",
        ("tests.native.crash.matrix", "--depth=2", "--only=populated put_large"),
    ),
    Mutation(
        "no_patience",
        "H18: who needs what a stopped process has locked waits for ever",
        "_wait.pxd",
        "    elif now_ms() - since[0] >= <uint64_t>patience_ms(BUSY_AFTER_MS):\n",
        "    elif now_ms() - since[0] > <uint64_t>patience_ms(BUSY_AFTER_MS) + 100000000:\n",
        ("tests.native.crash.matrix", "--only=mid_change_stopped put_large"),
    ),
    Mutation(
        "pins_not_forked",
        "H21: a child reads what its parent has let go of",
        "_fork.pxd",
        "copy_pins(s, <uint64_t>row) == 0:",
        "True:",
    ),
    Mutation(
        "raw_fork_unseen",
        "H22: a child that nobody has seen takes its parent's pins away",
        "_file.pxd",
        "    if madvise(alive, ALIVE_NBYTES, MADV_WIPEONFORK) != 0:\n        return errno\n",
        "",
    ),
    Mutation(
        "sealed_before_indexed",
        "H26: a death in between leaves an object that nobody finds",
        "_index.pxd",
        "    store_release(&slot.word, publishing)                                # [seal] the bytes are whole\n",
        "    seal(s, i)\n    publishing = make_word(generation, SEALED, 0)\n",
        ("tests.native.crash.matrix", "--only=populated put_named"),
    ),
    Mutation(
        "indexed_while_writing",
        "H26: a name that is being replaced leads nowhere for a while, or for ever",
        "_index.pxd",
        "    store_release(&slot.word, publishing)                                # [seal] the bytes are whole\n",
        "    publishing = make_word(generation, WRITING, s.row)\n",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "old_condemned_first",
        "H26: a death before the index changes loses the object that was there",
        "_index.pxd",
        "    if replaces:\n        indexed = cas_acq_rel(old.cell",
        "    if replaces:\n        condemn(s, old.slot, old.generation, True)\n        indexed = cas_acq_rel(old.cell",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "unindexed_first",
        "H26: a death in the middle of a delete leaves an object that nobody finds",
        "_index.pxd",
        "    failpoint()\n    got = condemn(s, i, generation, False)\n",
        "    failpoint()\n    if hashed:\n        unindex(s, i, generation, hashed)\n    got = condemn(s, i, generation, False)\n",
        ("tests.native.crash.matrix", "--only=populated delete_by_ref"),
    ),
    Mutation(
        "replaced_forgotten",
        "H27: a death after the index has changed leaves the old object for ever",
        "_index.pxd",
        "    store_release_u32(&slot.replaces_slot, <uint32_t>(old.slot + 1) if replaces else 0)\n",
        "",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "settled_without_replaced",
        "H27: the recovery seals the new object and leaves the old one",
        "_rows.pxd",
        "        condemn_replaced(s, slot)\n",
        "",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "names_unlocked",
        "H29: two processes publish under one name at once",
        "_index.pxd",
        "    if got == 0:\n        got = lock(s, name_lock_of(s, hashed))\n    if got != 0:\n        return got\n    found",
        "    if got != 0:\n        return got\n    found",
        ("tests.native.crash.interleave", "--only=populated put_named put_named"),
    ),
    Mutation(
        "slots_held_without_claim",
        "H32: a run is dissolved under a block that was taken meanwhile",
        "_runs.pxd",
        "        if claim(s, i, HELD):\n            held |=",
        "        if word_state(load_acquire(&s.slots[i].word)) == FREE:\n"
        "            failpoint()\n"
        "            store_release(&s.slots[i].word, make_word(word_generation(\n"
        "                load_acquire(&s.slots[i].word)), HELD, s.row))\n"
        "            held |=",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated sweep_and_reuse put_small",
        ),
    ),
    Mutation(
        "full_without_recovery",
        "H34: a put is refused for room that a dead process holds",
        "_put.pxd",
        "            recovery = recover_dead(s, True)\n",
        "            recovery = 0\n",
    ),
    Mutation(
        "named_before_filled",
        "H35: a creator's death leaves half a store",
        "_open.pxd",
        "        fill_file(fd, path, capacity, max_objects, temporary)\n        if getpid() != creator:\n            raise not_the_same()\n        failed = link_unnamed(fd, os.fsencode(path))\n",
        "        failed = link_unnamed(fd, os.fsencode(path))\n        fill_file(fd, path, capacity, max_objects, temporary)\n",
    ),
    Mutation(
        "pin_unmarked",
        "a reaper skips the row of a reader that left no mark on the slot",
        "_slots.pxd",
        "            fetch_or_seq_cst(&slot.mask, s.row_bit)                      # [pin]\n",
        "            pass\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_and_reuse",
        ),
    ),
    Mutation(
        "half_made_kept",
        "a slot keeps a block of a run that never came to be",
        "_pages.pxd",
        "    forget_half_made(s)\n",
        "",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "held_forgotten",
        "slots that a dead process had in hand are lost",
        "_rows.pxd",
        "            elif state == HELD:\n                unclaim(s, i)\n",
        "",
        ("tests.native.crash.matrix", "--only=populated put_small"),
    ),
    Mutation(
        "stale_offset",
        "an extent that came to a slot by a trim is written to at another one's address",
        "_alloc.pxd",
        "    assign(slot.offset, s.g.data + extent_first(extent) * PAGE)\n",
        "    if slot.offset == 0:\n        assign(slot.offset, s.g.data + extent_first(extent) * PAGE)\n",
    ),
    Mutation(
        "kept_for_nobody",
        "a child for which there was no row reads what its parent has let go of",
        "_fork.pxd",
        "    store_relaxed_u32(&s.pins[i], cell | KEPT)          # relaxed: before the mark, which is seq_cst\n",
        "",
    ),
    Mutation(
        "kept_till_the_parent_leaves",
        "a child for which there was no row reads what its parent has let go of by leaving",
        "_rows.pxd",
        "    zero_pins(s, s.row, KEPT)\n",
        "    zero_pins(s, s.row, 0)\n",
    ),
    Mutation(
        "kept_without_writers",
        "a child for which there was no row writes into what lies where its parent's Writer was",
        "_fork.pxd",
        "        if writers.s == s and not writers.is_kept:\n",
        "        if writers.s == NULL:\n",
    ),
    Mutation(
        "unseen_forks_unseen",
        "a child that a thread of C code forked reads what its parent has let go of",
        "_core.pyx",
        "    if load_acquire(&unseen_forks) != att.s.forks_seen:                  # [fork]\n",
        "    if load_acquire(&unseen_forks) < att.s.forks_seen:\n",
    ),
    Mutation(
        "child_gives_back",
        "a child that is forked amid its parent's put gives the parent's slot to others",
        "_put.pxd",
        "    if draft.is_begun and is_same_process(s, draft.life):\n",
        "    if draft.is_begun:\n",
        ("tests/native/crash/test_reentrancy.py",),
    ),
    Mutation(
        "child_goes_on",
        "a child that is forked amid its parent's put writes, and seals, what others have by then",
        "_points.pxd",
        "    if not is_same_process(s, life):\n",
        "    if not is_same_process(s, s.life):\n",
        ("tests/native/crash/test_reentrancy.py",),
    ),
    Mutation(
        "signals_after_the_seal",
        "Ctrl-C amid a copy loses the ref of an object that stays for ever",
        "_points.pxd",
        "    PyErr_CheckSignals()\n",
        "",
        ("tests/native/test_interrupted_put.py",),
    ),
    Mutation(
        "hint_believed_pages",
        "a wrong bit in the map of free pages is enough to overwrite an object",
        "_bins.pxd",
        "        if used_bits(s)[at >> 6] & mask != (mask if used else 0):\n            return False\n",
        "",
        ("tests.fuzz.hints", "--every=0.2", "--only=Pool"),
    ),
    Mutation(
        "hint_believed_orphans",
        "a wrong bit in a run's record gives an object's block to another",
        "_alloc.pxd",
        "            if s.runs[r].slots[j] == 0 and s.runs[r].orphaned >> j & 1 and used < n:\n",
        "            if s.runs[r].slots[j] == 0 and used < n:\n",
        ("tests.fuzz.hints", "--only=].slots"),
    ),
]
