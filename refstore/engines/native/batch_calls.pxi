# The calls of a store on many objects at once.

from libc.stdint cimport uint64_t

from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.layout cimport COUNT_GETS
from refstore.engines.native.view cimport count, View
from refstore.engines.native.names cimport Found, Name
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.sleeping cimport deadline_ns


cdef class BatchCalls(ListingCalls):
    def get_many(self, keys, *, timeout=0, writable=False):
        cdef:
            list asked = listed(keys)
            Attachment att = self.use()
            list bufs = [None] * len(asked)
        deadline_ns(timeout)
        self.pin_all(att, asked, bufs)
        if writable is not False and writable:
            for buf in bufs:
                (<PinnedBuffer>buf).go_private()
        return bufs

    cdef int pin_all(self, Attachment att, list keys, list bufs) except -1:
        # If this fails, what is pinned goes with `bufs`.
        cdef:
            View *v = &att.view
            Py_ssize_t k, n = len(keys)
            PinnedBuffer buf
            Found found
            uint64_t since = 0
            int got
        for k in range(n):
            buf = PinnedBuffer.__new__(PinnedBuffer)
            got = self.pin_key(att, keys[k], &found)
            while got < 0:
                if not may_retry(v, &got, &since):
                    recover_blocker_of(v, got)
                    raise get_error(v, got, keys[k], is_foreign(v, keys[k]))
                got = self.pin_key(att, keys[k], &found)
            bufs[k] = buf
            if adopt_pin(buf, att, found.slot, found.generation).order != c'C':
                bufs[k] = as_direct(buf)
            if got > 0:
                recover_blocker_if_dead(v, got)
        count(v, COUNT_GETS, <uint64_t>n)
        return 0

    def delete_many(self, keys):
        cdef:
            list asked = listed(keys)
            Attachment att = self.use()
            View *v = &att.view
            Name name
            uint64_t n = 0
            int got
        for key in asked:
            if type(key) is not ObjectRef:
                read_name(v, key, &name, True)      # raises before anything is deleted
        for key in asked:
            got = self.remove_one(v, key)
            if got >= 0:
                n += 1
            elif kind_of_error(got) != ERR_NOT_FOUND:
                raise get_error(v, got, key, False)
        return n


cdef list listed(object keys):
    if isinstance(keys, (str, ObjectRef)):
        raise TypeError(f"keys is one {type(keys).__name__}: give a list of refs and names")
    return list(keys)


cdef class Engine(BatchCalls):
    """The native engine: what `refstore.Store` is, less what needs no speed."""
