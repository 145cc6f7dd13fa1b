"""Known ways to get it wrong how processes wait for each other."""

from __future__ import annotations

from tests.native.mutants.mutation import Mutation

SLEEPERS = ("tests/native/crash/test_sleepers.py",)

OF_WAITING = [
    Mutation(
        "announced_first",
        "a waiter that checks and sleeps between the announcement and the change is not woken",
        "publication.pxd",
        "    else:\n        got = publish_locked(v, i, hashed, &old, found >= 0, claim)\n"
        "    if got == 0:\n        announce(v, stripe)\n",
        "    else:\n        announce(v, stripe)\n"
        "        got = publish_locked(v, i, hashed, &old, found >= 0, claim)\n",
        SLEEPERS,
    ),
    Mutation(
        "recovered_in_silence",
        "a publisher dies before the wake, and no recoverer does it",
        "recovery.pxd",
        "            announce(v, stripe)\n",
        "            pass\n",
        SLEEPERS,
    ),
    Mutation(
        "word_read_after_the_look",
        "a publication between the check and the read of the word wakes no waiter",
        "engine.pxi",
        "            begin_nap(&nap, &stripe.changes, &stripe.awake_until, NAP_MS)\n"
        "            got = find_newer(v, name, &parsed, known, found, &is_known)\n",
        "            got = find_newer(v, name, &parsed, known, found, &is_known)\n"
        "            begin_nap(&nap, &stripe.changes, &stripe.awake_until, NAP_MS)\n",
        SLEEPERS,
    ),
    Mutation(
        "one_is_woken",
        "of several waiters for names of one stripe only one checks again",
        "system.pxd",
        "FUTEX_WAKE, INT_MAX,",
        "FUTEX_WAKE, 1,",
        SLEEPERS,
    ),
    Mutation(
        "removed_in_silence",
        "the deletion of a name wakes no waiter",
        "names.pxd",
        "    clear_cell(v, make_cell(i, generation, hashed), hashed)\n"
        "    announce(v, stripe_named(v, hashed))\n",
        "    clear_cell(v, make_cell(i, generation, hashed), hashed)\n",
        SLEEPERS,
    ),
    Mutation(
        "claim_read_as_name",
        "a reader of a claim finds the replacement of an object, and then that object again",
        "names.pxd",
        "            word = 0            # a claim",
        "            pass                # a claim",
        ("tests/native/crash/test_claims.py",),
    ),
    Mutation(
        "claim_passed_over",
        "a process that publishes under a name that another has claimed does not see the claim",
        "names.pxd",
        "        found.any_alike = True\n",
        "",
        ("tests/api/test_claims.py",),
    ),
    Mutation(
        "claim_over_a_hard_one",
        "an object made in its claim's own slot is published under a name that another has claimed",
        "publication.pxd",
        "    elif v.slots[i].flags & FLAG_HARD_CLAIM == 0 and old.any_alike",
        "    elif claim != i + 1 and old.any_alike",
        ("tests/api/test_claims.py",),
    ),
    Mutation(
        "claim_given_up_twice",
        "a claim whose slot the object has taken is given up although the object exists",
        "making_calls.pxi",
        "                self.claim.is_begun = False\n",
        "                pass\n",
        ("tests/api/test_get_or_put.py",),
    ),
    Mutation(
        "claim_without_a_name",
        "another maker does not see the claim whose slot takes the object, and makes a second one",
        "put.pxd",
        "    if draft.claim != draft.slot + 1:   # else others find the claim by it\n",
        "    if True:\n",
        ("tests/native/crash/test_claims.py",),
    ),
    Mutation(
        "recovered_for_ever",
        "a damaged word names a row that holds nothing, which is recovered again and again",
        "room.pxd",
        "ERR_DEAD if held != recovered and row_is_dead",
        "ERR_DEAD if row_is_dead",
        ("tests/native/test_damaged_fields.py",),
    ),
    Mutation(
        "freed_in_silence",
        "room is freed, and its waiter sleeps on",
        "slots.pxd",
        "    give_hint(v, i, extent, run, block, size_class)\n    announce_room(v)\n",
        "    give_hint(v, i, extent, run, block, size_class)\n",
        SLEEPERS,
    ),
    Mutation(
        "batch_without_a_turn",
        "a large batch starves behind small puts that wait",
        "batches.pxi",
        "            if is_worth_a_try(v, wait, 0, now, terms.deadline):\n",
        "            if terms != NULL:\n",
        ("tests/api/test_waiting_for_room.py",),
    ),
    Mutation(
        "turn_left_by_the_dead",
        "a dead process has the turn for ever, or the next process in its row has it",
        "recovery.pxd",
        "    cas_acq_rel(&v.pool.turn, &owner, 0)                                 # [lock]\n",
        "",
        SLEEPERS,
    ),
    Mutation(
        "room_recovered_in_silence",
        "a process that frees a block dies before the wake, and no recoverer does it",
        "recovery.pxd",
        "    announce_room(v)\n    note_recovery(",
        "    note_recovery(",
        SLEEPERS,
    ),
]
