# Owners: an object may go with a process, as that process's pins do. `owned_by` in its slot names
# the row; it belongs to the generation, like all that a slot says beside its space.
#
# An object goes when its owner has left or is dead, by whoever sees to that, while the row's kernel
# lock is theirs, so that the row is not another process's yet. First GOING, by a CAS from the
# owner's row: from here on nobody adopts it. Then it is deleted like any other. Who adopts or
# disowns takes `owned_by` by a CAS, too, from what it was when the object was not GOING: one of the
# two loses and knows it. What is GOING and still lives is deleted by whoever comes across it, so
# that a process that is stopped in between keeps nobody waiting.
#
# A death in between loses nothing: the row stays dead, and names what is left to be done.

from libc.stdint cimport int64_t, uint16_t, uint64_t

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel_u16, load_acquire, load_acquire_u16, load_seq_cst,
)
from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, with_blocker
from refstore.engines.native.layout cimport COUNT_DELETES, GOING, PUBLISHING, Slot
from refstore.engines.native.view cimport count, row_at, slots_used, View
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.slots cimport is_sealed, unpin, word_generation, word_state
from refstore.engines.native.names cimport name_lock_of
from refstore.engines.native.publication cimport remove

cdef inline bint take_from_owner(View *v, uint64_t i, uint64_t row) noexcept nogil:
    # whether the object in slot `i` goes with that row, and nobody adopts it any more
    cdef uint16_t owner = load_acquire_u16(&v.slots[i].owned_by)         # [owner]
    while owner & ~GOING == row + 1:
        if owner & GOING:
            return True
        if cas_acq_rel_u16(&v.slots[i].owned_by, &owner, owner | GOING):     # [owner]
            return True
    return False


cdef inline int delete_owned(View *v, uint64_t i, uint64_t word, uint64_t row) noexcept nogil:
    # `word`: of a slot that holds a sealed object. As remove(); ERR_NOT_FOUND if it does not go
    # with that row.
    cdef int got = ERR_NOT_FOUND
    if take_from_owner(v, i, row):
        got = remove(v, i, word_generation(word))
    if got >= 0:
        count(v, COUNT_DELETES, 1)
    return got


cdef inline void delete_all_owned(View *v) noexcept nogil:
    # Our process leaves. What it puts from here on is the caller's to look at.
    cdef uint64_t i, word
    if row_at(v, v.row).owns_any == 0:
        return
    for i in range(slots_used(v)):
        word = load_seq_cst(&v.slots[i].word)                            # [seal] [free]
        if is_sealed(word):
            delete_owned(v, i, word, v.row)


cdef inline void note_owner(View *v) noexcept nogil:
    # before the first object is ours: else nobody looks for it when we are dead
    if row_at(v, v.row).owns_any == 0:
        assign(row_at(v, v.row).owns_any, 1)


cdef inline int await_publication(View *v, uint64_t i) noexcept nogil:
    # The publisher has the name's lock till then; a dead one's comes free by recovery.
    cdef uint64_t hashed = load_acquire(&v.slots[i].name_hash)           # [seal]
    cdef int got = lock(v, name_lock_of(v, hashed))
    if got == 0:
        unlock(name_lock_of(v, hashed))
    return got


cdef inline int give_to(View *v, uint64_t i, uint64_t generation, uint16_t owner) noexcept nogil:
    # Of an object that we pin, so that the slot stays in its generation: 0, or an error. `owner`:
    # row + 1, or 0.
    cdef Slot *slot = &v.slots[i]
    cdef uint64_t word = load_seq_cst(&slot.word)                        # [pin]
    cdef uint16_t seen
    cdef int got
    if word_state(word) == PUBLISHING:      # who publishes it has yet to lose the right to end it
        got = await_publication(v, i)
        if got != 0:
            return got
    seen = load_acquire_u16(&slot.owned_by)                              # [owner]
    while not seen & GOING:
        word = load_seq_cst(&slot.word)                                  # [pin]
        failpoint()
        if not is_sealed(word) and word_state(word) != PUBLISHING:
            return ERR_NOT_FOUND
        if cas_acq_rel_u16(&slot.owned_by, &seen, owner):                # [owner]
            return 0
    got = remove(v, i, generation)
    return ERR_NOT_FOUND if got >= 0 else got


cdef inline int give_pinned(View *v, uint64_t i, uint64_t generation,
                            uint16_t owner) noexcept nogil:
    # As give_to(), and the pin goes. Instead of 0, row + 1 of who pins what is deleted by now; that
    # error carries it, too.
    cdef int got = give_to(v, i, generation, owner)
    cdef int64_t reaped = unpin(v, i)
    if got == 0:
        return <int>max(reaped, 0)
    return with_blocker(got, reaped) if got == ERR_NOT_FOUND else got
