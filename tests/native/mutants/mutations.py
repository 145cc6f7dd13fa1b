"""Known ways to get the core wrong, each one a change of its source that the tests must catch.

A mutation is text that stands once in a file of the core, and what stands there instead. The holes
are those that were thought of, or fallen into, while the protocol was designed; docs/reliability.md
lists them by their numbers.
"""

from __future__ import annotations

from tests.native.mutants.mutation import Mutation
from tests.native.mutants.of_eviction import OF_EVICTION
from tests.native.mutants.of_memory import OF_MEMORY
from tests.native.mutants.of_owners import OF_OWNERS
from tests.native.mutants.of_waiting import OF_WAITING

__all__ = ["MUTATIONS", "Mutation"]

MUTATIONS = [
    Mutation(
        "undo_without_reap",
        "H1: a pin that comes too late stops a reaper, and no process checks again",
        "slots.pxd",
        "    return with_blocker(ERR_NOT_FOUND, unpin(v, i))\n",
        "    fetch_sub_seq_cst_u32(&v.pins[i], 1)\n    return ERR_NOT_FOUND\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_small",
        ),
    ),
    Mutation(
        "look_before_pin",
        "H2: the word is read before the pin counts, and not after",
        "slots.pxd",
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
        "H8: the last pin is released and the block is never freed",
        "slots.pxd",
        "        if unlikely(word_state(word) == CONDEMNED):\n            return reap_condemned(v, i)\n",
        "        if unlikely(word_state(word) == RETIRED):\n            return reap_condemned(v, i)\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated get_by_ref delete_small",
        ),
    ),
    Mutation(
        "reap_without_generation",
        "H4: a reaper that slept frees the object that is there now",
        "slots.pxd",
        "    if not cas_seq_cst(&v.slots[i].word, &word,\n"
        "                       make_word(word_generation(word), RECLAIMING, v.row)):\n"
        "        return 0\n",
        "    word = load_seq_cst(&v.slots[i].word)\n"
        "    if word_state(word) != CONDEMNED or not cas_seq_cst(\n"
        "            &v.slots[i].word, &word, make_word(word_generation(word), RECLAIMING, v.row)):\n"
        "        return 0\n",
        ("tests.native.crash.interleave", "--only=populated delete_by_ref sweep_and_reuse"),
    ),
    Mutation(
        "reap_without_claim",
        "H6: two reapers free one block",
        "slots.pxd",
        "    if not cas_seq_cst(&v.slots[i].word, &word,\n"
        "                       make_word(word_generation(word), RECLAIMING, v.row)):\n"
        "        return 0\n",
        "    store_seq_cst(&v.slots[i].word, make_word(word_generation(word), RECLAIMING, v.row))\n",
        ("tests.native.crash.interleave", "--only=populated delete_by_ref sweep_and_reuse"),
    ),
    Mutation(
        "reclaiming_forgotten",
        "H6: a reaper dies, and the block that it was reclaiming is never freed",
        "recovery.pxd",
        "            elif state == RECLAIMING:\n",
        "            elif state == RETIRED:\n",
        ("tests.native.crash.matrix", "--only=populated delete_small"),
    ),
    Mutation(
        "writing_freed",
        "H21: a dead writer's block is reused under the views of its forked child",
        "recovery.pxd",
        "            if state == WRITING:\n                condemn_dead(v, i, word)\n",
        "            if state == WRITING:\n                free_slot(v, i)\n",
        ("tests/processes/test_fork.py",),
    ),
    Mutation(
        "hint_before_word",
        "H7: an allocator drops the hint, since the slot is not free yet",
        "slots.pxd",
        "        store_release(&slot.word, make_word(generation + 1, FREE, 0))    # [free]\n"
        "    give_hint(v, i, extent, run, block, size_class)\n",
        "        give_hint(v, i, extent, run, block, size_class)\n"
        "        store_release(&slot.word, make_word(generation + 1, FREE, 0))    # [free]\n",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated delete_small put_small",
        ),
    ),
    Mutation(
        "dead_cells_for_ever",
        "cells of the name index that dead processes left are never used again",
        "names.pxd",
        "index_in(v, first, cell, True) or index_in(v, second, cell, True) else",
        "False else",
        ("tests/native/test_name_index.py",),
    ),
    Mutation(
        "dead_cells_crowd",
        "cells that dead processes left push all names into one bucket of two",
        "names.pxd",
        "    if count_live(v, first) > count_live(v, second):\n",
        "    if False:\n",
        ("tests/native/test_name_index.py",),
    ),
    Mutation(
        "batch_without_sweep",
        "a batch is refused, since no hint leads to the slots that are free",
        "batches.pxi",
        "            sweep(v, MAX_ROWS)      # as try_to_allocate() does\n",
        "",
        ("tests/native/test_lost_hints.py",),
    ),
    Mutation(
        "hint_not_restored",
        "H8: a death between the word and the hint loses the slot",
        "recovery.pxd",
        "        if is_spare(word):\n            restore_hint(v, i, slot)\n",
        "        if is_spare(word):\n            pass\n",
        ("tests.native.crash.matrix", "--only=mid_free"),
    ),
    Mutation(
        "condemned_not_swept",
        "H8: a death between the last unpin and the read of the word loses the block",
        "recovery.pxd",
        "            nbytes += reap_counted(v, i)\n",
        "            pass\n",
        ("tests.native.crash.matrix", "--only=populated delete_small"),
    ),
    Mutation(
        "blocker_not_looked_at",
        "H9: a dead process's pin blocks a reap until another process happens to attach",
        "recovery.pxd",
        "    if reaped > 0 and reaped - 1 != <int64_t>v.row and recover",
        "    if reaped > 0 and reaped - 1 == <int64_t>v.row and recover",
        ("tests/processes/test_dead_pinners.py",),
    ),
    Mutation(
        "one_blocker_looked_at",
        "H9: of several dead processes that pin a block, only the first is checked",
        "recovery.pxd",
        "recover_row(v, <uint64_t>reaped - 1) == 1:\n        recover_dead(v, False)\n",
        "recover_row(v, <uint64_t>reaped - 1) == 1:\n        return\n",
        ("tests/processes/test_dead_pinners.py",),
    ),
    Mutation(
        "replaced_not_looked_at",
        "H9: a dead process's pin keeps a replaced object",
        "put.pxd",
        "        recover_blocker_if_dead(v, got)         # of what was replaced\n",
        "",
        ("tests/processes/test_dead_pinners.py",),
    ),
    Mutation(
        "recovery_without_lock",
        "H11: a row is recovered that another process has taken since",
        "recovery.pxd",
        "    if lock_byte(fd, r):\n        # still",
        "    if True:\n        # still",
        ("tests.native.crash.interleave", "--only=_die recover recover"),
    ),
    Mutation(
        "row_taken_as_it_is",
        "H11: a process that attaches inherits a dead process's pins",
        "recovery.pxd",
        "        recover_locked(v, r)\n    join_row(v, r)\n",
        "    join_row(v, r)\n",
        ("tests.native.crash.matrix", "--only=no_free_row"),
    ),
    Mutation(
        "row_freed_before_sweep",
        "H12: a recoverer dies and no process completes the recovery",
        "recovery.pxd",
        "    sweep(v, dead)\n    release_locks(v, dead)\n",
        "    free_row(v, dead)\n    sweep(v, dead)\n    release_locks(v, dead)\n",
        ("tests.native.crash.matrix", "--depth=2", "--only=populated put_large"),
    ),
    Mutation(
        "lock_apart_from_mapping",
        "H14: a program that closes its descriptors counts as dead, with its mapping in use",
        "mapping.pxd",
        "    failed = map_twice(v)\n",
        "    cdef int other = v.fd\n"
        "    v.fd = reopen(other, O_RDWR)\n"
        "    failed = map_twice(v)\n"
        "    close(v.fd)\n"
        "    v.fd = other\n",
        ("tests/processes/test_environment.py",),
    ),
    Mutation(
        "name_locks_kept",
        "H17: a name's lock stays with the dead",
        "recovery.pxd",
        "    release_locks(v, dead)\n    cas_acq_rel",
        "    cas_acq_rel",
        ("tests.native.crash.matrix", "--only=mid_replace_die"),
    ),
    Mutation(
        "lock_taken_over",
        "H17: the lock of a dead process is taken without its row's, and nothing is repaired",
        "lock.pxd",
        "            return blocked_by(ERR_DEAD, expected - 1)\n",
        "            if cas_acq_rel(word, &expected, v.row + 1):\n                return 0\n            continue\n",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "space_not_rebuilt",
        "H33: the map of pages stays as the dead process left it",
        "recovery.pxd",
        "        rebuild(v)\n        unlock",
        "        unlock",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "unlocked_before_rebuild",
        "H33: a recoverer dies, and the half-made map is trusted",
        "recovery.pxd",
        "        rebuild(v)\n        unlock(&v.pool.lock)\n",
        "        unlock(&v.pool.lock)\n        rebuild(v)\n",
        ("tests.native.crash.matrix", "--depth=2", "--only=populated put_large"),
    ),
    Mutation(
        "no_busy_timeout",
        "H18: a process that needs a lock of a stopped process waits for ever",
        "contention.pxd",
        "    elif now_ms() - since[0] >= <uint64_t>busy_timeout_ms(BUSY_TIMEOUT_MS) \\\n",
        "    elif now_ms() - since[0] > <uint64_t>busy_timeout_ms(BUSY_TIMEOUT_MS) + 100000000 \\\n",
        ("tests.native.crash.matrix", "--only=mid_change_stopped put_large"),
    ),
    Mutation(
        "pins_not_forked",
        "H21: a child reads a block that its parent has released",
        "fork.pxd",
        "copy_pins(v, <uint64_t>row) == 0:",
        "True:",
        ("tests/processes/test_fork.py",),
    ),
    Mutation(
        "raw_fork_unseen",
        "H22: a child of an undetected fork takes its parent's pins away",
        "mapping.pxd",
        "    if madvise(alive, ALIVE_NBYTES, MADV_WIPEONFORK) != 0:\n        return errno\n",
        "",
        ("tests/processes/test_fork_limits.py",),
    ),
    Mutation(
        "sealed_before_indexed",
        "H26: a death in between leaves an object that no name leads to",
        "publication.pxd",
        "    store_release(&slot.word, publishing)  # [seal] the bytes are whole\n",
        "    seal(v, i)\n    publishing = make_word(generation, SEALED, 0)\n",
        ("tests.native.crash.matrix", "--only=populated put_named"),
    ),
    Mutation(
        "indexed_while_writing",
        "H26: a name that is being replaced leads nowhere for a while, or for ever",
        "publication.pxd",
        "    store_release(&slot.word, publishing)  # [seal] the bytes are whole\n",
        "    publishing = make_word(generation, WRITING, v.row)\n",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "old_condemned_first",
        "H26: a death before the index changes loses the object that was there",
        "publication.pxd",
        "    if at != NULL:\n        indexed = cas_acq_rel(at",
        "    if replaces:\n        condemn(v, old.slot, old.generation, True)\n    if at != NULL:\n        indexed = cas_acq_rel(at",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "unindexed_first",
        "H26: a death in the middle of a delete leaves an object that no name leads to",
        "publication.pxd",
        "    failpoint()\n    got = condemn(v, i, generation, False)\n",
        "    failpoint()\n    if hashed:\n        unindex(v, i, generation, hashed)\n    got = condemn(v, i, generation, False)\n",
        ("tests.native.crash.matrix", "--only=populated delete_by_ref"),
    ),
    Mutation(
        "replaced_forgotten",
        "H27: a death after the index has changed leaves the old object for ever",
        "publication.pxd",
        "    store_release_u32(&slot.replaces_slot, <uint32_t>(old.slot + 1) if replaces else 0)\n",
        "",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "settled_without_replaced",
        "H27: the recovery seals the new object and leaves the old one",
        "recovery.pxd",
        "        condemn_replaced(v, slot)\n",
        "",
        ("tests.native.crash.matrix", "--only=populated replace$"),
    ),
    Mutation(
        "names_unlocked",
        "H29: two processes publish under one name at once",
        "publication.pxd",
        "    if got == 0:\n        got = lock(v, &stripe.lock)\n    if got != 0:\n        return got\n    found",
        "    if got != 0:\n        return got\n    found",
        ("tests.native.crash.interleave", "--only=populated put_named put_named"),
    ),
    Mutation(
        "slots_held_without_claim",
        "H32: a run is released under a block that was taken meanwhile",
        "runs.pxd",
        "        if claim(v, i, HELD):\n            held |=",
        "        if word_state(load_acquire(&v.slots[i].word)) == FREE:\n"
        "            failpoint()\n"
        "            store_release(&v.slots[i].word, make_word(word_generation(\n"
        "                load_acquire(&v.slots[i].word)), HELD, v.row))\n"
        "            held |=",
        (
            "tests.native.crash.interleave",
            "--to-the-end",
            "--only=populated sweep_and_reuse put_small",
        ),
    ),
    Mutation(
        "full_without_recovery",
        "H34: a put is refused, since a dead process holds the room",
        "room.pxd",
        "            recovery = recover_dead(v, True)\n",
        "            recovery = 0\n",
        ("tests/processes/test_kill.py",),
    ),
    Mutation(
        "named_before_filled",
        "H35: a creator's death leaves a half-made store",
        "opening.pxd",
        "        fill_file(fd, path, capacity, max_objects, temporary, evict)\n        if getpid() != creator:\n            raise not_the_same(path)\n        failed = link_unnamed(fd, os.fsencode(path))\n",
        "        failed = link_unnamed(fd, os.fsencode(path))\n        fill_file(fd, path, capacity, max_objects, temporary, evict)\n",
        ("tests/processes/test_creation.py",),
    ),
    Mutation(
        "pin_unmarked",
        "a reaper skips the row of a reader that left no mark on the slot",
        "slots.pxd",
        "            fetch_or_seq_cst(&slot.mask, v.row_bit)                      # [pin]\n",
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
        "rebuild.pxd",
        "    forget_half_made(v)\n",
        "",
        ("tests.native.crash.matrix", "--only=mid_change_die"),
    ),
    Mutation(
        "held_forgotten",
        "slots that a dead process held are lost",
        "recovery.pxd",
        "            elif state == HELD:\n                unclaim(v, i)\n",
        "",
        ("tests.native.crash.matrix", "--only=empty put_small"),
    ),
    Mutation(
        "kept_for_nobody",
        "a child for which there was no row reads a block that its parent has released",
        "fork.pxd",
        "    store_relaxed_u32(&v.pins[i], cell | KEPT)          # relaxed: before the mark, which is seq_cst\n",
        "",
        ("tests/processes/test_fork_kept.py",),
    ),
    Mutation(
        "kept_till_the_parent_leaves",
        "a child for which there was no row reads a block that its parent released by leaving",
        "recovery.pxd",
        "    zero_pins(v, v.row, KEPT)\n",
        "    zero_pins(v, v.row, 0)\n",
        ("tests/processes/test_fork_kept.py",),
    ),
    Mutation(
        "kept_without_writers",
        "a child for which there was no row writes into the block that replaced its parent's Writer",
        "fork.pxd",
        "        if writers.view == v and not writers.is_kept:\n",
        "        if writers.view == NULL:\n",
        ("tests/processes/test_fork_kept.py",),
    ),
    Mutation(
        "unseen_forks_unseen",
        "a child that a thread of C code forked reads a block that its parent has released",
        "attachment.pxi",
        "    if load_acquire(&unseen_forks) != att.view.forks_seen:                  # [fork]\n",
        "    if load_acquire(&unseen_forks) < att.view.forks_seen:\n",
        ("tests/processes/test_fork_kept.py",),
    ),
    Mutation(
        "child_gives_back",
        "a child that is forked amid its parent's put gives the parent's slot to others",
        "put.pxd",
        "    if draft.is_begun and is_same_process(v, draft.life):\n",
        "    if draft.is_begun:\n",
        ("tests/native/crash/test_reentrancy.py",),
    ),
    Mutation(
        "child_goes_on",
        "a child that is forked amid its parent's put writes, and seals, a slot that others have by then",
        "points.pxd",
        "    if not is_same_process(v, life):\n",
        "    if not is_same_process(v, v.life):\n",
        ("tests/native/crash/test_reentrancy.py",),
    ),
    Mutation(
        "signals_after_the_seal",
        "Ctrl-C amid a copy loses the ref of an object that stays for ever",
        "points.pxd",
        "    PyErr_CheckSignals()\n",
        "",
        ("tests/native/test_interrupted_put.py",),
    ),
    Mutation(
        "hint_believed_pages",
        "a wrong bit in the map of free pages is enough to overwrite an object",
        "bins.pxd",
        "        if used_bits(v)[at >> 6] & mask != (mask if used else 0):\n            return False\n",
        "",
        ("tests.fuzz.hints", "--every=0.2", "--only=Pool"),
    ),
    Mutation(
        "hint_believed_unowned",
        "a wrong bit in a run's record gives an object's block to another",
        "blocks.pxd",
        "            if v.runs[r].slots[j] == 0 and v.runs[r].unowned >> j & 1 and used < n:\n",
        "            if v.runs[r].slots[j] == 0 and used < n:\n",
        ("tests.fuzz.hints", "--only=].slots"),
    ),
    *OF_OWNERS,
    *OF_WAITING,
    *OF_EVICTION,
    *OF_MEMORY,
]
