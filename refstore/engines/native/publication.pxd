# How a name comes to an object, and goes; and how objects are deleted, also those without one.
# Writers of a name take its lock; readers take none.
#
# A name goes over to a new object by one CAS of its cell, before the old object is condemned, so a
# reader who meets the condemned one finds the cell changed and looks again. Whoever changes where a
# name leads announces that, so that who waits for it looks again.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, load_acquire, load_relaxed, store_release, store_release_u32, unlikely,
)
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_BUSY, ERR_CLAIMED, ERR_EXISTS, ERR_INDEX, ERR_NO_MEMORY, ERR_NOT_FOUND,
    ERR_SIGNALS, kind_of_error, left_behind, with_blocker,
)
from refstore.engines.native.layout cimport (
    CONDEMNED, COUNT_DELETES, FLAG_HARD_CLAIM, NameLock, PUBLISHING, SEALED, Slot,
)
from refstore.engines.native.view cimport count, slots_used, View
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.waiting cimport announce
from refstore.engines.native.slots cimport (
    condemn, end_writing, make_word, reap_condemned, unpin, word_generation, word_row,
)
from refstore.engines.native.names cimport (
    clear_cell, ensure_buckets_committed, find, find_cell, Found, index, make_cell, Name,
    name_lock_of, name_of, stripe_named, unindex,
)
from refstore.engines.native.claims cimport cell_of_claim, Claim, find_claim

cdef inline int publish_locked(View *v, uint64_t i, uint64_t hashed, Found *old, bint replaces,
                               uint64_t claim) noexcept nogil:
    # The name's lock is ours and `old`, if there is one, is pinned. `claim`: slot + 1 of that which
    # we have on the name, or 0; it may be the slot itself, which the index leads to already.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
        uint64_t publishing = make_word(generation, PUBLISHING, v.row)
        uint64_t cell = make_cell(i, generation, hashed)
        uint64_t seen = 0
        uint64_t *at = NULL
        bint is_claimed = claim == i + 1
        bint indexed = False
    if replaces and is_claimed:
        # Before it can be read: else two objects have the name until `old` goes, and a reader may
        # find the new one and then the old one.
        clear_cell(v, cell, hashed)
        is_claimed = False
    if replaces:
        at = old.cell
        seen = old.cell_value
    elif claim and not is_claimed:
        seen = cell_of_claim(v, claim - 1, hashed)
        at = find_cell(v, seen, hashed)
    assign(slot.replaces_generation, old.generation if replaces else 0)
    # [seal] after the generation: a death between the two leaves no slot with another's. The word
    # publishes both, before the index changes: whoever recovers us must know what we meant to end.
    store_release_u32(&slot.replaces_slot, <uint32_t>(old.slot + 1) if replaces else 0)
    store_release(&slot.word, publishing)  # [seal] the bytes are whole
    if at != NULL:
        indexed = cas_acq_rel(at, &seen, cell)                           # [index]
    if not indexed and not is_claimed and index(v, cell, hashed) != 0:
        end_writing(v, i, publishing, CONDEMNED)
        reap_condemned(v, i)
        return ERR_INDEX
    if replaces:
        condemn(v, old.slot, old.generation, True)
    end_writing(v, i, publishing, SEALED)
    return 0


cdef inline int publish(View *v, uint64_t i, bint replace, uint64_t claim) noexcept nogil:
    # Seals slot `i`, which we are writing, under the name in its label. 0, or row + 1 of who pins
    # what was replaced, or an error: on ERR_INDEX the slot is gone, on any other it is still ours.
    # `claim`: as of publish_locked().
    cdef:
        Name name = name_of(v, i)
        uint64_t hashed = name.hashed
        NameLock *stripe = stripe_named(v, hashed)
        Found old
        Claim other
        int64_t reaped
        int got = ensure_buckets_committed(v, hashed)
        int found
    if got == 0:
        got = lock(v, &stripe.lock)
    if got != 0:
        return got
    found = find(v, &name, &old, True)
    if found >= 0 and not replace:
        got = ERR_EXISTS
    elif found < 0 and kind_of_error(found) != ERR_NOT_FOUND:
        got = found
    elif v.slots[i].flags & FLAG_HARD_CLAIM == 0 and old.any_alike \
            and find_claim(v, &name, &other) and other.is_hard:
        got = blocked_by(ERR_CLAIMED, word_row(other.word))
    else:
        got = publish_locked(v, i, hashed, &old, found >= 0, claim)
    if got == 0:
        announce(v, stripe)
    unlock(&stripe.lock)
    if got == 0 and found >= 0:
        count(v, COUNT_DELETES, 1)
    # what was replaced is freed, if nobody else reads it
    reaped = max(unpin(v, old.slot), found) if found >= 0 else left_behind(found)
    if got == 0:
        return <int>max(reaped, 0)
    return with_blocker(got, reaped) if got == ERR_EXISTS else got


cdef inline int remove(View *v, uint64_t i, uint64_t generation) noexcept nogil:
    # Deletes by address: 0, or row + 1 of who pins it, or an error. The hash is read first: it
    # belongs to this generation if the CAS of condemn() succeeds.
    cdef uint64_t hashed
    cdef int got
    if i >= slots_used(v):
        return ERR_NOT_FOUND
    hashed = load_acquire(&v.slots[i].name_hash)                         # [seal]
    failpoint()
    got = condemn(v, i, generation, False)
    if unlikely(got == ERR_BUSY):
        hashed = load_acquire(&v.slots[i].name_hash)  # [seal] as published
        # until its publisher is through, or known to be dead
        got = lock(v, name_lock_of(v, hashed))
        if got != 0:
            return got
        got = condemn(v, i, generation, True)
        unlock(name_lock_of(v, hashed))
    if got == 0:
        if hashed:
            unindex(v, i, generation, hashed)
        got = <int>max(reap_condemned(v, i), 0)
    return got


cdef inline int remove_named(View *v, const Name *name) noexcept nogil:
    # As remove(). Pinned meanwhile, if there is memory for a pin: as long as the slot is not
    # reused, the cell is its own. Each turn but the last means that somebody else deleted or
    # replaced what we found.
    cdef Found found
    cdef int64_t reaped
    cdef bint pins
    cdef int got, missed = ERR_NOT_FOUND
    while True:
        got = find(v, name, &found, True)
        pins = got >= 0
        if got == ERR_NO_MEMORY or got == ERR_SIGNALS:
            got = find(v, name, &found, False)
        if got < 0:
            return min(missed, got) if kind_of_error(got) == ERR_NOT_FOUND else got
        missed = min(missed, with_blocker(ERR_NOT_FOUND, got))
        got = remove(v, found.slot, found.generation)
        if pins:
            reaped = unpin(v, found.slot)
            if got >= 0 and reaped:
                got = <int>max(reaped, 0)       # the later look, without our own pin
            elif got == ERR_NOT_FOUND:
                got = with_blocker(got, reaped)
        if got >= 0:
            return max(got, left_behind(missed))
        if kind_of_error(got) != ERR_NOT_FOUND:     # else it was replaced or deleted since
            return got
        missed = min(missed, got)
