# The calls of a store that wait for objects that other processes publish.

from libc.stdint cimport int64_t, uint64_t

from refstore.engines.native.view cimport View
from refstore.engines.native.waiting cimport NAP_MS
from refstore.engines.native.names cimport Found
from refstore.engines.native.stripes cimport see_changes
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.sleeping cimport deadline_ns, sleep_on_names

from refstore import _waiting_messages
from refstore._arguments import checked_count, listed_names


cdef class WaitingCalls(ObjectCalls):
    def wait(self, name, *, newer_than=None, timeout=None):
        cdef:
            Attachment att = self.use()
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
            uint64_t deadline = deadline_ns(timeout)
            Found found, known = nothing_known()
            int got
        if newer_than is not None:
            read_known(&att.view, newer_than, &known)
        got = self.await_object(att, f"wait({name!r})", name, &known, &found, deadline, timeout)
        return as_direct(buf) if take_over(buf, att, &found, got) else buf

    def wait_any(self, names, *, count=1, timeout=None):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t life = v.life
            uint64_t since = 0
            uint64_t deadline = deadline_ns(timeout)
            list asked = listed_names(names)
            int64_t found, wanted = checked_count(count, asked)
            NamesAsked all_names = NamesAsked(asked)
        python_ran(v, life, "listing names")
        all_names.read(v)
        while True:
            see_changes(v, &all_names.stripes, NAP_MS)
            found = all_names.look(v)
            if found < 0:
                raise get_error(v, <int>found, asked[0], False)
            if found >= wanted:
                return all_names.ready()
            if not sleep_on_names(v, life, &all_names.stripes, deadline, &since,
                                  f"wait_any() of {len(asked)} names"):
                raise _waiting_messages.not_enough(att.path, all_names.ready(), wanted, len(asked),
                                                   timeout)
            self.use()              # as above

    def _watch(self):
        return new_watch(self.use())


cdef int read_known(View *v, object newer_than, Found *known) except -1:
    # An object of another store is older than all of this one.
    if type(newer_than) is not ObjectRef:
        raise _waiting_messages.no_version(newer_than)
    if (<ObjectRef>newer_than).tag == v.tag:
        known.slot = (<ObjectRef>newer_than).slot
        known.generation = (<ObjectRef>newer_than).generation
    return 0
