"""Known ways to get eviction wrong."""

from __future__ import annotations

from tests.native.mutants.mutation import Mutation

OFFERS = ("tests/native/crash/test_offers.py",)
EVICTION = ("tests/api/test_eviction.py",)

OF_EVICTION = [
    Mutation(
        "scan_before_offer",
        "a reader pins between the scan of the pins and the offer, and its block is evicted",
        "slots.pxd",
        "    if not cas_seq_cst(&v.slots[i].word, &word, offered):                # [pin]\n"
        "        return 0\n"
        "    if pinned_at_all(v, i) == 0:\n"
        "        return offered\n",
        "    if pinned_at_all(v, i) == 0 and cas_seq_cst(&v.slots[i].word, &word, offered):\n"
        "        return offered\n",
        OFFERS,
    ),
    Mutation(
        "offer_of_what_is_pinned",
        "a pinned object is evicted",
        "slots.pxd",
        "    if pinned_at_all(v, i) == 0:\n        return offered\n",
        "    if pinned_at_all(v, i) != v.row + 9999:\n        return offered\n",
        OFFERS,
    ),
    Mutation(
        "offer_not_withdrawn",
        "an object found pinned stays offered, and is never evicted afterwards",
        "slots.pxd",
        "    withdraw(v, i, offered)\n    return 0\n",
        "    return 0\n",
        ("tests.native.crash.interleave", "--to-the-end", "--only=cache"),
    ),
    Mutation(
        "offered_taken_by_a_store",
        "an object rescued since the scan is evicted all the same",
        "slots.pxd",
        "    return cas_seq_cst(&v.slots[i].word, &offered,\n"
        "                       make_word(word_generation(offered), RECLAIMING, v.row))",
        "    store_seq_cst(&v.slots[i].word,\n"
        "                  make_word(word_generation(offered), RECLAIMING, v.row))\n"
        "    return True",
        OFFERS,
    ),
    Mutation(
        "offered_not_rescued",
        "a reader relies on a pin that the evictor's scan has passed",
        "slots.pxd",
        "        elif cas_seq_cst(&slot.word, &word, make_word(generation, SEALED, 0)):",
        "        else:",
        OFFERS,
    ),
    Mutation(
        "offered_not_found",
        "a reader does not find an offered object",
        "slots.pxd",
        "    while is_live(word, generation):\n",
        "    while is_readable(word, generation):\n",
        OFFERS,
    ),
    Mutation(
        "rescuer_unmarked",
        "the next scan skips the row of the reader that rescued the object",
        "slots.pxd",
        "        fetch_or_seq_cst(&slot.mask, v.row_bit)                          # [pin]\n"
        "        if word_state(word) != OFFERED:\n",
        "        if word_state(word) != OFFERED:\n",
        OFFERS,
    ),
    Mutation(
        "forks_unseen_by_scan",
        "a scan passes the child's row before, and its parent's after the fork",
        "slots.pxd",
        "        moves = load_seq_cst(&v.header.moves)                            # [pin]\n",
        "        moves = before\n",
        OFFERS,
    ),
    Mutation(
        "offered_left",
        "an object that a dead process offered is never evicted afterwards",
        "recovery.pxd",
        "                withdraw(v, i, word)\n",
        "                pass\n",
        OFFERS,
    ),
    Mutation(
        "offered_not_deleted",
        "a delete does not find an offered object",
        "slots.pxd",
        "        if not is_live(word, generation):\n            return ERR_NOT_FOUND\n",
        "        if not is_readable(word, generation):\n            return ERR_NOT_FOUND\n",
        OFFERS,
    ),
    Mutation(
        "offered_unnamed",
        "the name of an offered object leads nowhere",
        "names.pxd",
        "        if is_live(word, word_generation(word)):\n            found.generation",
        "        if is_readable(word, word_generation(word)):\n            found.generation",
        OFFERS,
    ),
    Mutation(
        "reused_in_its_generation",
        "refs to an evicted object lead to the object that took its place",
        "slots.pxd",
        "make_word(generation + 1, WRITING, v.row))",
        "make_word(generation, WRITING, v.row))",
        EVICTION,
    ),
    Mutation(
        "evictable_ignored",
        "an object that must not be evicted is",
        "units.pxd",
        "    return last_use & EVICTABLE != 0\n",
        "    return True\n",
        EVICTION,
    ),
    Mutation(
        "window_over_what_stays",
        "objects are evicted for a put that still does not fit",
        "units.pxd",
        "        elif not is_spare(word):\n            return False\n"
        "    window.end += unit.pages\n",
        "    window.end += unit.pages\n",
        EVICTION,
    ),
    Mutation(
        "run_over_what_stays",
        "a run's objects are evicted, although one of them must stay",
        "units.pxd",
        "        elif not is_spare(word):\n            return False\n    return True\n",
        "    return True\n",
        EVICTION,
    ),
    Mutation(
        "block_of_no_run",
        "an object is evicted for a block that lies in no run",
        "eviction.pxd",
        "        if run_is_there(v, v.slots[i].run) and want.size_class",
        "        if v.slots[i].run and want.size_class",
        ("tests/native/test_damaged_fields.py",),
    ),
    Mutation(
        "dead_keep_room",
        "objects are evicted while dead processes hold room",
        "eviction.pxd",
        "        v.is_full = False\n        recover_dead(v, False)\n",
        "        v.is_full = False\n",
        ("tests/processes/test_eviction_processes.py",),
    ),
    Mutation(
        "pinned_counts_as_room",
        "objects are evicted for a batch that does not fit, since others of its size are pinned",
        "lots.pxd",
        "                    and may_go(v, i, &word, &age) and pinned_by(v, i) == 0:\n",
        "                    and may_go(v, i, &word, &age):\n",
        ("tests/api/test_batches.py",),
    ),
    Mutation(
        "gaps_not_measured",
        "objects are evicted for a batch that fits by the sum, but into no gaps",
        "lots.pxd",
        "        and gaps_hold(there.pages, v.g.pages, plan, n)\n",
        "        and plan != NULL\n",
        ("tests/api/test_batches.py",),
    ),
]
