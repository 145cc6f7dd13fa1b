# Claims: a name that has no object may be somebody's until he has made one. A claim is a slot in
# CLAIMED, which the index leads to and which readers do not take for an object.
#
# A soft claim, of get_or_put(), is a slot of its own, without a block: whoever puts under the name
# passes over it, and its cell stays, so that its maker is seen to be at work. The maker's own
# object takes the cell over, and only then the claim goes. A hard claim, of create(claim=True), is
# the Writer's slot itself, and nobody else publishes under the name. It may stand beside an object
# that it is to replace, and beside one soft claim, whose maker then finds the name taken.
#
# A claim is made under the lock of its name, with a second look. It is let go without it.

from libc.stdint cimport uint32_t, uint64_t

from refstore.engines.native.atomics cimport (
    assign, load_acquire, load_relaxed, load_relaxed_u32, store_relaxed_u32, store_release,
)
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_CLAIMED, ERR_EXISTS, ERR_NOT_FOUND, kind_of_error,
)
from refstore.engines.native.layout cimport Bucket, BUCKET_CELLS, CLAIMED, FLAG_HARD_CLAIM, Slot
from refstore.engines.native.view cimport bucket_at, slots_used, View
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.slots cimport (
    abandon, free_slot, is_claim, make_word, reap_condemned, word_generation, word_row,
)
from refstore.engines.native.names cimport (
    bucket_is_ready, bucket_of, cell_slot, ensure_buckets_committed, find, Found, index, make_cell,
    Name, name_lock_of, name_of, seems_to_have_name, unindex, word_behind,
)

cdef struct Claim:
    uint64_t slot
    uint64_t word
    bint is_hard


cdef inline bint find_claim(View *v, const Name *name, Claim *claim) noexcept nogil:
    # The claim on a name, the hard one if there are two. As read_label(), it counts since its word
    # is the same after the look at its name.
    cdef:
        Bucket *bucket
        uint64_t cell, word
        int which, k
        bint found = False
    for which in range(2):
        if not bucket_is_ready(v, bucket_of(v, name.hashed, which)):
            continue
        bucket = bucket_at(v, bucket_of(v, name.hashed, which))
        for k in range(BUCKET_CELLS):
            cell = load_acquire(&bucket.cells[k])                        # [index]
            if cell == 0 or (cell ^ make_cell(0, 0, name.hashed)) & 0xFFFF:
                continue
            word = word_behind(v, cell)
            if not is_claim(word) or not seems_to_have_name(v, cell_slot(cell), name):
                continue
            claim.is_hard = v.slots[cell_slot(cell)].flags & FLAG_HARD_CLAIM != 0
            if load_acquire(&v.slots[cell_slot(cell)].word) != word:     # [seal]
                continue
            claim.slot = cell_slot(cell)
            claim.word = word
            found = True
            if claim.is_hard:
                return True
    return found


cdef inline uint64_t cell_of_claim(View *v, uint64_t i, uint64_t hashed) noexcept nogil:
    # of a claim of ours
    return make_cell(i, word_generation(load_relaxed(&v.slots[i].word)), hashed)  # relaxed: ours


cdef inline int claim_locked(View *v, uint64_t i, const Name *name, bint replace) noexcept nogil:
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
        bint is_hard = slot.flags & FLAG_HARD_CLAIM != 0
        Found found
        Claim other
        int got = find(v, name, &found, False)
    if got == 0 and not replace:
        return ERR_EXISTS
    if got != 0 and kind_of_error(got) != ERR_NOT_FOUND:
        return got
    if found.any_alike and find_claim(v, name, &other) and (other.is_hard or not is_hard):
        return blocked_by(ERR_CLAIMED, word_row(other.word))
    # [seal] name and flags; before the index, which may take the place of what is none
    store_release(&slot.word, make_word(generation, CLAIMED, v.row))
    return index(v, make_cell(i, generation, name.hashed), name.hashed)


cdef inline int claim_name(View *v, uint64_t i, bint replace) noexcept nogil:
    # Slot `i`, which we are writing, claims the name in its label, as its flags say: 0, or an
    # error. The slot is ours in any case; on ERR_INDEX it is to be given up.
    cdef:
        Name name = name_of(v, i)
        uint64_t *locked = name_lock_of(v, name.hashed)
        int got
    got = ensure_buckets_committed(v, name.hashed)
    if got == 0:
        got = lock(v, locked)
    if got != 0:
        return got
    got = claim_locked(v, i, &name, replace)
    unlock(locked)
    return got


# The end of a claim: its word, then its cell, then those who wait for it are told.

cdef inline uint64_t claimed_hash(View *v, uint64_t i) noexcept nogil:
    # of the name that a slot of ours claims, or 0
    return v.slots[i].name_hash if is_claim(load_relaxed(&v.slots[i].word)) else 0  # relaxed: ours


cdef inline void give_up(View *v, uint64_t i) noexcept nogil:
    # A slot of ours that nobody has views of, whether it claims a name or not.
    cdef uint64_t hashed = claimed_hash(v, i)
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    free_slot(v, i)
    if hashed:
        unindex(v, i, generation, hashed)


cdef inline void give_up_to_views(View *v, uint64_t i) noexcept nogil:
    # The same, and views of it may live, also in a child that was forked meanwhile: then it goes
    # with the last.
    cdef uint64_t hashed = claimed_hash(v, i)
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    abandon(v, i)
    if hashed:
        unindex(v, i, generation, hashed)
    reap_condemned(v, i)


# Makers that wait for each other: a claim says which other claim its maker waits for.

cdef inline void set_waits_for(View *v, uint64_t i, const Claim *other) noexcept nogil:
    # `i`: of a claim of ours; NULL: for none
    cdef Slot *slot = &v.slots[i]
    assign(slot.replaces_generation, word_generation(other.word) if other != NULL else 0)
    store_relaxed_u32(&slot.replaces_slot,
                      <uint32_t>(other.slot + 1) if other != NULL else 0)  # relaxed: seen twice


cdef inline bint follow_claim(View *v, Claim *claim) noexcept nogil:
    # on to the claim that the maker of this one waits for, if it does
    cdef uint64_t i = load_relaxed_u32(&v.slots[claim.slot].replaces_slot)       # relaxed: as above
    cdef uint64_t generation = v.slots[claim.slot].replaces_generation
    if i == 0 or i > slots_used(v) \
            or load_acquire(&v.slots[claim.slot].word) != claim.word:  # [seal]
        return False
    claim.slot = i - 1
    claim.word = load_acquire(&v.slots[i - 1].word)                      # [seal]
    return is_claim(claim.word) and word_generation(claim.word) == generation
