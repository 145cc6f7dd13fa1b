# The calls of a store on many objects at once.

from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport unlikely
from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.layout cimport COUNT_GETS
from refstore.engines.native.view cimport count, View
from refstore.engines.native.slots cimport pin
from refstore.engines.native.names cimport Found, Name, read_name
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.sleeping cimport deadline_ns
from refstore.engines.native.put cimport Draft, prepare

from refstore._arguments import (
    listed_keys, listed_objects, names_for, require_distinct,
)


cdef class BatchCalls(ListingCalls):
    def put_many(self, objs, *, names=None, replace=False, timeout=0, owned=False, evictable=None):
        cdef:
            Attachment att = self.use()
            uint64_t life = att.view.life
            bint replaces = replace         # early: it may be anything
            list asked = listed_objects(objs)
            list told = names_for(len(asked), names)
            Batch batch = Batch.__new__(Batch)
            Draft terms
        prepare(&att.view, &terms)
        terms.is_closed = &self.is_closed
        read_terms(&terms, timeout, owned, evictable, NO_META)
        batch.hold(att, asked)
        if told is not None:
            batch.read_names(told)
            require_distinct(told)
        python_ran(&att.view, life, "listing objects")
        batch.measure_all()
        batch.begin_all(&terms)
        batch.describe_all(&terms)
        batch.copy_all()
        refs = batch.refs()             # nothing may fail between the seals and the return
        try:
            batch.publish_all(&terms, refs, replaces)
        finally:
            if terms.owned:
                att.delete_unless_open()
        return refs

    def get_many(self, keys, *, timeout=0, writable=False):
        cdef:
            Attachment att = self.use()
            uint64_t life = att.view.life
            list asked = listed_keys(keys, ObjectRef)
            list bufs = [None] * len(asked)
            uint64_t deadline = deadline_ns(timeout)
            Py_ssize_t missing
        python_ran(&att.view, life, "listing keys")
        missing = self.pin_all(att, asked, bufs, deadline != 0)
        while missing >= 0:             # nothing is pinned while this waits for it
            self.require_refs(att, asked)
            bufs = [None] * len(asked)
            self.await_name(att, asked[missing], deadline, timeout)
            missing = self.pin_all(att, asked, bufs, True)
        if writable is not False and writable:
            for buf in bufs:
                (<PinnedBuffer>buf).go_private()
        return bufs

    cdef int require_refs(self, Attachment att, list keys) except -1:
        # a ref is never waited for
        for key in keys:
            if type(key) is ObjectRef and key not in self:
                raise key_error(att, key, ERR_NOT_FOUND)
        return 0

    cdef int await_name(self, Attachment att, object name, uint64_t deadline,
                        object timeout) except -1:
        cdef Found found, known = nothing_known()
        cdef PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
        cdef int got = self.await_object(att, f"get_many() of {name!r}", name, &known, &found,
                                         deadline, timeout)
        adopt_pin(buf, att, found.slot, found.generation)
        if got > 0:
            recover_blocker_if_dead(&att.view, got)
        return 0

    cdef Py_ssize_t pin_all(self, Attachment att, list keys, list bufs, bint waits) except -2:
        # -1, or the first that is missing, if it is a name that is waited for. If this fails, what
        # is pinned goes with `bufs`.
        cdef:
            View *v = &att.view
            Py_ssize_t k, n = len(keys)
            PinnedBuffer buf
            Found found
            uint64_t since = 0
            int got
        for k in range(n):
            key = keys[k]
            buf = PinnedBuffer.__new__(PinnedBuffer)
            if type(key) is ObjectRef and (<ObjectRef>key).tag == v.tag:
                found.slot = (<ObjectRef>key).slot
                found.generation = (<ObjectRef>key).generation
                got = pin(v, found.slot, found.generation)
            else:
                got = self.pin_key(att, key, &found)
            while unlikely(got != 0):
                if got > 0:
                    recover_blocker_if_dead(v, got)
                    break
                if not may_retry(v, &got, &since):
                    recover_blocker_of(v, got)
                    if waits and kind_of_error(got) == ERR_NOT_FOUND and type(key) is not ObjectRef:
                        return k
                    raise get_error(v, got, key, is_foreign(v, key))
                got = self.pin_key(att, key, &found)
            adopt_pin(buf, att, found.slot, found.generation)
            if v.slots[found.slot].order != c'C':
                buf = as_direct(buf)
            bufs[k] = buf
        count(v, COUNT_GETS, <uint64_t>n)
        return -1

    def delete_many(self, keys):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t life = v.life
            list asked = listed_keys(keys, ObjectRef)
            Name name
            uint64_t n = 0
            int got
        python_ran(v, life, "listing keys of what goes")
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


cdef class Engine(BatchCalls):
    """The native engine: what `refstore.Store` is, less what needs no speed."""
