# The calls of a store that say whose objects are: which lie at an address, and who owns them.

from libc.stdint cimport int64_t, uint16_t, uint64_t

from refstore.engines.native.atomics cimport load_acquire, load_relaxed_u32
from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.layout cimport CLAIMED, FLAG_UNSEALED, KEPT, WRITING
from refstore.engines.native.view cimport block_nbytes, pins_are_committed, slots_used, View
from refstore.engines.native.slots cimport word_generation, word_state
from refstore.engines.native.names cimport Found
from refstore.engines.native.owners cimport give_pinned, note_owner
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry


cdef class ListingCalls(MakingCalls):
    def _ref_at(self, size_t address, size_t nbytes):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t at = address - <size_t>v.base
            int64_t i
        if at >= v.g.file_size:
            at = address - <size_t>v.ro_base
        if at >= v.g.file_size or nbytes > v.g.file_size - at:
            return None
        i = pinned_block(v, at, nbytes)
        if i < 0:
            return None
        return make_ref(v.tag, <uint64_t>i,
                        word_generation(load_acquire(&v.slots[i].word)))  # [seal]

    def adopt(self, key):
        cdef Attachment att = self.use()
        self.give(att, key, <uint16_t>(att.view.row + 1))

    def disown(self, key):
        self.give(self.use(), key, 0)

    cdef int give(self, Attachment att, object key, uint16_t owner) except -1:
        cdef:
            View *v = &att.view
            Found found
            uint64_t since = 0
            int got
        if owner:
            note_owner(v)
        while True:
            got = self.pin_key(att, key, &found)
            if got >= 0:
                recover_blocker_if_dead(v, got)
                got = give_pinned(v, found.slot, found.generation, owner)
                if kind_of_error(got) == ERR_NOT_FOUND and type(key) is not ObjectRef:
                    recover_blocker_of(v, got)
                    continue        # the name leads elsewhere by now, or nowhere
            if got >= 0:
                break
            if not may_retry(v, &got, &since):
                recover_blocker_of(v, got)
                raise get_error(v, got, key, is_foreign(v, key))
        recover_blocker_if_dead(v, got)
        att.delete_unless_open()
        return 0


cdef int64_t pinned_block(View *v, uint64_t at, uint64_t nbytes) noexcept:
    # The slot that we pin in whose block these bytes of the file lie, or -1; not of what is being
    # written.
    cdef uint64_t i, offset, state
    cdef bint is_object
    for i in range(slots_used(v)):
        if not pins_are_committed(v, i):
            continue
        if load_relaxed_u32(&v.pins[i]) & ~KEPT == 0:   # relaxed: ours, and we have the GIL
            continue
        state = word_state(load_acquire(&v.slots[i].word))               # [seal]
        offset = v.slots[i].offset
        if offset <= at and at - offset + nbytes <= block_nbytes(&v.slots[i]):
            is_object = state != WRITING and state != CLAIMED \
                and v.slots[i].flags & FLAG_UNSEALED == 0
            return <int64_t>i if is_object else -1
    return -1
