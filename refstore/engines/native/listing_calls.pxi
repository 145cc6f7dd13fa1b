# The calls of a store that say of objects what they are and whose.

from libc.stdint cimport uint16_t, uint64_t

from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.view cimport View
from refstore.engines.native.names cimport Found
from refstore.engines.native.owners cimport give_pinned, note_owner
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry


cdef class ListingCalls(ObjectCalls):
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
